"""Stored blobs that are looked at again, on a clock that tests move."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown
from contentcache.core.ports import Given, Result
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import BlobFile, BlobRecord
from contentcache.storage.scrub import LONGEST_PAUSE, PIECE, REST, Bookmark, Scrubber
from tests.storage.suites import put

PERIOD = 36_000.0


class ScrubCase(SynchronousTestCase):
    """A store on the disk. Threads are played by calls in place, which are noted by their names."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.root = Path(self.mktemp())
        self.store = FilesystemStore(str(self.root))
        self.store.prepare()
        self.index = MemoryIndex()
        self.used: set[Digest] = set()
        self.told: list[bool] = []
        self.calls: list[str] = []
        self.between: dict[str, Callable[[], object]] = {}
        self.hindrance: dict[str, OSError] = {}
        self.bookmark = str(self.root / "scrubbed")
        self.scrub = self.make()

    def make(self) -> Scrubber:
        return Scrubber(
            self.store,
            self.index,
            PERIOD,
            bookmark=Bookmark(self.bookmark),
            in_use=self.used.__contains__,
            run=self.run_here,
            timer=self.clock,
            checked=self.told.append,
        )

    async def run_here(
        self, function: Callable[Given, Result], /, *arguments: Given.args, **named: Given.kwargs
    ) -> Result:
        name = function.__name__
        self.calls.append(name)
        action = self.between.pop(name, None)
        if action is not None:
            action()
        if name in self.hindrance:
            raise self.hindrance[name]
        return function(*arguments, **named)

    def put(self, content: bytes, *, verified: bool = True) -> Digest:
        digest = put(self.store, content)
        self.index.record([BlobRecord(digest, len(content), 5.0, verified)])
        return digest

    def spoil(self, digest: Digest) -> None:
        """Turn a bit of the file, and leave its size."""
        (path,) = [path for path in self.root.rglob("data") if digest.hex in str(path)]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def start(self) -> None:
        self.scrub.start()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        self.successResultOf(self.scrub.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def later(self, seconds: float) -> None:
        """Time goes by, a little at a time."""
        self.clock.pump([LONGEST_PAUSE / 2] * int(seconds / LONGEST_PAUSE * 2))

    def is_gone(self, digest: Digest) -> bool:
        try:
            self.store.open(digest).close()
        except BlobUnknown:
            return self.index.blob(digest) is None
        return False


class RoundTests(ScrubCase):
    """How it goes round."""

    def test_once_in_the_period(self) -> None:
        """In the period each blob is looked at once, evenly, and the next round begins."""
        for number in range(10):
            self.put(b"%d" % number * 1000)
        self.start()
        self.later(PERIOD / 2)
        self.assertIn(len(self.told), {5, 6})
        self.later(PERIOD / 2 - LONGEST_PAUSE)
        self.assertEqual(self.told, [True] * 10)
        self.later(PERIOD + 20 * LONGEST_PAUSE)
        self.assertIn(len(self.told), {20, 21})

    def test_nothing_changes(self) -> None:
        """Right blobs and their last pulls stay as they are; the index hears of nothing."""
        digests = [self.put(b"%d" % number * 1000) for number in range(3)]
        self.patch(self.index, "record", None)
        self.patch(self.index, "touch", None)
        self.start()
        self.later(PERIOD)
        self.assertEqual(self.told[:3], [True] * 3)
        for digest in digests:
            record = self.index.blob(digest)
            assert record is not None
            self.assertEqual((record.pulled, record.verified), (5.0, True))

    def test_small_reads(self) -> None:
        """A large blob is read a piece at a time, with time for others in between."""
        self.put(os.urandom(PIECE * 3 + 5))
        self.start()
        for count in (1, 2, 3):
            self.assertEqual(self.calls.count("_hash_piece"), count)
            self.clock.advance(1)
        self.later(LONGEST_PAUSE)
        self.assertEqual((self.calls.count("_hash_piece"), self.told), (4, [True]))

    def test_half_of_the_time(self) -> None:
        """A disk that is slow has as much time for others, however short the period is."""
        self.scrub._period = 0.001
        self.put(os.urandom(PIECE * 4))

        def slow() -> None:
            self.clock.rightNow += 7.0
            self.between["_hash_piece"] = slow

        slow()
        self.start()
        started, count = self.clock.seconds(), self.calls.count("_hash_piece")
        while not self.told:
            self.clock.advance(1)
        self.assertGreaterEqual(self.clock.seconds() - started, 2 * 7.0 * (4 - count))

    def test_growing(self) -> None:
        """What comes into a small store does not wait for the pace of the small store."""
        self.put(b"small")
        self.start()
        self.later(LONGEST_PAUSE)
        for number in range(9):
            self.put(b"%d" % number * 100)
        self.later(PERIOD)
        self.assertGreaterEqual(len(self.told), 10)

    def test_unverified(self) -> None:
        """What nobody has verified is not looked at: that is done before its first use."""
        digest = self.put(b"unverified", verified=False)
        self.spoil(digest)
        self.start()
        self.later(PERIOD)
        self.assertEqual(self.told, [])
        self.assertFalse(self.is_gone(digest))
        self.assertLess(self.calls.count("following"), 10)

    def test_goes_on_after_a_restart(self) -> None:
        """A daemon that starts again goes on where it was; a note that cannot be read is the beginning."""
        for number in range(10):
            self.put(b"%d" % number * 1000)
        self.scrub.start()
        self.later(PERIOD / 2)
        self.stop()
        noted = Bookmark(self.bookmark).read()
        self.assertIsNotNone(noted)
        before = len(self.told)
        seen: list[Digest] = []
        opening = self.store.open

        def watched(digest: Digest) -> BlobFile:
            seen.append(digest)
            return opening(digest)

        self.patch(self.store, "open", watched)
        self.scrub = self.make()
        self.start()
        self.later(PERIOD)
        everything = [one.digest for one in self.index.following(None, 100)]
        self.assertEqual(seen[: 10 - before], everything[before:])
        for rubbish in (b"", b"\xff", b"sha256:abc", b"x" * 9999):
            Path(self.bookmark).write_bytes(rubbish)
            self.assertIsNone(Bookmark(self.bookmark).read())
        Bookmark(str(self.root / "no" / "folder")).write(noted)
        Bookmark(None).write(noted)
        self.assertIsNone(Bookmark(None).read())

    def test_stops(self) -> None:
        """Stopping waits for a read under way and leaves nothing behind."""
        self.put(os.urandom(PIECE * 3))
        reading: Deferred[None] = Deferred()
        run = self.run_here

        async def slow(function: Any, /, *arguments: Any) -> Any:
            if function.__name__ == "_hash_piece":
                await reading
            return await run(function, *arguments)

        self.patch(self.scrub, "_run", slow)
        self.scrub.start()
        stopped = self.scrub.stop()
        self.assertNoResult(stopped)
        reading.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.told, [])


