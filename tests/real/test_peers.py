"""The harness itself, on bare peers: each client pulls from docker-registry with nothing between."""

from __future__ import annotations

import signal
import socket
import time
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.certificates import Authority
from tests.real.clients import Containerd, Curl, Dockerd, Podman, manifest_in, skopeo_copy
from tests.real.images import Media, digest_of, push_blob, push_image, push_index, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import needs, place, status_of, until
from tests.real.tokens import ANONYMOUS, TokenServer

_VOCABULARIES: Final[tuple[Media, ...]] = ("oci", "docker")


@needs("docker-registry", "skopeo")
class SkopeoTests(SynchronousTestCase):
    """skopeo from the bare origin."""

    def test_images(self) -> None:
        """An image of either vocabulary arrives with its manifest and its blobs unchanged."""
        origin = Origin(self)
        for media in _VOCABULARIES:
            image = push_image(origin, f"org/{media}", "1", media=media, seed=media)
            folder = place(self)
            skopeo_copy(image.reference(origin.host), folder)
            self.assertEqual(digest_of(manifest_in(folder)), image.digest)
            for blob in image.blobs():
                content = (folder / blob.digest.partition(":")[2]).read_bytes()
                self.assertEqual(digest_of(content), blob.digest)

    def test_index(self) -> None:
        """All images of an index arrive."""
        origin = Origin(self)
        index = push_index(origin, "org/app")
        folder = place(self)
        skopeo_copy(index.reference(origin.host), folder, everything=True)
        self.assertEqual(digest_of(manifest_in(folder)), index.digest)

    def test_sha512(self) -> None:
        """Blobs with sha512 digests arrive, in the one form in which skopeo keeps them."""
        origin = Origin(self)
        image = push_image(origin, "org/app", algorithm="sha512", config_algorithm="sha256")
        archive = place(self) / "image.tar"
        skopeo_copy(image.reference(origin.host), f"docker-archive:{archive}")
        self.assertGreater(archive.stat().st_size, 20_000)

    def test_password(self) -> None:
        """An origin with htpasswd serves its users, and nobody whom it has dropped."""
        origin = Origin(self, users={"ann": "secret"})
        image = push_image(origin, "org/app")
        reference = image.reference(origin.host)
        skopeo_copy(reference, place(self), creds="ann:secret")
        self.assertNotEqual(skopeo_copy(reference, place(self), check=False).returncode, 0)
        origin.set_users({"bob": "secret"})
        refused = skopeo_copy(reference, place(self), creds="ann:secret", check=False)
        self.assertIn("unauthorized", refused.stderr)

    def test_tokens(self) -> None:
        """An origin with a token server serves what the rules allow now, to whom they allow it."""
        tokens = TokenServer(self, users={"ann": "secret", "bob": "secret"})
        origin = Origin(self, tokens=tokens)
        image = push_image(origin, "org/app")
        public = push_image(origin, "public/app")
        tokens.allow("ann", "org/*")
        tokens.allow(ANONYMOUS, "public/*")
        reference = image.reference(origin.host)
        skopeo_copy(reference, place(self), creds="ann:secret")
        skopeo_copy(public.reference(origin.host), place(self))
        for creds in ("bob:secret", "ann:wrong", None):
            refused = skopeo_copy(reference, place(self), creds=creds, check=False)
            self.assertNotEqual(refused.returncode, 0, creds)
        tokens.revoke("ann")
        refused = skopeo_copy(reference, place(self), creds="ann:secret", check=False)
        self.assertIn("denied", refused.stderr)
        self.assertIn("ann", {request.account for request in tokens.requests})

    def test_tls(self) -> None:
        """An origin with a private authority serves whom that authority is named to."""
        folder = place(self)
        authority = Authority(folder)
        origin = Origin(self, tls=authority.leaf("127.0.0.1"), authority=authority)
        image = push_image(origin, "org/app")
        trusted = place(self)
        (trusted / "ca.crt").write_bytes(authority.path.read_bytes())
        reference = image.reference(origin.host)
        skopeo_copy(reference, place(self), tls_verify=True, cert_dir=trusted)
        refused = skopeo_copy(reference, place(self), tls_verify=True, check=False)
        self.assertIn("x509", refused.stderr)


