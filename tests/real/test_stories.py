"""
Ten failures of a pull, made with real clients: what the client shows, the one line of the log, and the metric by
which an operator finds the cause.

They are the table of ``docs/troubleshooting.rst``: its words are looked for in what the programs say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.certificates import Authority
from tests.real.clients import Containerd, Curl, Dockerd, Podman, skopeo_copy
from tests.real.images import Image, push_image
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import ROOT, needs, place, run, until
from tests.real.unruly import Unruly

_LARGE = 3_000_000
_LITERAL = re.compile(r"``([^`]+)``")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def table() -> Mapping[str, Sequence[Sequence[str]]]:
    """The rows of the table by their first cell: the literals of each further cell."""
    text = (ROOT / "docs" / "troubleshooting.rst").read_text("utf-8")
    whole, _, _ = text.partition(".. list-table::")[2].partition("\n\n\n")
    rows = [row.split("\n     - ") for row in whole.split("\n   * - ")[2:]]
    return {row[0].strip(): [_LITERAL.findall(" ".join(cell.split())) for cell in row[1:]] for row in rows}


class StoryTestCase(SynchronousTestCase):
    """An origin with an image, a cache before it, and what the operator's page says of a failure."""

    #: How the row of the table begins.
    row = ""

    def begin(self, upstream: Any, **more: Any) -> None:
        """Start a cache that logs as it does unless it is told otherwise."""
        self.cache = ContentCache(self, upstream, log={"level": "info"}, **more)
        self.before = self.cache.metrics()

    def push(self, **more: Any) -> Image:
        """An origin with one image, and nothing that others have."""
        self.origin = Origin(self, **more)
        return push_image(self.origin, "org/app", layers=(_LARGE,), seed=self.id())

    def assert_found(self, shown: str, *fields: str) -> None:
        """
        The client has ``shown`` what the table says, and so does one line of the log, which has these
        ``fields`` too; and the metric has grown.
        """
        (client, line, (metric,), _remedy) = next(
            cells for what, cells in table().items() if what.startswith(self.row)
        )
        for words in client:
            self.assertIn(words, shown)

        def has_line() -> bool:
            lines = self.cache.log().splitlines()
            return any(all(part in each for part in (*line, *fields)) for each in lines)

        self.cache.process.wait_until(has_line, f"a line with {line} and {fields}")
        self.cache.process.wait_until(lambda: self.grown(metric) > 0, f"{metric} to grow")
        self.assertNotIn("Traceback", self.cache.log())

    def grown(self, metric: str) -> float:
        """By how much the samples of a metric with these labels have grown."""
        name, _, labels = metric.partition("{")
        wanted = set(_LABEL.findall(labels))

        def total(samples: Mapping[str, float]) -> float:
            named = [one for one in samples if one.partition("{")[0] == name]
            return sum(samples[one] for one in named if wanted <= set(_LABEL.findall(one)))

        return total(self.cache.metrics()) - total(self.before)


@needs("docker-registry", "skopeo", "podman", "curl", "htpasswd")
class PullStoryTests(StoryTestCase):
    """Clients without a daemon."""

    def test_name(self) -> None:
        """The upstream's name cannot be resolved."""
        self.row = "The upstream's name"
        self.begin("http://registry.invalid")
        pulled = skopeo_copy(f"{self.cache.host}/org/app:latest", place(self) / "image", check=False)
        self.assert_found(pulled.stderr, "upstream=http://registry.invalid ", "registry.invalid")

    @needs("podman", root=True)
    def test_authority(self) -> None:
        """The upstream's certificate is signed by an authority that is not in ``cas``."""
        self.row = "The upstream's authority"
        authority = Authority(place(self))
        image = self.push(tls=authority.leaf("127.0.0.1"), authority=authority)
        self.begin(self.origin.url)
        pulled = Podman(self).pull(image.reference(self.cache.host), check=False)
        self.assert_found(pulled.stderr, f"upstream={self.origin.url} ", "certificate of 127.0.0.1")

    def test_client_leaves(self) -> None:
        """A client is stopped in the middle of a blob."""
        self.row = "A client leaves"
        image = self.push()
        self.begin(CountingProxy(self, self.origin.port, rate=1e6).url)
        digest = image.layers[0].digest
        running = Curl(self).start(f"{self.cache.url}/v2/org/app/blobs/{digest}")
        until(lambda: running.received() > 0, "the first bytes")
        running.process.stop()
        self.assert_found(running.process.log(), f"digest={digest}", "repository=org/app", "client=127.0.0.1")

    def test_larger_than_maxsize(self) -> None:
        """A blob is larger than ``maxsize``: its pulls succeed, and none is stored."""
        self.row = "A blob is larger"
        image = self.push()
        self.begin(self.origin.url, options={"maxsize": "1MB", "minfree": 0})
        pulled = skopeo_copy(image.reference(self.cache.host), place(self) / "image")
        layer = image.layers[0]
        self.assert_found(
            pulled.stderr, f"digest={layer.digest} ", "repository=org/app", f"bytes={layer.size}", "(1MB)"
        )
        self.assertEqual(self.grown("contentcache_store_write_errors_total"), 0)

    def test_password(self) -> None:
        """The client's password is wrong, which the origin says and not the cache."""
        self.row = "The password"
        image = self.push(users={"ann": "right"})
        self.begin(self.origin.url)
        reference = image.reference(self.cache.host)
        pulled = skopeo_copy(reference, place(self) / "image", creds="ann:wrong", check=False)
        self.assert_found(pulled.stderr, f"upstream={self.origin.url} ", "repository=org/app")
        self.assertNotIn("wrong", self.cache.log())

    def test_own_password(self) -> None:
        """The password of the cache's own account is wrong: the same line says so."""
        image = self.push(users={"ann": "right"})
        self.begin({"originhost": self.origin.url, "username": "ann", "password": "not-it", "public": True})
        skopeo_copy(image.reference(self.cache.host), place(self) / "image", check=False)
        said = rf"password refused by upstream upstream={self.origin.url} repository=\S+ account=own"
        self.cache.wait_for_log(re.compile(said))
        self.assertNotIn("not-it", self.cache.log())

    def test_local_password(self) -> None:
        """With a section ``auth`` the access line of the refusal names the account; the origin is not asked."""
        image = self.push()
        users = place(self) / "htpasswd"
        users.write_text(run(["htpasswd", "-nbB", "-C", "4", "ann", "right"]).stdout, "utf-8")
        auth = {"auth": {"htpasswd": {"realm": "cache", "path": str(users)}}}
        self.begin({"originhost": self.origin.url, "public": True}, settings=auth)
        reference = image.reference(self.cache.host)
        skopeo_copy(reference, place(self) / "image", creds="ann:wrong", check=False)
        self.cache.wait_for_log(
            re.compile(r'^\S+ - ann \[[^]]+\] "GET /v2/[^"]*" 401 .* upstream=', re.MULTILINE)
        )
        skopeo_copy(reference, place(self) / "image", creds="ann:right")

    def test_evicted(self) -> None:
        """An image is evicted for another one, and pulled again."""
        self.row = "A blob was pulled lately"
        image = self.push()
        other = push_image(self.origin, "org/other", layers=(_LARGE,), seed=f"{self.id()} other")
        options = {"maxsize": "5MB", "minfree": 0, "sweepinterval": "1s"}
        self.begin(self.origin.url, options=options, workers=1)
        for one, evicted in ((image, other), (other, image), (image, other)):
            pulled = skopeo_copy(one.reference(self.cache.host), place(self) / "image")
            self.cache.wait_stored(one.layers[0].digest)
            self.assertFalse(self.cache.stored(evicted.layers[0].digest))
        digest = image.layers[0].digest
        self.assert_found(
            pulled.stderr, f"digest={digest} ", "repository=org/app", f"bytes={image.layers[0].size}"
        )
        self.cache.wait_for_log(re.compile(rf'blobs/{digest} .* cache="fwd=miss'), times=2)


