"""Two origins with the same digest: they share what is stored, and nothing before that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contentcache.config.model import Upstream
from contentcache.core.digest import Digest
from contentcache.core.negative_cache import FIRST
from contentcache.storage.filesystem import FilesystemStore
from tests.bad_registry import BadRegistry
from tests.delivery.in_memory import LARGE, REPOSITORY, InMemoryCache, InMemoryCacheTestCase
from tests.workers.harness import TwoWorkers

SLOW = Upstream("https://slow.example", ("https://slow.example",))
QUICK = Upstream("https://quick.example", ("https://quick.example",))
HALF = len(LARGE) // 2


class Both:
    """What holds in one process and in two. Origin 0 is the one that misbehaves, 1 the other one."""

    cache: Any  # of the test case
    result: Any

    def begin(self: Any) -> tuple[InMemoryCache, Digest, BadRegistry, BadRegistry]:
        """A cache with a blob at both origins."""
        cache: InMemoryCache = self.make_two_origins()
        slow, quick = cache.origins["slow.example"], cache.origins["quick.example"]
        digest = slow.put_blob(REPOSITORY, LARGE)
        quick.put_blob(REPOSITORY, LARGE)
        return cache, digest, slow, quick

    def test_a_slow_origin_delays_its_own_clients_only(self: Any) -> None:
        """
        While one origin stalls, a client of the other one gets the blob, which is stored; those who waited at
        the first one go on from the stored file, and the rest is not asked for there.
        """
        cache, digest, slow, quick = self.begin()
        slow.misbehave("stall", method="GET", at=HALF, times=1)
        waiting = cache.pull(digest, origin=0)
        late = cache.pull(digest, origin=0)
        self.assertEqual((waiting.outcome, late.outcome), (None, None))
        self.assertGreater(len(waiting.got), 1000)
        self.assertWhole(cache.pull(digest, origin=1), LARGE)
        cache.later(1)
        for client in (waiting, late):
            self.assertWhole(client, LARGE)
        self.assertEqual(quick.count("GET"), 1)
        self.assertNotIn(f"bytes={HALF}-", [one.headers.get("range") for one in slow.requests])
        self.assertEqual([partial.tag for partial in cache.store.partials()], [])
        cache.later(60)

    def test_a_silent_origin(self: Any) -> None:
        """Who has had no answer yet is authorized by its own origin, and served what the other one stored."""
        cache, digest, slow, _quick = self.begin()
        slow.misbehave("stall", method="GET", at=-1, times=1)
        waiting = cache.pull(digest, origin=0)
        self.assertWhole(cache.pull(digest, origin=1), LARGE)
        cache.later(1)
        self.assertWhole(waiting, LARGE)
        cache.later(60)

    def test_a_client_that_got_other_bytes_completes_nothing(self: Any) -> None:
        """What came from one origin and is not what the blob has never becomes the beginning of a whole."""
        cache, digest, slow, _quick = self.begin()
        slow.misbehave("wrong", at=10)
        slow.misbehave("stall", method="GET", at=HALF, times=1)
        waiting = cache.pull(digest, origin=0)
        self.assertGreater(len(waiting.got), 1000)
        self.assertWhole(cache.pull(digest, origin=1), LARGE)
        cache.later(1)
        self.assertEqual(waiting.outcome, "short")
        self.assertLess(len(waiting.got), len(LARGE))
        cache.later(60)

    def test_who_may_not_have_it_now_gets_no_more(self: Any) -> None:
        """A client whose origin has no more of the blob gets none of what is stored from another one."""
        cache, digest, slow, _quick = self.begin()
        slow.misbehave("stall", method="GET", at=HALF)
        waiting = cache.pull(digest, origin=0)
        got = len(waiting.got)
        slow.take_away(REPOSITORY)
        cache.later(90)  # longer than a grant lasts; the stalled answer has ended, and the rest is asked for
        self.assertEqual(waiting.outcome, "short")
        self.assertWhole(cache.pull(digest, origin=1), LARGE)
        self.assertEqual(len(waiting.got), got)

    def test_wrong_bytes_of_one_origin(self: Any) -> None:
        """A digest that one origin has wrong is a negative cache entry there, and not at the other one."""
        cache, digest, slow, quick = self.begin()
        slow.misbehave("wrong", at=10)
        self.assertEqual(cache.pull(digest, origin=0).outcome, "short")
        cache.later(1)
        asked = slow.count("GET")
        self.assertRefused(cache.pull(digest, origin=0), 502)
        self.assertEqual(slow.count("GET"), asked)
        self.assertWhole(cache.pull(digest, origin=1), LARGE)
        self.assertEqual(quick.count("GET"), 1)

    def test_a_partial_file_is_resumed_for_its_own_origin(self: Any) -> None:
        """What one origin left of a blob is gone on with for it, and never for another one."""
        cache, digest, slow, quick = self.begin()
        slow.misbehave("stall", method="GET", at=HALF, times=1)
        cache.pull(digest, origin=0)
        slow.misbehave("status", status=503)
        cache.later(90)
        self.assertEqual(len(list(cache.store.partials())), 1)
        quick.misbehave("status", method="GET", status=503)
        cache.pull(digest, origin=1)
        cache.later(60)
        asked = [one for one in quick.requests if one.method == "GET"]
        self.assertEqual({one.headers.get("range") for one in asked}, {None})
        slow.rules.clear()
        slow.requests.clear()
        self.assertWhole(cache.pull(digest, origin=0), LARGE)
        (asked,) = (one for one in slow.requests if one.method == "GET")
        self.assertEqual(asked.headers["range"], f"bytes={HALF}-")


class OneProcessTests(Both, InMemoryCacheTestCase):
    """One process."""

    def make_two_origins(self) -> InMemoryCache:
        """A cache with two origins."""
        cache: InMemoryCache = self.make_cache(SLOW, QUICK)
        return cache

    def test_sizes(self) -> None:
        """What one origin says of a size says nothing of another one's blob."""
        cache, digest, slow, quick = self.begin()
        slow.misbehave("resized", by=-1000)
        cache.pull(digest, origin=0, part=(HALF, HALF + 100), whole=False, small_part=True)
        cache.later(60)
        client = cache.pull(digest, origin=1, part=(HALF, HALF + 100), whole=False, small_part=True)
        cache.later(1)
        self.assertWhole(client, LARGE[HALF : HALF + 100])
        self.assertEqual(quick.count("HEAD"), 1)
        cache.later(60)

    def test_negative_entries_grow(self) -> None:
        """A digest mismatch costs 5 s at first: an error page of a proxy must not cost a minute."""
        cache, digest, slow, _quick = self.begin()
        slow.misbehave("wrong", at=10, times=1)
        cache.pull(digest, origin=0)
        cache.later(1)
        self.assertRefused(cache.pull(digest, origin=0), 502)
        cache.later(FIRST)
        self.assertWhole(cache.pull(digest, origin=0), LARGE)


class TwoProcessesTests(Both, InMemoryCacheTestCase):
    """Clients at one worker, downloads at another."""

    def make_two_origins(self) -> InMemoryCache:
        """Two workers with two origins."""
        folder = Path(self.mktemp())
        cache = TwoWorkers(SLOW, QUICK, folder=folder, store=FilesystemStore(str(folder), shared=True))
        self.addCleanup(self._look_around, cache)
        return cache