@needs("docker-registry", "podman", root=True)
class PodmanTests(SynchronousTestCase):
    """podman from the bare origin."""

    def test_pulls(self) -> None:
        """Images, an index and sha512 layers arrive, again after their removal."""
        origin = Origin(self)
        podman = Podman(self)
        mixed = push_image(origin, "org/mixed", algorithm="sha512", config_algorithm="sha256", seed=1)
        for pushed in (push_image(origin, "org/app"), push_index(origin, "org/index", seed=2), mixed):
            reference = pushed.reference(origin.host)
            for _ in range(2):
                podman.pull(reference)
                self.assertEqual(podman.digest(reference), pushed.digest)
                podman.remove(reference)


@needs("docker-registry", "dockerd", "docker", root=True)
class DockerTests(SynchronousTestCase):
    """dockerd from the bare origin."""

    def test_pulls(self) -> None:
        """Images, an index and sha512 blobs arrive, again after their removal."""
        origin = Origin(self)
        docker = Dockerd(self)
        old = push_image(origin, "org/old", media="docker", seed=1)
        long = push_image(origin, "org/long", algorithm="sha512", seed=2)
        for pushed in (push_image(origin, "org/app"), old, push_index(origin, "org/index", seed=3), long):
            reference = pushed.reference(origin.host)
            for _ in range(2):
                docker.pull(reference)
                self.assertEqual(docker.digest(reference), pushed.digest)
                docker.remove(reference)

    def test_password(self) -> None:
        """docker logs in, and is refused once it has logged out."""
        origin = Origin(self, users={"ann": "secret"})
        image = push_image(origin, "org/app")
        docker = Dockerd(self)
        docker.login(origin.host, "ann", "secret")
        docker.pull(image.reference(origin.host))
        docker.logout(origin.host)
        docker.remove(image.reference(origin.host))
        self.assertNotEqual(docker.pull(image.reference(origin.host), check=False).returncode, 0)


@needs("docker-registry", "containerd", "ctr", root=True)
class ContainerdTests(SynchronousTestCase):
    """containerd from the bare origin, as a mirror of a made-up registry."""

    def test_pulls(self) -> None:
        """Images and an index arrive through ``hosts.toml``, with the namespace in every request."""
        origin = Origin(self)
        containerd = Containerd(self)
        containerd.mirror("registry.example", origin.url)
        for pushed in (push_image(origin, "org/app"), push_index(origin, "org/index", seed=2)):
            reference = pushed.reference("registry.example")
            for _ in range(2):
                containerd.pull(reference)
                self.assertEqual(containerd.digest(reference), pushed.digest)
                containerd.remove(reference)
        asked = [access.uri for access in origin.requests(agent="containerd")]
        self.assertTrue(asked)
        self.assertTrue(all("ns=registry.example" in uri for uri in asked), asked)
        fetched = [uri for uri in asked if "/blobs/" in uri]
        self.assertEqual(len(fetched), 2 * (3 + 2))

    def test_sha512(self) -> None:
        """containerd's store (1.6) knows sha256 digests only: it fetches a sha512 blob, and then refuses it."""
        origin = Origin(self)
        containerd = Containerd(self)
        containerd.mirror("registry.example", origin.url)
        image = push_image(origin, "org/app", algorithm="sha512")
        pulled = containerd.pull(image.reference("registry.example"), check=False)
        self.assertIn("unexpected commit digest", pulled.stderr)
        self.assertIn(200, {access.status for access in origin.requests() if "sha512:" in access.uri})