@needs("docker-registry", "containerd", "ctr", "dockerd", "docker", "unshare", "mount", root=True)
class DaemonStoryTests(StoryTestCase):
    """Clients that are daemons, and a disk of its own."""

    def test_origin_dies(self) -> None:
        """The origin breaks off in the middle of a blob, and does not come back."""
        self.row = "The origin dies"
        image = self.push()
        link = CountingProxy(self, self.origin.port, rate=2e6)
        self.begin({"originhost": link.url, "names": ["registry.example.com"]}, options={"retryfor": "1s"})
        containerd = Containerd(self)
        containerd.mirror("registry.example.com", self.cache.url)
        link.refuse_after(1_000_000)
        pulled = containerd.pull("registry.example.com/org/app:latest", check=False)
        self.assertNotEqual(pulled.returncode, 0)
        digest = image.layers[0].digest
        self.assert_found(pulled.stderr, f"digest={digest} ", "repository=org/app", f"upstream={link.url}")

    def test_unknown_namespace(self) -> None:
        """A ``hosts.toml`` leads to a cache that has no such upstream."""
        self.row = "A registry that is not configured"
        self.push()
        self.begin({"originhost": self.origin.url, "names": ["docker.io"]})
        containerd = Containerd(self)
        containerd.mirror("quay.io", self.cache.url)
        pulled = containerd.pull("quay.io/org/app:latest", check=False)
        self.assert_found(pulled.stdout + pulled.stderr, "repository=org/app", "client=127.0.0.1")

    def test_rate_limit(self) -> None:
        """The upstream answers 429."""
        self.row = "The upstream's rate limit"
        upstream = Unruly(self, b"")
        upstream.misbehave("status", path="*", status=429, retry_after=600)
        self.begin(upstream.url)
        pulled = Containerd(self).pull(f"{self.cache.host}/org/app:latest", plain=True, check=False)
        self.assert_found(pulled.stderr, f"upstream={upstream.url} ", "repository=org/app")

    def test_full_disk(self) -> None:
        """The disk has room for the manifest and not for the layer: docker gets its image all the same."""
        self.row = "The disk is full"
        image = self.push()
        folder = place(self)
        mount = f'mount -t tmpfs -o size=2m tmpfs "{folder}" && exec "$0" "$@"'
        wrapper = ("unshare", "--mount", "sh", "-c", mount)
        self.begin(self.origin.url, options={"minfree": 0}, root=folder / "root", wrapper=wrapper)
        dockerd = Dockerd(self)
        pulled = dockerd.pull(image.reference(self.cache.host))
        layer = image.layers[0]
        self.assert_found(
            pulled.stderr, f"digest={layer.digest} ", "repository=org/app", f"bytes={layer.size}"
        )


class TableTests(SynchronousTestCase):
    """The operator's page."""

    def test_every_row_is_a_story(self) -> None:
        """Each row of the table has words to look for, a metric, and the test above that has it."""
        source = (ROOT / "tests" / "real" / "test_stories.py").read_text("utf-8")
        stories = re.findall(r'self\.row = "(.+)"', source)
        rows = table()
        self.assertEqual(len(rows), 10)
        for what, (_client, line, metric, _remedy) in rows.items():
            self.assertTrue(line, what)
            self.assertEqual(len(metric), 1, what)
            self.assertEqual(sum(what.startswith(story) for story in stories), 1, what)
