"""A real registry that is killed in the middle of a blob, and started again."""

from __future__ import annotations

import time

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import digest_of, push_image
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import Process, needs, place, until

_MIB = 1 << 20
#: Seconds for which the registry is away.
_AWAY = 8


@needs("docker-registry", "curl", "skopeo")
class RetryForTests(SynchronousTestCase):
    """The registry is restarted under running pulls."""

    def setUp(self) -> None:
        """An origin with an image, at the far end of a network link on which its layer takes long."""
        self.origin = Origin(self)
        self.image = push_image(self.origin, "org/app", "1", layers=(24 * _MIB,))
        self.digest = max(self.image.blobs(), key=lambda blob: blob.size).digest
        self.line = CountingProxy(self, self.origin.port)

    def restart_under_pulls(self, **more: object) -> ContentCache:
        """Two curls and skopeo pull; the registry is killed and started again; all get everything, once."""
        options = {"retryfor": "60s", **more}
        cache = ContentCache(self, self.line.url, options=options)
        self.line.rate = 2e6
        folder = place(self) / "copied"
        reference = f"docker://{self.image.reference(cache.host)}"
        argv = ["skopeo", "copy", "--src-tls-verify=false", "--src-no-creds", reference, f"dir:{folder}"]
        skopeo = Process(self, argv, name="skopeo")
        until(lambda: cache.metric("contentcache_received_bytes_total") > _MIB, "the first MiB")
        curl = Curl(self)
        url = f"{cache.url}/v2/org/app/blobs/{self.digest}"
        running = [curl.start(url), curl.start(url)]
        for one in running:
            until(lambda one=one: one.received() > _MIB, "a part of the blob")  # type: ignore[misc]
        self.origin.process.kill9()
        self.line.refuse()
        cache.wait_for_log("download waits for upstream")
        started = time.monotonic()
        until(lambda: time.monotonic() > started + _AWAY, "the end of the outage")
        self.origin.restart()
        self.line.rate = None
        self.line.restore()
        for one in running:
            fetched = one.result()
            self.assertEqual((fetched.status, fetched.ended), (200, 0))
            self.assertEqual(digest_of(fetched.body.read_bytes()), self.digest)
        self.assertEqual(skopeo.wait(), 0, skopeo.log())
        self.assertEqual(digest_of((folder / self.digest.partition(":")[2]).read_bytes()), self.digest)
        cache.wait_for_log("download goes on")
        return cache

    def assert_once(self, cache: ContentCache) -> None:
        """Each byte of the blob was received once, in two answers."""
        cache.wait_stored(self.digest)
        asked = [one.headers.get("range", "all") for one in self.line.asked(self.digest, "GET")]
        self.assertEqual((asked[0], len(asked)), ("all", 2))
        received = sum(
            value
            for name, value in cache.metrics().items()
            if name.startswith("contentcache_received_bytes_total") and 'kind="blobs"' in name
        )
        self.assertEqual(received, sum(blob.size for blob in self.image.blobs()))

    def test_restart(self) -> None:
        """All clients complete, and each byte was received once."""
        self.assert_once(self.restart_under_pulls())

    def test_restart_with_two_workers(self) -> None:
        """The same where clients are at another worker than the download."""
        self.workers = 2
        self.assert_once(self.restart_under_pulls())

    def test_without_room(self) -> None:
        """The same where nothing can be stored and each client's blob passes through."""
        cache = self.restart_under_pulls(maxsize=_MIB)
        self.assertFalse(cache.stored(self.digest))
