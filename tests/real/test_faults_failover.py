"""Two ways to one origin before the real daemon, the first one of bad manners."""

from __future__ import annotations

import re
from contextlib import ExitStack

from tests.real.faulty import HALF, SIZE, FaultsTestCase, deaf
from tests.real.images import random_bytes
from tests.real.programs import free_port, needs, until
from tests.real.unruly import Unruly, blob_url

_SMALL = 3_000


@needs("curl")
class TwoHostsTests(FaultsTestCase):
    """Two ways to one origin, the first one of bad manners."""

    def test_goes_on_at_the_next(self) -> None:
        """Whichever breaks at whatever byte, the other goes on there in the same response."""
        cases = [(kind, at) for kind in ("reset", "short") for at in (-1, 0, 1, HALF, SIZE - 1)]
        cases.remove(("short", -1))
        self.build(2, len(cases))
        for number, (kind, at) in enumerate(cases):
            digest = self.upstream.digests[number]
            for host in self.hosts:
                host.misbehave(kind, digest, at=at, times=1)
            before = self.cache.metric("contentcache_received_bytes_total")
            self.assert_whole(self.pull(number), number)
            self.assertEqual(self.cache.metric("contentcache_received_bytes_total") - before, SIZE)

    def test_stalls_and_errors(self) -> None:
        """A stall, a 5xx, a 416 and a page of a portal are passed over in the same response."""
        manners: list[tuple[str, dict[str, object]]] = [
            ("stall", {"at": -1}),
            ("stall", {"at": HALF}),
            ("status", {"status": 500}),
            ("status", {"status": 503, "retry_after": "30"}),
        ]
        self.build(2, len(manners))
        for digest, (name, more) in zip(self.upstream.digests, manners, strict=True):
            self.upstream.misbehave(name, digest, **more)
        running = [self.curl.start(blob_url(self.cache.url, digest)) for digest in self.upstream.digests]
        for one, blob in zip(running, self.blobs, strict=True):
            fetched = one.result()
            self.assertEqual((fetched.status, fetched.ended), (200, 0))
            self.assertEqual(fetched.body.read_bytes(), blob)

    def test_one_is_gone(self) -> None:
        """A host that refuses connections, or drops them, costs the others nothing."""
        self.blobs = [random_bytes(SIZE, f"gone {number}") for number in range(4)]
        self.upstream = Unruly(self, *self.blobs)
        self.hosts = [self.upstream]
        with ExitStack() as held:
            for dead in (free_port(), deaf(held)):
                self.begin(f"http://127.0.0.1:{dead}", self.upstream.url)
                for number in range(4):
                    self.assert_whole(self.pull(number), number)
                # It is asked first once, and not again while it is ejected; it may have been probed meanwhile.
                host = f'host="http://127.0.0.1:{dead}"'
                counted = self.cache.metrics()
                name = f'contentcache_upstream_requests_total{{code="failed",{host}}}'
                self.assertIn(counted.get(name), {1.0, 2.0, 3.0})
                self.assertEqual(counted[f"contentcache_upstream_healthy{{{host}}}"], 0)
                self.assertEqual(self.cache.health(), 200)

    def test_one_lies_about_little(self) -> None:
        """A blob that fits into what is held back is right in the same response."""
        self.build(2, 1, size=_SMALL)
        self.upstream.misbehave("wrong", at=0)
        self.assert_whole(self.pull(0), 0)
        self.assert_only_blames(self.upstream)

    def test_portal_first(self) -> None:
        """A portal before one of two hosts: nobody gets its page, and the blob comes from the other one."""
        self.build(2, 1)
        self.upstream.misbehave("portal")
        read = self.pull(0)
        self.assertEqual(read.body, self.blobs[0][: len(read.body)])
        until(lambda: self.pull(0).body == self.blobs[0], "the blob", timeout=10)
        self.assert_only_blames(self.upstream)

    def assert_only_blames(self, liar: Unruly) -> None:
        """The log has a sentence about the liar, and none about its neighbour."""
        blamed = re.compile(f"digest mismatch, download restarted .* upstream={liar.url}\\b")
        log = self.cache.wait_for_log(blamed)
        self.assertNotRegex(log, f"(download restarted|unhealthy) .*upstream={self.hosts[1].url}\\b")
