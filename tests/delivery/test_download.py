"""One fetch of a content, its readers, and what upstream does to it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from contentcache.aio.threads import at_once
from contentcache.config.model import Upstream
from contentcache.core.digest import Digest
from contentcache.core.errors import ContentWrong, UpstreamUnavailable
from contentcache.core.ports import Given, Result
from contentcache.delivery.download_stream import FIRST_PART
from contentcache.delivery.shared_download import HELD_BACK
from tests.delivery.in_memory import LARGE, REPOSITORY, InMemoryCacheTestCase

HALF = len(LARGE) // 2
BLOBS = "*/blobs/*"


class ManyReadersTests(InMemoryCacheTestCase):
    """However many ask, upstream is asked once."""

    def test_stampede(self) -> None:
        """All who ask for a cold blob share one request, and each gets the right bytes."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=1000)
        clients = [cache.pull(digest) for _ in range(64)]
        cache.origin.release()
        for client in clients:
            self.assertWhole(client, LARGE)
        self.assertEqual(cache.origin.count("GET"), 1)
        self.assertEqual(cache.origin.count(), 1)

    def test_stampede_before_the_head(self) -> None:
        """Clients of one credential who ask before upstream has answered wait for that one answer."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=-1)
        clients = [cache.pull(digest) for _ in range(8)]
        self.assertEqual([client.served for client in clients], [None] * 8)
        cache.origin.release()
        for client in clients:
            self.assertWhole(client, LARGE)
        self.assertEqual(cache.origin.count(), 1)

    def test_statuses(self) -> None:
        """The first one is a miss, those after it are collapsed, later ones are hits."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=HALF)
        clients = [cache.pull(digest), cache.pull(digest)]
        cache.origin.release()
        clients.append(cache.pull(digest))
        statuses = [client.served.outcome.cache_status for client in clients if client.served is not None]
        self.assertEqual(statuses, ["fwd=miss; stored", "fwd=miss; collapsed", "hit"])

    def test_late_comer(self) -> None:
        """Who comes late gets all bytes so far at once."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=HALF)
        cache.pull(digest)
        late = cache.pull(digest)
        self.assertEqual(bytes(late.got), LARGE[:HALF])
        cache.origin.release()
        self.assertWhole(late, LARGE)

    def test_slow_reader(self) -> None:
        """A client that takes nothing delays nobody, the fetch neither; it gets the same bytes later."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        slow = cache.pull(digest, takes=False)
        quick = cache.pull(digest)
        self.assertWhole(quick, LARGE)
        self.assertEqual(bytes(slow.got), b"")
        slow.take()
        self.assertWhole(slow, LARGE)

    def test_head_is_early(self) -> None:
        """A client is answered as soon as upstream's head is in, with the size."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=0)
        client = cache.pull(digest)
        assert client.served is not None
        self.assertEqual(client.served.body.size, len(LARGE))
        cache.origin.release()

    def test_part_of_a_running_fetch(self) -> None:
        """A range within what is there is answered from there."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=HALF)
        cache.pull(digest)
        part = cache.pull(digest, part=(100, 2000))
        self.assertWhole(part, LARGE[100:2000])
        cache.origin.release()

    def test_every_size(self) -> None:
        """Empty blobs, and such as are smaller than what is held back, are whole too, in any algorithm."""
        for size in (0, 1, HELD_BACK - 1, HELD_BACK, HELD_BACK + 1, FIRST_PART):
            for algorithm in ("sha256", "sha512"):
                cache = self.make_cache()
                digest = cache.origin.put_blob(REPOSITORY, LARGE[:size], algorithm)
                self.assertWhole(cache.pull(digest), LARGE[:size])
                self.assertWhole(cache.pull(digest), LARGE[:size])
                self.assertEqual(cache.origin.count(), 1)