class BadTests(ScrubCase):
    """What becomes of bad blobs."""

    def test_changed(self) -> None:
        """A blob that was changed, cut or made longer on the disk goes, file and record; others stay."""
        good, bad, short, long = (self.put(bytes([n]) * 1000) for n in range(4))
        self.spoil(bad)
        for digest, size in ((short, 999), (long, 1001)):
            (path,) = [path for path in self.root.rglob("data") if digest.hex in str(path)]
            os.truncate(path, size)
        self.start()
        self.later(PERIOD * 3)  # the store becomes smaller, so the others' shares become larger
        self.assertEqual([self.is_gone(one) for one in (good, bad, short, long)], [False, True, True, True])
        self.assertEqual(self.told.count(False), 3)

    def test_in_use(self) -> None:
        """
        A bad blob that somebody reads stays for that reader; nobody new is served from it, and it goes when
        it is free, though it was pulled in the meantime.
        """
        bad = self.put(b"x" * 1000)
        self.spoil(bad)
        self.used.add(bad)
        self.start()
        self.clock.advance(1)
        record = self.index.blob(bad)
        assert record is not None
        self.assertEqual((record.verified, record.pulled), (False, 5.0))
        self.assertFalse(self.is_gone(bad))
        self.later(PERIOD)
        self.assertFalse(self.is_gone(bad))
        self.index.touch({bad: 77.0})
        self.used.clear()
        self.later(LONGEST_PAUSE * 2)
        self.assertTrue(self.is_gone(bad))
        self.assertEqual(self.told, [False])

    def test_fetched_again_meanwhile(self) -> None:
        """What was thrown away and fetched again while it was looked at is not touched."""
        bad = self.put(b"x" * 1000)
        self.spoil(bad)

        def fetched_again() -> None:
            self.store.delete(bad)
            put(self.store, b"x" * 1000)
            self.index.record([BlobRecord(bad, 1000, 99.0, verified=True)])

        self.between["_forget"] = fetched_again
        self.start()
        self.clock.advance(1)
        self.assertIn("_forget", self.calls)
        self.assertFalse(self.is_gone(bad))

    def test_missing_file(self) -> None:
        """A record without a file goes, unless a fetch is about to make the file."""
        gone = self.put(b"gone")
        self.store.delete(gone)
        self.used.add(gone)
        self.start()
        self.assertIsNotNone(self.index.blob(gone))
        self.used.clear()
        self.later(PERIOD + LONGEST_PAUSE * 3)
        self.assertIsNone(self.index.blob(gone))
        self.assertEqual(self.told, [])

    def test_unreadable(self) -> None:
        """A blob that the disk cannot read goes."""
        self.put(b"a" * 100)
        self.hindrance["_hash_piece"] = OSError(errno.EIO, "bad sector")
        self.start()
        self.assertEqual(self.told, [False])
        self.assertEqual(list(self.store.blobs()), [])

    def test_broken_disk(self) -> None:
        """A disk that reads nothing at all is no reason to throw everything away."""
        for number in range(10):
            self.put(b"%d" % number * 10)
        self.hindrance["_hash_piece"] = OSError(errno.EIO, "no answer")
        self.start()
        self.later(REST + PERIOD / 10)
        self.assertGreaterEqual(len(list(self.store.blobs())), 8)
        self.hindrance.clear()
        kept = len(list(self.store.blobs()))
        self.later(REST + PERIOD)
        self.assertEqual(len(list(self.store.blobs())), kept)

    def test_no_descriptor(self) -> None:
        """What says nothing of the blob does it no harm."""
        digest = self.put(b"a" * 100)
        for number in (errno.EMFILE, errno.ENOMEM, errno.EACCES):
            self.hindrance["open"] = OSError(number, "not now")
            self.scrub.start()
            self.stop()
            self.assertFalse(self.is_gone(digest))
        self.assertEqual(self.told, [])

    def test_cannot_be_deleted(self) -> None:
        """On a disk that became read-only it goes as soon as it can, and the others are looked at."""
        bad, _good = self.put(b"x" * 1000), self.put(b"y" * 1000)
        self.spoil(bad)
        self.hindrance["_forget"] = OSError(errno.EROFS, "read-only")
        self.start()
        self.later(PERIOD)
        self.assertEqual(sorted(self.told[:2]), [False, True])
        self.assertFalse(self.is_gone(bad))
        self.hindrance.clear()
        self.later(LONGEST_PAUSE * 2)
        self.assertTrue(self.is_gone(bad))

    def test_index_fails(self) -> None:
        """An index that does not answer makes it rest, not end."""
        self.put(b"x" * 1000)
        self.hindrance["following"] = OSError(errno.EIO, "no answer")
        self.start()
        self.assertEqual(self.told, [])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.hindrance.clear()
        self.later(REST + LONGEST_PAUSE)
        self.assertEqual(self.told, [True])
