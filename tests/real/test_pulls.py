"""Stock clients through the cache: cold, warm, and what each pull costs the origin."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from contentcache.delivery.possession import SAMPLE, SMALL
from tests.real.cache import ContentCache
from tests.real.clients import Containerd, Dockerd, Podman, manifest_in, skopeo_copy
from tests.real.images import Image, Index, digest_of, push_image, push_index
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import needs, place

#: A request and an answer without a body, heads included.
FEW_HUNDRED_BYTES = 1500


class PullCase(SynchronousTestCase):
    """An origin, a line that counts, and a cache."""

    def setUp(self) -> None:
        """Start them."""
        self.origin = Origin(self)
        self.line = CountingProxy(self, self.origin.port)
        self.cache = ContentCache(self, self.line.url)

    def check_client(self, client: Podman | Dockerd) -> None:
        """An image, an index and sha512 layers arrive, the second time from the cache."""
        for pushed in (
            push_image(self.origin, "org/app"),
            push_index(self.origin, "org/index", seed=2),
            push_image(self.origin, "org/mixed", algorithm="sha512", config_algorithm="sha256", seed=1),
        ):
            reference = pushed.reference(self.cache.host)

            def pull(reference: str = reference, digest: str = pushed.digest) -> None:
                client.pull(reference)
                self.assertEqual(client.digest(reference), digest)
                client.remove(reference)

            self.check_cold_and_warm(pull, pushed)

    def questions(self) -> int:
        """What a warm pull may cost: each further worker asks for itself whether the client may come in."""
        return 1 + 2 * (self.cache.workers - 1)

    def check_cold_and_warm(self, pull: Callable[[], None], pushed: Image | Index) -> None:
        """A first pull brings every blob once; a second one costs at most one request without a body."""
        images = [pushed] if isinstance(pushed, Image) else list(pushed.images.values())[:1]
        blobs = {blob.digest for image in images for blob in image.blobs()}
        pull()
        for digest in blobs:
            self.cache.wait_stored(digest)
            fetched = self.line.asked(f"/blobs/{digest}", "GET")
            self.assertEqual(len(fetched), 1, digest)
        self.line.forget()
        pull()
        asked = self.line.asked()
        self.assertLessEqual(len(asked), self.questions(), asked)
        self.assertLess(sum(request.total for request in asked), FEW_HUNDRED_BYTES)
        self.assertEqual(self.line.asked("/blobs/"), [])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertNotIn("Traceback", self.cache.log())


@needs("docker-registry", "skopeo")
class SkopeoTests(PullCase):
    """skopeo."""

    def pull(self, pushed: Image | Index, *, everything: bool = False) -> None:
        """Copy into a fresh folder, and compare the manifest: of an index that of this machine's image."""
        folder = place(self)
        skopeo_copy(pushed.reference(self.cache.host), folder, everything=everything)
        one = pushed.images["amd64"] if isinstance(pushed, Index) and not everything else pushed
        self.assertEqual(digest_of(manifest_in(folder)), one.digest)

    def test_image(self) -> None:
        """Images of either vocabulary arrive, the second time from the cache."""
        oci = push_image(self.origin, "org/oci", layers=(300_000, 5_000))
        self.check_cold_and_warm(lambda: self.pull(oci), oci)
        docker = push_image(self.origin, "org/docker", media="docker", seed=1)
        self.check_cold_and_warm(lambda: self.pull(docker), docker)

    def test_index(self) -> None:
        """An index arrives with the image for this machine, and with all images."""
        index = push_index(self.origin, "org/index")
        self.check_cold_and_warm(lambda: self.pull(index), index)
        self.pull(index, everything=True)
        self.line.forget()
        self.pull(index, everything=True)
        self.assertLessEqual(len(self.line.asked()), self.questions())

    def test_sha512(self) -> None:
        """Blobs with sha512 digests are fetched, verified, stored and served under them."""
        image = push_image(self.origin, "org/app", algorithm="sha512", config_algorithm="sha256")

        def pull() -> None:
            archive = place(self) / "image.tar"
            skopeo_copy(image.reference(self.cache.host), f"docker-archive:{archive}")
            self.assertGreater(archive.stat().st_size, 20_000)

        self.check_cold_and_warm(pull, image)

    def test_moved_tag(self) -> None:
        """A tag that moved at the origin is seen by the very next pull."""
        first = push_image(self.origin, "org/app", seed=1)
        self.pull(first)
        second = push_image(self.origin, "org/app", seed=2)
        self.assertNotEqual(first.digest, second.digest)
        self.pull(second)
        self.pull(second)

    def test_warm_directory(self) -> None:
        """
        A directory that a registry has filled is a warm cache: its blobs are hashed once and not downloaded.
        The origin proves once that it has each of them: by a sample, or by a whole small one.
        """
        image = push_image(self.origin, "org/app", layers=(200_000,))
        self.origin.process.stop()
        cache = ContentCache(self, self.line.url, root=self.origin.root)
        self.origin.process = self.origin._start(self.origin.port)
        self.line.forget()
        for _ in range(2):
            folder = place(self)
            skopeo_copy(image.reference(cache.host), folder)
        self.assertEqual(digest_of(manifest_in(folder)), image.digest)
        proofs = self.line.asked("/blobs/", "GET")
        self.assertEqual(len({proof.path for proof in proofs}), len(proofs))
        for proof in proofs:
            self.assertLess(proof.received, max(SAMPLE, SMALL))


@needs("docker-registry", "podman", root=True)
class PodmanTests(PullCase):
    """podman."""

    def test_pulls(self) -> None:
        """Images, an index and sha512 layers arrive, the second time from the cache."""
        self.check_client(Podman(self))


@needs("docker-registry", "dockerd", "docker", root=True)
class DockerTests(PullCase):
    """dockerd."""

    def test_pulls(self) -> None:
        """Images, an index and sha512 layers arrive, the second time from the cache."""
        self.check_client(Dockerd(self, insecure=[self.cache.host]))


@needs("docker-registry", "containerd", "ctr", root=True)
class ContainerdTests(PullCase):
    """containerd with ``ctr`` and a ``hosts.toml``, which names the origin by ``?ns=``."""

    NAMESPACE = "registry.example.com"

    def setUp(self) -> None:
        """The cache has two origins; the second one is what the namespace means."""
        self.other = Origin(self)
        self.origin = Origin(self)
        self.line = CountingProxy(self, self.origin.port)
        self.cache = ContentCache(
            self, [self.other.url, {"originhost": self.line.url, "names": [self.NAMESPACE]}]
        )
        self.containerd = Containerd(self)
        self.containerd.mirror(self.NAMESPACE, self.cache.url)

    def test_pulls(self) -> None:
        """An image and an index of the origin that is meant arrive, the second time from the cache."""
        for pushed in (push_image(self.origin, "org/app"), push_index(self.origin, "org/index", seed=2)):
            reference = pushed.reference(self.NAMESPACE)

            def pull(reference: str = reference, digest: str = pushed.digest) -> None:
                self.containerd.pull(reference)
                self.assertEqual(self.containerd.digest(reference), digest)
                self.containerd.remove(reference)

            self.check_cold_and_warm(pull, pushed)
        self.assertEqual([line for line in self.other.requests() if line.uri.startswith("/v2/org")], [])

    def test_unknown_namespace(self) -> None:
        """A namespace that is not configured is refused with a sentence, and asked of nobody."""
        self.containerd.mirror("elsewhere.example.com", self.cache.url)
        done = self.containerd.pull("elsewhere.example.com/org/app:latest", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(self.line.asked("/v2/org"), [])