@needs("docker-registry", "curl")
class LineTests(SynchronousTestCase):
    """The line between two programs."""

    def setUp(self) -> None:
        """An origin with one blob, behind a line."""
        self.origin = Origin(self)
        self.content = random_bytes(4 << 20, "line")
        self.digest = push_blob(self.origin, "org/app", self.content)
        self.line = CountingProxy(self, self.origin.port)
        self.curl = Curl(self)
        self.path = f"/v2/org/app/blobs/{self.digest}"

    def test_counts(self) -> None:
        """Requests, and bytes both ways, are counted exactly, heads included."""
        fetched = self.curl.fetch(f"{self.line.url}{self.path}", "-H", "Authorization: Basic Og==")
        self.assertEqual((fetched.status, fetched.ended, fetched.size), (200, 0, len(self.content)))
        self.assertEqual(fetched.body.read_bytes(), self.content)
        (exchange,) = self.line.asked("/blobs/")
        self.assertEqual((exchange.method, exchange.path), ("GET", self.path))
        self.assertEqual(exchange.headers["authorization"], "Basic Og==")
        head = fetched.body.with_suffix(".head").stat().st_size
        self.assertEqual(exchange.received, head + len(self.content))
        self.assertEqual((exchange.sent, exchange.received), (self.line.sent, self.line.received))
        (logged,) = self.origin.requests()
        self.assertEqual((logged.method, logged.uri, logged.size), ("GET", self.path, len(self.content)))

    def test_two_requests_on_one_connection(self) -> None:
        """Each request of a connection gets the bytes of its own answer."""
        url = f"{self.line.url}{self.path}"
        self.curl.fetch(url, "-r", "0-99", "-o", "/dev/null", url)
        first, second = self.line.asked("/blobs/")
        self.assertEqual(self.line.connections, 1)
        self.assertLess(first.received, 1000)
        self.assertEqual(first.received + second.received, self.line.received)

    def test_rate(self) -> None:
        """A slow line is as slow as told, for all connections together."""
        self.line.rate = 8 * (1 << 20)
        began = time.monotonic()
        running = [self.curl.start(f"{self.line.url}{self.path}") for _ in range(4)]
        self.assertEqual({one.result().size for one in running}, {len(self.content)})
        self.assertGreater(time.monotonic() - began, 1.9)

    def test_cut(self) -> None:
        """A line that is cut after N bytes has passed exactly N, and serves the next connection."""
        self.line.cut_after(100_000)
        fetched = self.curl.fetch(f"{self.line.url}{self.path}")
        self.assertNotEqual(fetched.ended, 0)
        self.assertEqual(self.line.received, 100_000)
        self.assertEqual(self.curl.fetch(f"{self.line.url}{self.path}").ended, 0)

    def test_cut_under_a_client_that_takes_nothing(self) -> None:
        """A cut reaches a client whose buffers are full."""
        with socket.create_connection(("127.0.0.1", self.line.port), timeout=30) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(f"GET {self.path} HTTP/1.0\r\n\r\n".encode())
            until(lambda: self.line.received > 100_000, "an answer on its way")
            self.line.cut()
            with self.assertRaises(ConnectionResetError):
                while client.recv(1 << 20):
                    pass

    def test_stall(self) -> None:
        """A line that stalls passes nothing until it is restored."""
        self.line.stall()
        running = self.curl.start(f"{self.line.url}{self.path}")
        until(lambda: self.line.connections == 1, "a connection")
        self.assertEqual(running.received(), 0)
        self.line.restore()
        self.assertEqual(running.result().size, len(self.content))

    def test_refuse(self) -> None:
        """A line that refuses is a port where nobody listens, until it is restored."""
        self.line.refuse()
        self.assertIsNone(status_of(f"{self.line.url}/v2/"))
        self.line.restore()
        self.assertEqual(status_of(f"{self.line.url}/v2/"), 200)


@needs("docker-registry", "curl")
class CacheTests(SynchronousTestCase):
    """The daemon, as the harness starts it."""

    def test_life(self) -> None:
        """It starts, serves, stores, survives ``kill -9``, and ends by itself when it is asked to."""
        origin = Origin(self)
        digest = push_blob(origin, "org/app", random_bytes(300_000, "life"))
        line = CountingProxy(self, origin.port)
        cache = ContentCache(self, line.url)
        curl = Curl(self)
        url = f"{cache.url}/v2/org/app/blobs/{digest}"
        self.assertEqual(curl.fetch(url).size, 300_000)
        until(lambda: cache.stored(digest), "the blob in the store")
        cache.kill9()
        cache.start()
        line.forget()
        self.assertEqual(curl.fetch(url).size, 300_000)
        self.assertLess(line.received, 2000)
        self.assertGreater(cache.rss(), 1 << 20)
        self.assertEqual(cache.health(), 200)
        self.assertTrue(cache.metrics())
        cache.wait_for_log(digest)
        self.assertIn(cache.stop(), {0, -signal.SIGTERM})  # twistd may pass the signal on at its end
