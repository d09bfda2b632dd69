"""An index whose file is damaged while it is open."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.threads import at_once
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.index_recovery import MOST_DAMAGES, SPAN, TRY_AGAIN, RecoveringIndex, rebuild
from contentcache.storage.index_sqlite import SqliteIndex
from contentcache.storage.interfaces import Affirmation, Index, IndexDamaged, IndexLimits, TagRecord
from contentcache.storage.memory import MemoryStore
from tests.storage import suites
from tests.storage.suites import DIGEST, LINK, TAG, numbered, put, record

MANY = 5000


class RecoveringIndexTests(suites.IndexSuite):
    """As long as nothing is damaged it is an index like any other."""

    def make_index(self, limits: IndexLimits | None = None) -> Index:
        path = os.path.join(self.mktemp(), "index.sqlite3")
        return RecoveringIndex(
            lambda: SqliteIndex(path, limits),
            SqliteIndex(path, limits),
            monotonic=lambda: 0.0,
            replaced=lambda: None,
        )


class InMemoryTests(suites.IndexSuite):
    """So is the memory that stands in for a file."""

    def make_index(self, limits: IndexLimits | None = None) -> Index:
        return RecoveringIndex(
            lambda: MemoryIndex(limits), None, monotonic=lambda: 0.0, replaced=lambda: None, limits=limits
        )


class DamageTests(SynchronousTestCase):
    """A real file, and garbage written over it."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "index.sqlite3"
        self.now = 0.0
        self.replacements = 0
        self.opened = 0
        self.refusal: Exception | None = None
        self.errors: list[str] = []
        observer = cast("ILogObserver", self.observe)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def observe(self, event: LogEvent) -> None:
        if event["log_level"] == LogLevel.error:
            self.errors.append(str(event.get("reason")))

    def open_index(self) -> Index:
        self.opened += 1
        if self.refusal is not None:
            raise self.refusal
        return SqliteIndex(str(self.path))

    def note(self) -> None:
        self.replacements += 1

    def make(self, first: Index | None) -> RecoveringIndex:
        index = RecoveringIndex(self.open_index, first, monotonic=lambda: self.now, replaced=self.note)
        self.addCleanup(index.close)
        return index

    def filled(self) -> RecoveringIndex:
        """An index of many blobs, whose pages are on the disk and not in SQLite's own memory."""
        index = SqliteIndex(str(self.path))
        index.record(record(number, float(number)) for number in range(MANY))
        index.affirm(LINK, Affirmation(1.0, None))
        index.remember_tag(TAG, TagRecord(DIGEST, "x", None, 1.0))
        index.rebuild_done()
        index.close()
        return self.make(SqliteIndex(str(self.path)))

    def spoil(self) -> None:
        """Write garbage over all but the first page; the log beside the file is emptied."""
        size = self.path.stat().st_size
        with open(self.path, "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(size - 4096) if size > 4096 else b"")
        wal = Path(f"{self.path}-wal")
        if wal.exists():
            os.truncate(wal, 0)

    def test_answered_by_a_fresh_one(self) -> None:
        """
        The very call that meets the damage is answered: nothing is known, nothing is allowed. The file is
        kept aside, the store is to be listed, and the log says it in one line.
        """
        index = self.filled()
        self.spoil()
        self.assertIsNone(index.blob(numbered(MANY // 2)))
        self.assertIsNone(index.affirmation(LINK))
        self.assertIsNone(index.tag(TAG))
        self.assertEqual((index.total(), self.replacements, self.opened), (0, 1, 1))
        self.assertTrue(index.rebuilt)
        self.assertIsNone(index.fault)
        self.assertTrue(self.path.with_name("index.sqlite3.damaged-1").exists())
        self.assertEqual(len(self.errors), 1, self.errors)
        self.assertIn("is damaged", self.errors[0])

    def test_changes_are_made_in_the_fresh_one(self) -> None:
        """A change that meets the damage is made, and lasts."""
        index = self.filled()
        self.spoil()
        index.record(iter([record(MANY // 2, 7.0)]))
        self.assertEqual(index.blob(numbered(MANY // 2)), record(MANY // 2, 7.0))
        index.close()
        again = SqliteIndex(str(self.path))
        self.addCleanup(again.close)
        self.assertEqual(again.total(), 10)

    def test_many_threads(self) -> None:
        """Threads that meet the damage together make one new index, and each gets its answer."""
        index = self.filled()
        self.spoil()
        start = threading.Barrier(8)
        answers: list[object] = []

        def ask(number: int) -> None:
            start.wait(10)
            for more in range(50):
                try:
                    answers.append(index.blob(numbered((number * 600 + more * 7) % MANY)))
                except Exception as error:  # noqa: BLE001 - the test shows it
                    answers.append(error)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        self.assertEqual(len(answers), 400)
        self.assertEqual([one for one in answers if isinstance(one, Exception)], [])
        self.assertEqual((self.replacements, self.opened), (1, 1))

    def test_again_and_again(self) -> None:
        """A disk that spoils every file ends in memory, not in a loop; later a file is tried again."""
        index = self.make(_Damaged())
        self.refusal = None
        broken = [_Damaged() for _ in range(20)]
        self.patch(index, "_open_index", broken.pop)
        self.assertIsNone(index.blob(DIGEST))
        self.assertEqual(20 - len(broken), MOST_DAMAGES)
        self.assertIsNotNone(index.fault)
        index.record([record(1, 1.0)])
        self.assertEqual(index.total(), 10)
        self.patch(index, "_open_index", self.open_index)
        self.now += SPAN - 1
        self.assertEqual(index.total(), 10)
        self.now += 1
        self.assertEqual((index.total(), index.fault), (0, None))

    def test_no_new_file_for_now(self) -> None:
        """Where the disk takes no new index, memory stands in, and gives way as soon as it does."""
        index = self.filled()
        self.spoil()
        self.refusal = OSError(errno.ENOSPC, "full")
        self.assertIsNone(index.blob(numbered(MANY // 2)))
        index.record([record(1, 1.0)])
        self.assertIsNotNone(index.fault)
        self.now += TRY_AGAIN
        self.assertEqual(index.total(), 10)
        self.refusal = None
        self.assertEqual((index.total(), self.opened), (10, 2))
        self.now += TRY_AGAIN
        self.assertEqual((index.total(), self.opened, self.replacements), (0, 3, 2))
        self.assertIsNone(index.fault)

    def test_none_at_the_start(self) -> None:
        """A daemon that started on a full disk has its index as soon as there is room."""
        index = self.make(None)
        self.assertIsNotNone(index.fault)
        self.assertTrue(index.rebuilt)
        index.record([record(1, 1.0)])
        self.now += TRY_AGAIN
        self.assertEqual((index.total(), self.replacements), (0, 1))
        self.assertTrue(self.path.exists())

    def test_damage_while_listing(self) -> None:
        """
        A listing that began before the damage has told the new index only half: it ends nothing, the one
        after it does.
        """
        store = MemoryStore()
        for number in range(2500):
            put(store, b"%d" % number)
        spoilt = SqliteIndex(str(self.path))
        index = self.make(spoilt)
        batches = 0

        async def run(function: object, /, *arguments: object) -> object:
            nonlocal batches
            batches += 1
            if batches == 2:
                self.patch(spoilt, "_damage", IndexDamaged("it is damaged"))
            return function(*arguments)  # type: ignore[operator]

        self.successResultOf(Deferred.fromCoroutine(rebuild(store, index, run, lambda: 1e9)))  # type: ignore[arg-type]
        self.assertEqual(self.replacements, 1)
        self.assertTrue(index.rebuilt)
        self.successResultOf(Deferred.fromCoroutine(rebuild(store, index, at_once, lambda: 1e9)))
        self.assertFalse(index.rebuilt)
        self.assertEqual(len(index.least_recent(9999)), 2500)

    def test_other_errors_pass(self) -> None:
        """A disk that is full says so, and nothing is made anew for it."""
        index = self.make(_Full())
        self.assertRaises(OSError, index.affirm, LINK, Affirmation(1.0, None))
        self.assertEqual((self.replacements, self.opened), (0, 0))

    def test_closed(self) -> None:
        """A closed index stays closed."""
        index = self.filled()
        index.close()
        index.close()
        self.assertRaises(OSError, index.total)
        self.assertEqual(self.opened, 0)


class _Damaged(MemoryIndex):
    def blob(self, digest: object) -> None:
        raise IndexDamaged("it is damaged")


class _Full(MemoryIndex):
    def affirm(self, link: object, affirmation: object) -> None:
        raise OSError(errno.ENOSPC, "full")
