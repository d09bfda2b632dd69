"""Who takes away what nobody pulls, on a clock that tests move."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown
from contentcache.core.eviction import Retention
from contentcache.core.live import Live
from contentcache.core.ports import Given, Result
from contentcache.storage.evictor import Evictor, SweepResult
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import (
    Affirmation,
    BlobNames,
    BlobRecord,
    IndexDamaged,
    Link,
    Reservation,
    Tag,
    TagRecord,
)
from contentcache.storage.memory import MemoryStore
from tests.storage.faults import FaultyStore
from tests.storage.suites import ORIGIN, numbered, put, record

START = 1_000_000.0
DAY = 86400.0
NOTHING = Retention(blobttl=None, maxsize=None, minfree=0, purge_after=DAY, sweepinterval=60.0)


class EvictorTestCase(SynchronousTestCase):
    """Threads are played by calls in place; ``between`` happens before the call of that name."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ahead = START
        self.capacity: int | None = None
        self.used: set[Digest] = set()
        self.evicted: list[tuple[Digest, int, str]] = []
        self.names: list[BlobNames] = []
        self.calls: list[str] = []
        self.between: dict[str, Callable[[], object]] = {}
        self.waiting: Deferred[None] | None = None
        self.index = MemoryIndex()

    def wall(self) -> float:
        return self.clock.seconds() + self.ahead

    async def run_here(
        self, function: Callable[Given, Result], /, *arguments: Given.args, **named: Given.kwargs
    ) -> Result:
        self.calls.append(function.__name__)
        action = self.between.pop(function.__name__, None)
        if action is not None:
            action()
        if self.waiting is not None:
            await self.waiting
        return function(*arguments, **named)

    def evictor(self, index: Any = None, **changes: Any) -> Evictor:
        self.store = FaultyStore(MemoryStore(self.capacity, now=self.wall))
        return Evictor(
            self.store,
            self.index if index is None else index,
            Live(evolve(NOTHING, **changes)),
            in_use=self.used.__contains__,
            run=self.run_here,
            wall=self.wall,
            monotonic=self.clock.seconds,
            evicted=self.on_evicted,
        )

    def on_evicted(self, digest: Digest, size: int, reason: str, names: BlobNames) -> None:
        self.evicted.append((digest, size, reason))
        self.names.append(names)

    def put(self, content: bytes, pulled: float | None = None) -> Digest:
        digest = put(self.store, content)
        when = self.wall() if pulled is None else pulled
        self.index.record([BlobRecord(digest, len(content), when, verified=True)])
        return digest

    def partial(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        self.store.resume(digest, ORIGIN).write(0, content)
        return digest

    def sweep(self, evictor: Evictor) -> SweepResult:
        return self.successResultOf(Deferred.fromCoroutine(evictor.sweep()))

    def make_room(self, evictor: Evictor, incoming: int) -> bool:
        """Reserve room, and release it again."""
        reserving = evictor.reserve(Reservation("room", Digest.of(b"coming"), "", incoming))
        lacking = self.successResultOf(Deferred.fromCoroutine(reserving))
        evictor.release("room")
        return lacking is None

    def kept(self) -> set[Digest]:
        """What the store has; the index must agree."""
        files = {file.digest: file.size for file in self.store.blobs()}
        records = {one.digest: one.size for one in self.index.least_recent(1000)}
        self.assertEqual(files, records)
        return set(files)


class AgeTests(EvictorTestCase):
    """``blobttl``."""

    def test_names(self) -> None:
        """With an evicted blob come the repository and the tag that it had."""
        evictor = self.evictor(blobttl=100.0)
        digest = self.put(b"old")
        self.index.affirm(Link(ORIGIN, "org/app", "manifests", digest), Affirmation(START, None))
        self.index.remember_tag(
            Tag(ORIGIN, "org/app", "1.0", ""), TagRecord(digest, "application/json", 3, START)
        )
        self.clock.advance(101)
        self.sweep(evictor)
        self.assertEqual(self.names, [BlobNames(("org/app",), ("1.0",))])

    def test_last_pull_counts(self) -> None:
        """What was pulled within the time lives, however old it is; what was not goes, file and record."""
        evictor = self.evictor(blobttl=100.0)
        old, young = self.put(b"old"), self.put(b"young")
        self.clock.advance(60)
        self.index.touch({young: self.wall()})
        self.clock.advance(60)
        self.assertEqual(self.sweep(evictor), SweepResult(blobs=1, bytes=3))
        self.assertEqual(self.kept(), {young})
        self.assertEqual(self.evicted, [(old, 3, "age")])

    def test_without_ttl(self) -> None:
        """Without a time to live nothing goes by age, partial files neither."""
        evictor = self.evictor()
        self.put(b"old", pulled=1.0)
        self.partial(b"part")
        self.clock.advance(1e6)
        self.assertEqual(self.sweep(evictor), SweepResult())

    def test_in_use(self) -> None:
        """What is read or fetched stays, and does not keep others from going."""
        evictor = self.evictor(blobttl=100.0)
        used = {self.put(b"used %d" % n, pulled=START - 1000 + n) for n in range(500)}
        idle = self.put(b"idle", pulled=START - 200)
        self.used |= used
        self.sweep(evictor)
        self.assertEqual(self.evicted, [(idle, 4, "age")])
        self.assertEqual(self.kept(), used)

    def test_used_at_the_last_moment(self) -> None:
        """A reader who comes after the list was made is in time."""
        evictor = self.evictor(blobttl=100.0)
        digest = self.put(b"old", pulled=START - 200)
        other = self.put(b"other", pulled=START - 150)
        self.between["_delete"] = lambda: self.used.add(other)
        self.sweep(evictor)
        self.assertEqual(self.evicted, [(digest, 3, "age")])

    def test_pulled_at_the_last_moment(self) -> None:
        """A pull that reaches the index after the list was made saves the blob."""
        evictor = self.evictor(blobttl=100.0)
        digest = self.put(b"old", pulled=START - 200)
        self.between["_delete"] = lambda: self.index.touch({digest: self.wall()})
        self.assertEqual(self.sweep(evictor), SweepResult())
        self.assertEqual(self.kept(), {digest})

    def test_file_is_gone_already(self) -> None:
        """A record whose file is missing is forgotten."""
        evictor = self.evictor(blobttl=100.0)
        digest = self.put(b"old", pulled=START - 200)
        self.store.delete(digest)
        self.sweep(evictor)
        self.assertIsNone(self.index.blob(digest))

    def test_order_of_deletion(self) -> None:
        """
        Killed between the two halves of a deletion, what is left is a record without a file, and
        the next sweep forgets it.
        """
        evictor = self.evictor(blobttl=100.0)
        digest = self.put(b"old", pulled=START - 200)

        class Killed(BaseException):
            pass

        def kill(digests: object) -> None:
            raise Killed

        self.patch(self.index, "forget", kill)
        self.failureResultOf(Deferred.fromCoroutine(evictor.sweep()), Killed)
        self.assertRaises(BlobUnknown, self.store.open, digest)
        self.assertIsNotNone(self.index.blob(digest))
        del self.index.forget
        self.sweep(evictor)
        self.assertIsNone(self.index.blob(digest))

    def test_partials(self) -> None:
        """A partial file that nobody went on with goes, one that is written or in use stays."""
        evictor = self.evictor(blobttl=100.0)
        used = self.partial(b"used")
        self.partial(b"abandoned")
        self.used.add(used)
        self.clock.advance(90)
        young = self.partial(b"young")
        self.clock.advance(20)
        self.assertEqual(self.sweep(evictor), SweepResult(partials=1, bytes=9))
        self.assertEqual({file.digest for file in self.store.partials()}, {used, young})
        self.assertEqual(self.evicted, [])

    def test_links(self) -> None:
        """What origins said long ago is purged, to the end."""
        evictor = self.evictor()
        for number in range(450):
            self.index.affirm(Link("o", "r", "blobs", numbered(number)), Affirmation(START - 2 * DAY, None))
        fresh = Link("o", "r", "blobs", numbered(1000))
        self.index.affirm(fresh, Affirmation(START, None))
        self.assertEqual(self.sweep(evictor), SweepResult(links=450))
        self.assertIsNotNone(self.index.affirmation(fresh))


class ClockJumpTests(EvictorTestCase):
    """Nothing is deleted because somebody set the clock."""

    def test_jumps(self) -> None:
        """After a jump in either direction a sweep only rebases, and ages are then what they were."""
        for jump in (10 * DAY, -10 * DAY):
            self.setUp()
            evictor = self.evictor(blobttl=DAY)
            old, young = self.put(b"old"), self.put(b"young")
            self.clock.advance(0.6 * DAY)
            self.index.touch({young: self.wall()})
            self.sweep(evictor)
            self.ahead += jump
            self.assertEqual(self.sweep(evictor), SweepResult(rebased=True))
            self.assertEqual(self.sweep(evictor), SweepResult())
            self.clock.advance(0.5 * DAY)
            self.sweep(evictor)
            self.assertEqual(self.evicted, [(old, 3, "age")])

    def test_partials(self) -> None:
        """The date of a partial file says nothing after a jump: it must lie idle for the whole time again."""
        evictor = self.evictor(blobttl=DAY)
        self.partial(b"part")
        self.ahead += 10 * DAY
        self.sweep(evictor)
        self.clock.advance(0.9 * DAY)
        self.assertEqual(self.sweep(evictor), SweepResult())
        self.clock.advance(0.2 * DAY)
        self.assertEqual(self.sweep(evictor).partials, 1)

    def test_index_fails_during_a_jump(self) -> None:
        """A jump that could not be written down is noticed again by the next sweep."""
        evictor = self.evictor(blobttl=DAY)
        digest = self.put(b"blob")
        self.ahead += 10 * DAY

        def fail(seconds: float, now: float) -> None:
            raise OSError(errno.EIO, "Input/output error")

        fail.__name__ = "shift"
        self.patch(self.index, "shift", fail)
        self.failureResultOf(Deferred.fromCoroutine(evictor.sweep()), OSError)
        del self.index.shift
        self.assertEqual(self.sweep(evictor), SweepResult(rebased=True))
        self.assertEqual(self.sweep(evictor), SweepResult())
        self.assertEqual(self.kept(), {digest})

    def test_pulls_in_the_future(self) -> None:
        """A pull that lies in the future counts as now, and ages from now on."""
        evictor = self.evictor(blobttl=100.0)
        digest = self.put(b"blob", pulled=START + 1e6)
        self.assertEqual(self.sweep(evictor), SweepResult())
        self.clock.advance(101)
        self.sweep(evictor)
        self.assertEqual(self.evicted, [(digest, 4, "age")])


class RoomTests(EvictorTestCase):
    """``maxsize`` and ``minfree``."""

    def test_too_much(self) -> None:
        """The least recently pulled go until the rest fits, blobs and partial files in one order."""
        evictor = self.evictor(maxsize=30)
        oldest = self.put(b"0" * 10, pulled=START - 30)
        partial = self.partial(b"1" * 10)
        self.clock.advance(10)
        newer, newest = self.put(b"2" * 10), self.put(b"3" * 10)
        self.assertEqual(self.sweep(evictor), SweepResult(blobs=1, bytes=10))
        self.assertEqual(self.evicted, [(oldest, 10, "size")])
        fourth = self.put(b"4" * 10)
        self.assertEqual(self.sweep(evictor), SweepResult(partials=1, bytes=10))
        self.assertEqual(list(self.store.partials()), [])
        self.assertEqual(self.kept(), {newer, newest, fourth})
        self.assertNotEqual(partial, oldest)

    def test_far_too_much(self) -> None:
        """Much more than a batch goes in one sweep; what is in use is left though it is too much."""
        evictor = self.evictor(maxsize=100)
        blobs = [self.put(b"%010d" % number, pulled=START - 1000 + number) for number in range(700)]
        self.used |= set(blobs[:30])
        self.assertEqual(self.sweep(evictor).blobs, 670)
        self.assertEqual(self.kept(), set(blobs[:30]))

    def test_disk_nearly_full(self) -> None:
        """Where too little is free the least recently pulled go."""
        self.capacity = 100
        evictor = self.evictor(minfree=25)
        blobs = [self.put(b"%010d" % number, pulled=START + number) for number in range(9)]
        self.clock.advance(20)
        self.sweep(evictor)
        self.assertEqual(self.evicted, [(blobs[0], 10, "space"), (blobs[1], 10, "space")])

    def test_disk_filled_by_others(self) -> None:
        """Nothing goes where all of it would not be enough: the disk is full of something else."""
        self.capacity = 1000
        evictor = self.evictor(minfree=900)
        blob = self.put(b"0" * 50)
        put(self.store, b"unknown" * 100)
        self.assertEqual(self.sweep(evictor), SweepResult())
        self.assertFalse(self.make_room(evictor, 1))
        self.assertIsNotNone(self.index.blob(blob))

    def test_freed_once(self) -> None:
        """What the sweep deleted already counts, though the disk may show it as free only later."""
        self.capacity = 100
        evictor = self.evictor(minfree=20, blobttl=100.0)
        old, _young = self.put(b"0" * 50, pulled=START - 200), self.put(b"1" * 40)
        self.patch(self.store, "free", lambda: 10)
        self.sweep(evictor)
        self.assertEqual(self.evicted, [(old, 50, "age")])

    def test_make_room(self) -> None:
        """Room is made for both bounds, by the oldest and no more than needed."""
        self.capacity = 100
        evictor = self.evictor(maxsize=80, minfree=10)
        blobs = [self.put(b"%010d" % number, pulled=START + number) for number in range(8)]
        self.assertTrue(self.make_room(evictor, 15))
        self.assertEqual(self.evicted, [(blobs[0], 10, "size"), (blobs[1], 10, "size")])
        self.assertTrue(self.make_room(evictor, 15))
        self.assertEqual(len(self.evicted), 2)

    def test_make_room_in_vain(self) -> None:
        """What cannot fit makes nobody go: bigger than the whole, or everything in use."""
        evictor = self.evictor(maxsize=80)
        blobs = [self.put(b"%010d" % number) for number in range(8)]
        self.assertFalse(self.make_room(evictor, 81))
        self.used |= set(blobs[:5])
        self.assertFalse(self.make_room(evictor, 40))
        self.assertEqual(self.evicted, [])
        self.assertTrue(self.make_room(evictor, 30))
        self.assertEqual(self.kept(), set(blobs[:5]))

    def test_partials_in_use_are_no_room(self) -> None:
        """The partial file of a running fetch is not counted as something that could go."""
        evictor = self.evictor(maxsize=100)
        self.used.add(self.partial(b"0" * 60))
        blob = self.put(b"1" * 30)
        self.assertFalse(self.make_room(evictor, 50))
        self.assertEqual(self.kept(), {blob})

    def test_without_bounds(self) -> None:
        """Without a bound there is always room."""
        self.assertTrue(self.make_room(self.evictor(), 1 << 60))

    def test_pulled_meanwhile(self) -> None:
        """When what was chosen is pulled before its turn comes, the next one goes instead."""
        evictor = self.evictor(maxsize=30)
        first, second, third = (self.put(b"%d" % n * 10, pulled=START + n) for n in range(3))
        self.between["_delete"] = lambda: self.index.touch({first: START + 9})
        self.assertTrue(self.make_room(evictor, 5))
        self.assertEqual(self.evicted, [(second, 10, "size")])
        self.assertEqual(self.kept(), {first, third})

    def test_one_at_a_time(self) -> None:
        """Two that reserve at once do not both count the same bytes as freed for them."""
        evictor = self.evictor(maxsize=30)
        for number in range(3):
            self.put(b"%d" % number * 10, pulled=START + number)
        self.waiting = hold = Deferred[None]()
        reservations = [Reservation(key, Digest.of(b"coming"), key, 10) for key in "ab"]
        results = [Deferred.fromCoroutine(evictor.reserve(each)) for each in reservations]
        self.assertEqual(self.calls, ["_count"])
        self.waiting = None
        hold.callback(None)
        self.assertEqual([self.successResultOf(result) for result in results], [None, None])
        self.assertEqual(len(self.evicted), 2)

    def test_failing_disk(self) -> None:
        """Where the disk fails there is no room, which is an answer and neither an exception nor a traceback."""
        evictor = self.evictor(maxsize=30)
        self.put(b"0" * 30)
        for operation in ("free", "partials", "delete"):
            self.store.break_down(errno.EROFS, operation)
            self.assertFalse(self.make_room(evictor, 10))
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(len(self.kept()), 1)

    def test_damaged_index(self) -> None:
        """A damaged index makes no room either."""
        evictor = self.evictor(maxsize=30)

        def fail() -> int:
            raise IndexDamaged("damaged")

        self.patch(self.index, "total", fail)
        self.assertFalse(self.make_room(evictor, 10))
        self.assertEqual(self.flushLoggedErrors(), [])


class ServiceTests(EvictorTestCase):
    """The loop around it."""

    def test_schedule(self) -> None:
        """The first sweep comes after the time to live, the next ones after the interval."""
        evictor = self.evictor(blobttl=3.0, sweepinterval=1.0)
        digest = self.put(b"blob", pulled=START - 100)
        evictor.start(self.clock)
        self.clock.advance(2.9)
        self.assertEqual(self.kept(), {digest})
        self.clock.advance(0.2)
        self.assertEqual(self.kept(), set())
        self.put(b"blob", pulled=START - 100)
        self.clock.advance(1.0)
        self.assertEqual(self.kept(), set())
        self.successResultOf(evictor.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_sweeps_a_disk_on_which_the_index_cannot_be_written(self) -> None:
        """Only a sweep makes a full disk less full: it deletes though last pulls cannot be corrected."""
        evictor = self.evictor(blobttl=100.0)
        self.put(b"old", pulled=START - 200)

        def refuse(seconds: float, now: float) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(self.index, "shift", refuse)
        self.assertEqual(self.sweep(evictor).blobs, 1)
        self.ahead += 10_000
        self.failureResultOf(Deferred.fromCoroutine(evictor.sweep()), OSError)  # a jump must be noted first

    def test_goes_on_after_a_fault(self) -> None:
        """A sweep that breaks off is logged, a failing disk without a traceback, and the next one comes."""
        evictor = self.evictor(blobttl=3.0, sweepinterval=1.0)
        self.put(b"blob", pulled=START - 100)
        evictor.start(self.clock)
        self.store.break_down(errno.EIO, "partials")
        self.clock.pump([3.0, 1.0])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.store.mend()
        self.clock.advance(1.0)
        self.assertEqual(self.kept(), set())
        self.successResultOf(evictor.stop())

    def test_stopped_before_the_first(self) -> None:
        """A evictor that is stopped before its first sweep never sweeps."""
        evictor = self.evictor(blobttl=3.0)
        self.successResultOf(evictor.stop())
        evictor.start(self.clock)
        self.successResultOf(evictor.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.calls, [])

    def test_stopped_in_the_middle(self) -> None:
        """A sweep that is under way puts down what it has in hand and ends; only then is it stopped."""
        evictor = self.evictor(blobttl=3.0, sweepinterval=1.0)
        for number in range(9):
            self.put(b"%d" % number, pulled=START - 100 + number)
        hold = Deferred[None]()
        self.between["_delete"] = lambda: setattr(self, "waiting", hold)
        evictor.start(self.clock)
        self.clock.advance(3.0)
        stopped = evictor.stop()
        self.assertNoResult(stopped)
        self.waiting = None
        hold.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(len(self.evicted), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_files_that_stay(self) -> None:
        """A file that cannot be deleted is left and the others go; a disk that is read-only ends the sweep."""
        evictor = self.evictor(blobttl=3.0)
        for number in range(3):
            self.put(b"%d" % number, pulled=START - 100 + number)
        self.store.break_down(errno.EPERM, "delete")
        self.between["_delete"] = lambda: None
        self.assertEqual(self.sweep(evictor), SweepResult())
        self.assertEqual(self.calls.count("_delete"), 3)
        self.store.break_down(errno.EROFS, "delete")
        self.failureResultOf(Deferred.fromCoroutine(evictor.sweep()), OSError)
        self.assertEqual(self.calls.count("_delete"), 4)
        self.store.mend()
        self.assertEqual(self.sweep(evictor).blobs, 3)


class Million:
    """An index of a million blobs, last pulled a second apart, that counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.rows = 0
        self.first = 0

    def shift(self, seconds: float, now: float) -> None:
        self.asked += 1

    def total(self) -> int:
        self.asked += 1
        return (1_000_000 - self.first) * 10

    def purge(self, before: float, limit: int) -> int:
        self.asked += 1
        return 0

    def blob(self, digest: Digest) -> BlobRecord | None:
        self.asked += 1
        number = int(digest.hex, 16)
        return record(number, START - 1_000_000 + number) if number < 1_000_000 else None

    def names(self, digest: Digest) -> BlobNames:
        self.asked += 1
        return BlobNames()

    def forget(self, digests: Sequence[Digest]) -> None:
        self.asked += 1
        self.first = 1 + max(int(digest.hex, 16) for digest in digests)

    def least_recent(
        self, limit: int, before: float | None = None, after: BlobRecord | None = None
    ) -> Sequence[BlobRecord]:
        self.asked += 1
        start = self.first if after is None else int(after.digest.hex, 16) + 1
        found: list[BlobRecord] = []
        while len(found) < limit and start < 1_000_000:
            one = record(start, START - 1_000_000 + start)
            if before is not None and one.pulled >= before:
                break
            found.append(one)
            start += 1
        self.rows += len(found)
        return found


class CostTests(EvictorTestCase):
    """A sweep costs what it deletes."""

    def test_nothing_to_do(self) -> None:
        """Over a million blobs of which none must go, a sweep asks a handful of questions and gets no rows."""
        index = Million()
        self.sweep(self.evictor(index, blobttl=2_000_000.0, maxsize=20_000_000))
        self.assertLess(index.asked, 10)
        self.assertEqual(index.rows, 0)

    def test_a_few_to_go(self) -> None:
        """Where three hundred must go, the questions are a few for each of them, and the rows two batches."""
        for changes in ({"blobttl": 1_000_000.0 - 300}, {"maxsize": 9_997_000}):
            index = Million()
            swept = self.sweep(self.evictor(index, **changes))
            self.assertEqual(swept.blobs, 300)
            self.assertLess(index.asked, 4 * 300)
            self.assertLessEqual(index.rows, 600)

    def test_room_for_one(self) -> None:
        """Making room looks at one batch of a million."""
        index = Million()
        self.assertTrue(self.make_room(self.evictor(index, maxsize=10_000_000), 25))
        self.assertEqual([size for _, size, _ in self.evicted], [10, 10, 10])
        self.assertLess(index.asked, 16)
        self.assertEqual(index.rows, 200)
