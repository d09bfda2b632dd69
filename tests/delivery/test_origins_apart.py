"""Two origins with the same digest: they share what is stored, and nothing before that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contentcache.config.model import Upstream
from contentcache.core.digest import Digest
from contentcache.core.negative_cache import FIRST
from contentcache.storage.filesystem import FilesystemStore
from tests.bad_registry import BadRegistry
from tests.delivery.house import LARGE, REPOSITORY, House, HouseTestCase
from tests.workers.harness import TwoWorkers

SLOW = Upstream("https://slow.example", ("https://slow.example",))
QUICK = Upstream("https://quick.example", ("https://quick.example",))
HALF = len(LARGE) // 2


class Both:
    """What holds in one process and in two. Origin 0 is the one that misbehaves, 1 the other one."""

    house: Any  # of the test case
    result: Any

    def begin(self: Any) -> tuple[House, Digest, BadRegistry, BadRegistry]:
        """A house with a blob at both origins."""
        house: House = self.make_house()
        slow, quick = house.origins["slow.example"], house.origins["quick.example"]
        digest = slow.put_blob(REPOSITORY, LARGE)
        quick.put_blob(REPOSITORY, LARGE)
        return house, digest, slow, quick

    def test_a_slow_origin_delays_its_own_clients_only(self: Any) -> None:
        """
        While one origin stalls, a client of the other one gets the blob, which is stored; those who waited at
        the first one go on from the stored file, and the rest is not asked for there.
        """
        house, digest, slow, quick = self.begin()
        slow.misbehave("stall", method="GET", at=HALF, times=1)
        waiting = house.pull(digest, origin=0)
        late = house.pull(digest, origin=0)
        self.assertEqual((waiting.outcome, late.outcome), (None, None))
        self.assertGreater(len(waiting.got), 1000)
        self.assertWhole(house.pull(digest, origin=1), LARGE)
        house.later(1)
        for client in (waiting, late):
            self.assertWhole(client, LARGE)
        self.assertEqual(quick.count("GET"), 1)
        self.assertNotIn(f"bytes={HALF}-", [one.headers.get("range") for one in slow.requests])
        self.assertEqual([partial.tag for partial in house.store.partials()], [])
        house.later(60)

    def test_a_silent_origin(self: Any) -> None:
        """Who has had no answer yet is authorized by its own origin, and served what the other one stored."""
        house, digest, slow, _quick = self.begin()
        slow.misbehave("stall", method="GET", at=-1, times=1)
        waiting = house.pull(digest, origin=0)
        self.assertWhole(house.pull(digest, origin=1), LARGE)
        house.later(1)
        self.assertWhole(waiting, LARGE)
        house.later(60)

    def test_a_client_that_got_other_bytes_completes_nothing(self: Any) -> None:
        """What came from one origin and is not what the blob has never becomes the beginning of a whole."""
        house, digest, slow, _quick = self.begin()
        slow.misbehave("wrong", at=10)
        slow.misbehave("stall", method="GET", at=HALF, times=1)
        waiting = house.pull(digest, origin=0)
        self.assertGreater(len(waiting.got), 1000)
        self.assertWhole(house.pull(digest, origin=1), LARGE)
        house.later(1)
        self.assertEqual(waiting.outcome, "short")
        self.assertLess(len(waiting.got), len(LARGE))
        house.later(60)

    def test_who_may_not_have_it_now_gets_no_more(self: Any) -> None:
        """A client whose origin has no more of the blob gets none of what is stored from another one."""
        house, digest, slow, _quick = self.begin()
        slow.misbehave("stall", method="GET", at=HALF)
        waiting = house.pull(digest, origin=0)
        got = len(waiting.got)
        slow.take_away(REPOSITORY)
        house.later(90)  # longer than a grant lasts; the stalled answer has ended, and the rest is asked for
        self.assertEqual(waiting.outcome, "short")
        self.assertWhole(house.pull(digest, origin=1), LARGE)
        self.assertEqual(len(waiting.got), got)

    def test_wrong_bytes_of_one_origin(self: Any) -> None:
        """A digest that one origin has wrong is a negative cache entry there, and not at the other one."""
        house, digest, slow, quick = self.begin()
        slow.misbehave("wrong", at=10)
        self.assertEqual(house.pull(digest, origin=0).outcome, "short")
        house.later(1)
        asked = slow.count("GET")
        self.assertRefused(house.pull(digest, origin=0), 502)
        self.assertEqual(slow.count("GET"), asked)
        self.assertWhole(house.pull(digest, origin=1), LARGE)
        self.assertEqual(quick.count("GET"), 1)

    def test_a_partial_file_is_resumed_for_its_own_origin(self: Any) -> None:
        """What one origin left of a blob is gone on with for it, and never for another one."""
        house, digest, slow, quick = self.begin()
        slow.misbehave("stall", method="GET", at=HALF, times=1)
        house.pull(digest, origin=0)
        slow.misbehave("status", status=503)
        house.later(90)
        self.assertEqual(len(list(house.store.partials())), 1)
        quick.misbehave("status", method="GET", status=503)
        house.pull(digest, origin=1)
        house.later(60)
        asked = [one for one in quick.requests if one.method == "GET"]
        self.assertEqual({one.headers.get("range") for one in asked}, {None})
        slow.rules.clear()
        slow.requests.clear()
        self.assertWhole(house.pull(digest, origin=0), LARGE)
        (asked,) = (one for one in slow.requests if one.method == "GET")
        self.assertEqual(asked.headers["range"], f"bytes={HALF}-")


class OneProcessTests(Both, HouseTestCase):
    """One process."""

    def make_house(self) -> House:
        """A house with two origins."""
        house: House = self.house(SLOW, QUICK)
        return house

    def test_sizes(self) -> None:
        """What one origin says of a size says nothing of another one's blob."""
        house, digest, slow, quick = self.begin()
        slow.misbehave("resized", by=-1000)
        house.pull(digest, origin=0, part=(HALF, HALF + 100), whole=False, small_part=True)
        house.later(60)
        client = house.pull(digest, origin=1, part=(HALF, HALF + 100), whole=False, small_part=True)
        house.later(1)
        self.assertWhole(client, LARGE[HALF : HALF + 100])
        self.assertEqual(quick.count("HEAD"), 1)
        house.later(60)

    def test_negative_entries_grow(self) -> None:
        """A digest mismatch costs 5 s at first: an error page of a proxy must not cost a minute."""
        house, digest, slow, _quick = self.begin()
        slow.misbehave("wrong", at=10, times=1)
        house.pull(digest, origin=0)
        house.later(1)
        self.assertRefused(house.pull(digest, origin=0), 502)
        house.later(FIRST)
        self.assertWhole(house.pull(digest, origin=0), LARGE)


class TwoProcessesTests(Both, HouseTestCase):
    """Clients at one worker, downloads at another."""

    def make_house(self) -> House:
        """Two workers with two origins."""
        folder = Path(self.mktemp())
        house = TwoWorkers(SLOW, QUICK, folder=folder, store=FilesystemStore(str(folder), shared=True))
        self.addCleanup(self._look_around, house)
        return house