class LeavingTests(InMemoryCacheTestCase):
    """A client that leaves ends nothing but what nobody wants."""

    def test_first_of_two(self) -> None:
        """The one whose request began the fetch leaves, and the other gets everything."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=1000)
        first, second = cache.pull(digest), cache.pull(digest)
        first.leave()
        cache.origin.release()
        self.assertWhole(second, LARGE)
        self.assertEqual(cache.origin.count(), 1)

    def test_last_one_early(self) -> None:
        """A fetch that nobody wants is ended before its first part; what is there serves the next one."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=FIRST_PART - 1, times=1)
        cache.pull(digest).leave()
        self.assertEqual(cache.running_downloads, 0)
        self.assertWhole(cache.pull(digest), LARGE)
        self.assertEqual(cache.origin.asked("GET")[-1].headers["range"], f"bytes={FIRST_PART - 1}-")

    def test_last_one_late(self) -> None:
        """Past its first part a fetch is finished, though nobody is left."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=FIRST_PART)
        cache.pull(digest).leave()
        self.assertEqual(cache.running_downloads, 1)
        cache.origin.release()
        self.assertEqual(cache.running_downloads, 0)
        self.assertWhole(cache.pull(digest), LARGE)
        self.assertEqual(cache.origin.count(), 1)

    def test_before_the_head(self) -> None:
        """One who leaves before upstream has answered leaves nothing behind, and the answer is let go."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=-1)
        cache.pull(digest).leave()
        cache.origin.release()
        self.assertEqual(cache.running_downloads, 0)
        self.assertFalse(cache.blob_service.in_use(digest))
        self.assertEqual(list(cache.store.partials()), [])

    def test_one_leaves_who_shares_a_question(self) -> None:
        """Two ask the same of the origin at once; the first one leaves, and the other is answered."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.pull(digest)
        cache.later(60)
        cache.origin.misbehave("stall", at=-1, method="HEAD")
        first, second = cache.pull(digest), cache.pull(digest)
        first.leave()
        cache.origin.release()
        self.assertWhole(second, LARGE)
        self.assertEqual(cache.origin.count("HEAD"), 1)


class TailTests(InMemoryCacheTestCase):
    """Nobody completes what is not verified, and nothing wrong is stored."""

    def test_tail_is_held_back(self) -> None:
        """All but the last bytes are in, and readers have none of the last ones."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=len(LARGE) - 1)
        client = cache.pull(digest)
        self.assertEqual(bytes(client.got), LARGE[:-HELD_BACK])
        cache.origin.release()
        self.assertWhole(client, LARGE)

    def test_wrong_blob(self) -> None:
        """Wrong early or late, at the only upstream: it ends short of the end and leaves nothing."""
        for at in (0, HALF, -1):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            cache.origin.misbehave("wrong", at=at)
            client = cache.pull(digest)
            self.assertEqual(client.outcome, "short")
            self.assertLess(len(client.got), len(LARGE))
            self.assertEqual([*cache.store.blobs(), *cache.store.partials()], [])
            self.assertIsNone(cache.index.blob(digest))

    def test_wrong_everywhere_for_a_minute(self) -> None:
        """What is wrong everywhere is an error at once for a minute, and is then tried again."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("wrong", times=1)
        cache.pull(digest)
        asked = cache.origin.count()
        again = cache.pull(digest)
        self.assertIsInstance(again.outcome, ContentWrong)
        self.assertRefused(again, 502)
        self.assertEqual(cache.origin.count(), asked)
        cache.later(60)
        self.assertWhole(cache.pull(digest), LARGE)

    def test_wrong_while_it_is_put_away(self) -> None:
        """Who comes while what was wrong is being deleted does not start the same lie anew."""
        held: list[Deferred[None]] = []

        async def run(function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
            if getattr(function, "__name__", "") == "discard":
                held.append(Deferred())
                await held[-1]
            return await at_once(function, *args, **kwargs)

        cache = self.make_cache(run=run)
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("wrong")
        first = cache.pull(digest)
        asked = cache.origin.count()
        again = cache.pull(digest)
        self.assertIsNone(again.outcome)
        held.pop().callback(None)
        self.assertEqual(first.outcome, "short")
        self.assertIsInstance(again.outcome, ContentWrong)
        self.assertEqual(cache.origin.count(), asked)

    def test_wrong_at_one_origin(self) -> None:
        """What one origin delivers wrong is still had from another one."""
        cache = self.make_cache(
            Upstream("https://one.example", ("https://one.example",)),
            Upstream("https://two.example", ("https://two.example",)),
        )
        for origin in cache.origins.values():
            digest = origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("wrong")
        cache.pull(digest)
        self.assertWhole(cache.pull(digest, origin=1), LARGE)

    def test_captive_portal(self) -> None:
        """A page with 200 is neither stored nor completed, and the next upstream is asked from zero."""
        two = ("https://one.example", "https://two.example")
        cache = self.make_cache(Upstream("https://one.example", two))
        for origin in cache.origins.values():
            digest = origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("portal")
        client = cache.pull(digest)
        again = cache.pull(digest)
        self.assertIn(client.outcome, ("short", "whole"))
        self.assertNotIn(b"hotel", client.got)
        self.assertWhole(again, LARGE)

    def test_other_lengths(self) -> None:
        """A body that is consistently longer or shorter than the truth is never completed."""
        for by in (1, -1, 5000):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            cache.origin.misbehave("resized", by=by)
            client = cache.pull(digest)
            self.assertEqual(client.outcome, "short")
            self.assertEqual([*cache.store.blobs(), *cache.store.partials()], [])

    def test_wrong_digest_of_nothing(self) -> None:
        """An empty answer for a blob that is not empty completes nobody: an error, and no head."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("resized", by=-len(LARGE))
        cache.origin.misbehave("stall", at=-1, times=1)
        client = cache.pull(digest)
        cache.origin.release()
        self.assertRefused(client, 502)

    def test_many_hear_of_a_failure(self) -> None:
        """All who wait for a fetch that fails are told, and none of them waits for ever."""
        for portal in (True, False):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            if portal:
                cache.origin.misbehave("portal")
            else:
                cache.origin.misbehave("status", status=500)
            cache.origin.misbehave("stall", at=-1, times=1)
            clients = [cache.pull(digest) for _ in range(5)]
            cache.origin.release()
            cache.later(60)
            outcomes = {client.outcome if client.outcome == "short" else client.status for client in clients}
            self.assertLessEqual(outcomes, {"short", 502})

    def test_many_are_refused(self) -> None:
        """All who wait for the origin's word get it when it is a no."""
        cache = self.make_cache(auth="basic")
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=-1, times=1)
        clients = [cache.pull(digest) for _ in range(5)]
        cache.origin.release()
        self.assertEqual([client.status for client in clients], [401] * 5)

    def test_nowhere(self) -> None:
        """No upstream can be reached: an error, and the next one who asks is not held up by it."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.wire.down.add("one.example")
        client = cache.pull(digest)
        self.assertIsInstance(client.outcome, UpstreamUnavailable)
        cache.wire.down.clear()
        self.assertWhole(cache.pull(digest), LARGE)
        self.assertEqual(digest, Digest.of(LARGE))
