"""Parts of cold blobs: lazy-pulling snapshotters, containerd's parallel fetch, resumed downloads."""

from __future__ import annotations

import http.client
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import digest_of, push_blob, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import needs, until

_MIB = 1 << 20


@needs("docker-registry", "curl")
class PartTests(SynchronousTestCase):
    """A blob of 64 MiB at the far end of a line that counts."""

    def setUp(self) -> None:
        """Start origin, line and cache."""
        self.origin = Origin(self)
        self.line = CountingProxy(self, self.origin.port)
        self.cache = ContentCache(self, self.line.url)
        self.content = random_bytes(64 * _MIB, "parts")
        self.digest = push_blob(self.origin, "org/app", self.content)
        self.path = f"/v2/org/app/blobs/{self.digest}"
        self.line.forget()

    def part(self, wanted: str, length: int) -> bytes:
        """Ask for a range, read ``length`` bytes of the answer, and hang up."""
        connection = http.client.HTTPConnection(self.cache.host, timeout=60)
        try:
            connection.request("GET", self.path, headers={"Range": wanted})
            answer = connection.getresponse()
            self.assertEqual(answer.status, 206)
            return answer.read(length)
        finally:
            connection.close()

    def test_chunks_at_once(self) -> None:
        """
        Eight at a time ask for the rest of the blob from their chunk on and hang up after it: every byte is
        right, and crosses the line about once.
        """
        chunk = 4 * _MIB
        starts = range(0, len(self.content), chunk)
        with ThreadPoolExecutor(8) as pool:
            chunks = pool.map(lambda start: self.part(f"bytes={start}-", chunk), starts)
        self.assertEqual(digest_of(b"".join(chunks)), self.digest)
        until(lambda: self.cache.stored(self.digest), "the blob in the store")
        self.assertLess(self.line.received, len(self.content) * 1.15)

    def test_far_ahead(self) -> None:
        """Small parts far ahead of a slow fetch are answered long before it gets there, from few bytes."""
        self.line.rate = 2e6
        whole = Curl(self).start(f"{self.cache.url}{self.path}")
        until(lambda: whole.received() > 0, "its first bytes")
        for start in range(30 * _MIB, 60 * _MIB, 3 * _MIB):
            self.assertEqual(
                self.part(f"bytes={start}-{start + 999}", 1000), self.content[start : start + 1000]
            )
        self.assertEqual(self.part("bytes=-100", 100), self.content[-100:])
        self.assertLess(whole.received(), 30 * _MIB)
        self.line.rate = None
        self.assertEqual(digest_of(whole.result().body.read_bytes()), self.digest)
        self.assertLess(self.line.received, len(self.content) * 1.2)

    def test_only_what_is_asked_for(self) -> None:
        """Of a blob that nobody fetches whole little more than the parts crosses the line, each once."""
        for _ in range(2):
            for start in (50 * _MIB, 20 * _MIB, 63 * _MIB):
                self.assertEqual(
                    self.part(f"bytes={start}-{start + 9999}", 10_000), self.content[start : start + 10_000]
                )
        self.assertLess(self.line.received, 100_000)
        self.assertFalse(self.cache.stored(self.digest))

    def test_resumed(self) -> None:
        """A download that is resumed in the middle, on a cold cache, gets the rest."""
        start = 40 * _MIB + 12_345
        rest = self.part(f"bytes={start}-", len(self.content))
        self.assertEqual(rest, self.content[start:])

    def test_killed_with_holes(self) -> None:
        """A daemon that is killed while the file has holes never takes a hole for content."""
        self.line.rate = 20e6
        whole = Curl(self).start(f"{self.cache.url}{self.path}")
        until(lambda: whole.received() > 4 * _MIB, "a part of it")
        self.part(f"bytes={50 * _MIB}-{50 * _MIB + 99_999}", 100_000)
        self.cache.kill9()
        self.line.rate = None
        self.cache.start()
        fetched = Curl(self).fetch(f"{self.cache.url}{self.path}")
        self.assertEqual((fetched.status, fetched.ended), (200, 0))
        self.assertEqual(digest_of(fetched.body.read_bytes()), self.digest)
