"""The index in a file."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.index_sqlite import SqliteIndex
from contentcache.storage.interfaces import (
    Affirmation,
    BlobRecord,
    Index,
    IndexDamaged,
    IndexLimits,
    IndexTooNew,
    Link,
    Tag,
    TagRecord,
)
from tests.storage import suites
from tests.storage.suites import DIGEST, LINK, TAG, numbered, record

_WRITER = """
import sys
from contentcache.storage.index_sqlite import SqliteIndex
from tests.storage.suites import numbered, record
index = SqliteIndex(sys.argv[1])
number = 0
while True:
    index.record([record(number + more, float(number), size=number + more) for more in range(10)])
    index.forget([numbered(number + 3)])
    print(number, flush=True)
    number += 10
"""


class SqliteIndexTests(suites.IndexSuite):
    """What a file adds: it lasts, it is private, it costs what is asked."""

    def make_index(self, limits: IndexLimits | None = None) -> Index:
        self.path = os.path.join(self.mktemp(), "contentcache", "index.sqlite3")
        return SqliteIndex(self.path, limits)

    def reopened(self) -> SqliteIndex:
        index = SqliteIndex(self.path)
        self.addCleanup(index.close)
        return index

    def test_lasts(self) -> None:
        """Everything is there again after a crash: the file is opened anew though nobody closed it."""
        self.index.record([record(1, 100.5), record(2, 50.0, verified=False)])
        self.index.affirm(LINK, Affirmation(5.0, "application/json"))
        self.index.remember_tag(TAG, TagRecord(DIGEST, "application/json", 5, 1.0))
        self.index.shift(1000.0, 1e6)
        self.index.rebuild_done()
        again = self.reopened()
        self.assertFalse(again.rebuilt)
        self.assertEqual(again.blob(numbered(1)), record(1, 1100.5))
        self.assertEqual(again.blob(numbered(2)), record(2, 1050.0, verified=False))
        self.assertEqual(again.total(), 20)
        self.assertEqual(again.affirmation(LINK), Affirmation(5.0, "application/json"))
        self.assertEqual(again.tag(TAG), TagRecord(DIGEST, "application/json", 5, 1.0))

    def test_rebuild_that_crashed(self) -> None:
        """A listing that was not finished is to be done again, whatever of it is there."""
        self.index.record([record(1, 1.0)])
        again = self.reopened()
        self.assertTrue(again.rebuilt)
        self.assertIsNotNone(again.blob(numbered(1)))

    def test_modes(self) -> None:
        """Who pulled what is nobody else's business."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        path = Path(self.mktemp(), "index.sqlite3")
        index = SqliteIndex(str(path))
        self.addCleanup(index.close)
        index.record([record(1, 1.0)])
        files = list(path.parent.iterdir())
        self.assertEqual(len(files), 3)
        for file in files:
            self.assertEqual(file.stat().st_mode & 0o777, 0o640, file)

    def test_closed(self) -> None:
        """A closed index says so, and may be closed again."""
        self.index.close()
        self.index.close()
        error = self.assertRaises(OSError, self.index.blob, DIGEST)
        self.assertEqual(error.errno, errno.EBADF)

    def test_odd_texts(self) -> None:
        """What strangers sent is kept as it is, and what no text can hold does no harm."""
        for accept in ("", "'; DROP TABLE tags --", "a\x00b", "\N{SNOWMAN}" * 1000, "\udcff"):
            tag = Tag("o", "r", "t", accept)
            self.index.remember_tag(tag, TagRecord(DIGEST, "m", 1 << 70, 1.0))
            self.assertEqual(self.index.tag(tag), TagRecord(DIGEST, "m", None, 1.0))
        self.index.affirm(LINK, Affirmation(1.0, "\udcff"))
        self.assertIsNotNone(self.index.affirmation(LINK))

    def test_half_a_change(self) -> None:
        """A change that fails in the middle leaves nothing of itself."""
        self.index.record([record(1, 1.0)])
        wrong = BlobRecord(numbered(3), "many", 1.0, verified=True)  # type: ignore[arg-type]
        object.__setattr__(wrong, "size", None)
        self.assertRaises(sqlite3.IntegrityError, self.index.record, [record(2, 2.0), wrong])
        self.assertIsNone(self.index.blob(numbered(2)))
        self.assertEqual((self.index.total(), self.index.count()), (10, 1))

    def test_fsync_where_promised(self) -> None:
        """Announcing a blob and taking a link back are on the disk at once, what happens at every pull is not."""
        modes: list[str] = []
        database = self.index._database  # type: ignore[attr-defined]
        database.set_trace_callback(lambda sql: modes.append(sql) if "synchronous" in sql else None)
        self.index.affirm(LINK, Affirmation(1.0, None))
        self.index.record([record(1, 1.0)])
        self.index.touch({numbered(1): 2.0})
        self.index.forget([numbered(1)])
        self.assertEqual(modes, [])
        full_then_normal = ["PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"]
        self.index.record([record(1, 1.0, verified=False)])
        self.assertEqual(modes, full_then_normal)
        self.index.revoke(LINK)
        self.assertEqual(modes, full_then_normal * 2)
        self.index.revoke(LINK)
        self.assertEqual(modes, full_then_normal * 2)

    def test_cost(self) -> None:
        """BodyStart and asking cost the same with a hundred times as many blobs, counted in SQLite's own steps."""
        self.assertLess(self.steps(30_000), 1.5 * self.steps(300))

    def steps(self, blobs: int) -> int:
        path = os.path.join(self.mktemp(), "index.sqlite3")
        index = SqliteIndex(path)
        index.record(record(number, float(number % 1000), verified=True) for number in range(blobs))
        for number in range(0, blobs, 3):
            index.affirm(Link("o", "r", "blobs", numbered(number)), Affirmation(1.0, None))
        index.close()
        counted = [0]

        def count() -> int:
            counted[0] += 1
            return 0

        connect = sqlite3.connect

        def counting(*arguments: object, **named: object) -> sqlite3.Connection:
            database: sqlite3.Connection = connect(*arguments, **named)  # type: ignore[call-overload]
            database.set_progress_handler(count, 1)
            return database

        self.patch(sqlite3, "connect", counting)
        index = SqliteIndex(path)
        self.patch(sqlite3, "connect", connect)
        index.total()
        index.blob(numbered(100))
        index.least_recent(10)
        batch = index.least_recent(10, before=100.0)
        index.least_recent(10, before=100.0, after=batch[-1])
        index.least_recent(10, before=0.0)
        index.following(batch[-1].digest, 10)
        index.purge(100.0, 10)
        index.shift(0.0, 2000.0)
        index.shift(3600.0, 1e9)
        index.close()
        return counted[0]

    def test_killed_in_the_middle(self) -> None:
        """After a kill the total is the sum of what is there, and each change is whole or missing."""
        path = os.path.join(self.mktemp(), "index.sqlite3")
        for stop in (1, 20):
            writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER, path],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            assert writer.stdout is not None
            for _ in range(stop):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            last = int([b"0", *writer.stdout.read().split()][-1])
            writer.stdout.close()
            writer.wait()
            index = SqliteIndex(path)
            records = index.least_recent(1_000_000)
            self.assertEqual(index.total(), sum(one.size for one in records))
            for number in range(0, last, 10):
                self.assertEqual(sum(number <= one.size < number + 10 for one in records), 9)
            index.close()


class DamageTests(SynchronousTestCase):
    """Files that are not what they should be."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.path = self.folder / "index.sqlite3"
        index = SqliteIndex(str(self.path))
        index.record(record(number, float(number)) for number in range(5000))
        index.rebuild_done()
        index.close()

    def assert_made_anew(self) -> None:
        index = SqliteIndex(str(self.path))
        self.assertTrue(index.rebuilt)
        self.assertEqual((index.total(), list(index.least_recent(5))), (0, []))
        index.record([record(1, 1.0)])
        self.assertEqual(index.total(), 10)
        index.close()
        self.assertTrue(self.path.with_name("index.sqlite3.damaged-1").exists())

    def overwrite(self, offset: int, data: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_damaged(self) -> None:
        """Whatever is no index any more is moved aside and made anew, which means: nothing is known."""
        whole = self.path.read_bytes()
        damages: dict[str, Callable[[], object]] = {
            "no database": lambda: self.path.write_bytes(b"<html>" * 5000),
            "short": lambda: self.path.write_bytes(b"S"),
            "header lost": lambda: self.overwrite(0, bytes(100)),
            "first page lost": lambda: self.overwrite(100, b"\xff" * 3000),
            "truncated": lambda: os.truncate(self.path, len(whole) // 2),
            "truncated in a page": lambda: os.truncate(self.path, len(whole) - 100),
            "all but the header lost": lambda: self.overwrite(4096, b"\xff" * (len(whole) - 4096)),
            "suspected": lambda: self.path.with_name("index.sqlite3.suspect").touch(),
        }
        for name, damage in damages.items():
            with self.subTest(name):
                self.path.write_bytes(whole)
                damage()
                self.assert_made_anew()

    def test_foreign_database(self) -> None:
        """A database of something else is not the index, even if it bears the same number."""
        for version in (0, 1, 2):
            self.path.unlink()
            database = sqlite3.connect(self.path)
            database.execute("CREATE TABLE state (something)")
            database.execute(f"PRAGMA user_version = {version}")
            database.close()
            self.assert_made_anew()

    def test_tables_of_another_shape(self) -> None:
        """The right names over the wrong columns are not the index."""
        database = sqlite3.connect(self.path)
        database.execute("ALTER TABLE tags RENAME COLUMN seen TO watched")
        database.close()
        self.assert_made_anew()

    def test_state_lost(self) -> None:
        """Tables without the one row that says how far they can be trusted are not the index."""
        database = sqlite3.connect(self.path)
        database.execute("DELETE FROM state")
        database.commit()
        database.close()
        self.assert_made_anew()

    def test_empty_file(self) -> None:
        """A file without a byte is what a kill at the very first moment leaves: nothing to keep of it."""
        self.path.write_bytes(b"")
        index = SqliteIndex(str(self.path))
        self.addCleanup(index.close)
        self.assertTrue(index.rebuilt)
        self.assertEqual([file.name for file in self.folder.iterdir() if "damaged" in file.name], [])

    def test_operators_statistics(self) -> None:
        """An operator who runs ``ANALYZE`` has not damaged anything."""
        database = sqlite3.connect(self.path)
        database.execute("ANALYZE")
        database.close()
        index = SqliteIndex(str(self.path))
        self.addCleanup(index.close)
        self.assertFalse(index.rebuilt)

    def test_found_later(self) -> None:
        """
        Damage in the middle of the file is found when it is met; from then on nothing is answered,
        and the next start makes the index anew.
        """
        size = self.path.stat().st_size
        self.overwrite(size // 2 // 4096 * 4096, b"\xff" * 4096)
        index = SqliteIndex(str(self.path))
        self.assertFalse(index.rebuilt)
        error = self.assertRaises(IndexDamaged, self.read_all, index)
        self.assertIn(str(self.path), str(error))
        self.assertRaises(IndexDamaged, index.total)
        self.assertRaises(IndexDamaged, index.record, [record(1, 1.0)])
        index.close()
        self.assert_made_anew()

    def test_wrong_rows(self) -> None:
        """A row that SQLite finds in order and that is nonsense to us is damage too."""
        database = sqlite3.connect(self.path)
        database.execute("UPDATE blobs SET digest = 'sha256:abc' WHERE pulled = 0.0")
        database.commit()
        database.close()
        index = SqliteIndex(str(self.path))
        self.assertRaises(IndexDamaged, self.read_all, index)
        index.close()
        self.assert_made_anew()

    def read_all(self, index: SqliteIndex) -> None:
        for number in range(5000):
            index.blob(numbered(number))
        index.least_recent(5000)

    def test_newer(self) -> None:
        """An index of a later version is refused and left as it is."""
        database = sqlite3.connect(self.path)
        database.execute("PRAGMA user_version = 99")
        database.close()
        before = self.path.read_bytes()
        error = self.assertRaises(IndexTooNew, SqliteIndex, str(self.path))
        self.assertIn("is of version 99, this program knows version 2: run the newer program", str(error))
        self.assertEqual(self.path.read_bytes(), before)

    def test_version_1(self) -> None:
        """
        A file of version 1 is brought up to date with all that it knows, and knows of no origin that it has
        delivered anything: that opens nothing.
        """
        index = SqliteIndex(str(self.path))
        index.record([BlobRecord(numbered(1), 5, 1.0, verified=True)])
        index.affirm(Link("o", "r", "blobs", numbered(1)), Affirmation(1.0, None))
        index.affirm(Link("o", "", "blobs", numbered(1)), Affirmation(1.0, None))
        index.close()
        database = sqlite3.connect(self.path)
        database.execute("DROP TRIGGER possessions_gone")
        database.execute("DROP TABLE possessions")
        database.execute("PRAGMA user_version = 1")
        database.commit()
        database.close()
        index = SqliteIndex(str(self.path))
        self.addCleanup(index.close)
        self.assertEqual(index.blob(numbered(1)), BlobRecord(numbered(1), 5, 1.0, verified=True))
        self.assertIsNotNone(index.affirmation(Link("o", "r", "blobs", numbered(1))))
        self.assertIsNone(index.affirmation(Link("o", "", "blobs", numbered(1))))
        self.assertFalse(index.possesses("o", numbered(1)))
        index.record_possession("o", numbered(1))
        self.assertTrue(index.possesses("o", numbered(1)))

    def test_last_two_are_kept(self) -> None:
        """However often it happens, damaged files do not fill the disk."""
        for number in range(4):
            self.path.write_bytes(b"rubbish %d" % number * 1000)
            self.path.with_name("index.sqlite3-wal").write_bytes(b"log")
            SqliteIndex(str(self.path)).close()
        kept = {file.name: file.read_bytes()[:9] for file in self.folder.iterdir() if "damaged" in file.name}
        self.assertEqual(kept.pop("index.sqlite3.damaged-1"), b"rubbish 3")
        self.assertEqual(kept.pop("index.sqlite3.damaged-2"), b"rubbish 2")
        self.assertLessEqual(len(kept), 2)

    def test_full_disk(self) -> None:
        """A full disk is an ``OSError`` that says so, and what was there stays readable."""
        index = SqliteIndex(str(self.path))
        self.addCleanup(index.close)
        assert index._database is not None
        index._database.execute("PRAGMA max_page_count = 1")
        error = self.assertRaises(
            OSError, index.record, [record(number, 1.0) for number in range(5000, 9000)]
        )
        self.assertEqual((error.errno, error.filename), (errno.ENOSPC, str(self.path.absolute())))
        self.assertEqual(index.total(), 50_000)
        self.assertIsNone(index.blob(numbered(5000)))

    def test_read_only(self) -> None:
        """A disk that became read-only is an ``OSError`` that says so."""
        index = SqliteIndex(str(self.path))
        self.addCleanup(index.close)
        assert index._database is not None
        index._database.execute("PRAGMA query_only = TRUE")
        error = self.assertRaises(OSError, index.touch, {numbered(1): 1e6})
        self.assertEqual(error.errno, errno.EROFS)
        self.assertIsNotNone(index.blob(numbered(1)))

    def test_not_writable(self) -> None:
        """A file that can only be read is refused at once, not at the first change."""
        self.patch(os, "access", lambda path, mode: False)
        error = self.assertRaises(OSError, SqliteIndex, str(self.path))
        self.assertEqual(error.errno, errno.EACCES)

    def test_folder_in_its_place(self) -> None:
        """Something that no database can be made of is the disk's fault."""
        self.path.unlink()
        self.path.mkdir()
        self.assertRaises(OSError, SqliteIndex, str(self.path))


_DIGESTS = st.integers(0, 5).map(numbered)
_TIMES = st.integers(0, 40).map(float)
_RECORDS = st.builds(BlobRecord, _DIGESTS, st.integers(0, 9), _TIMES, st.booleans())
_LINKS = st.builds(Link, st.sampled_from("ab"), st.sampled_from("rs"), st.just("blobs"), _DIGESTS)
_TAGS = st.builds(Tag, st.sampled_from("ab"), st.just("r"), st.sampled_from("xyz"), st.just(""))
_TAG_RECORDS = st.builds(TagRecord, _DIGESTS, st.just("m"), st.none() | st.integers(0, 9), _TIMES)
_STEPS = st.one_of(
    st.tuples(st.just("record"), st.lists(_RECORDS, max_size=4)),
    st.tuples(st.just("touch"), st.dictionaries(_DIGESTS, _TIMES, max_size=4)),
    st.tuples(st.just("forget"), st.lists(_DIGESTS, max_size=3)),
    st.tuples(st.just("shift"), st.integers(-20, 20).map(float), _TIMES),
    st.tuples(st.just("affirm"), _LINKS, st.builds(Affirmation, _TIMES, st.none() | st.just("m"))),
    st.tuples(st.just("revoke"), _LINKS),
    st.tuples(st.just("remember_tag"), _TAGS, _TAG_RECORDS),
    st.tuples(st.just("record_possession"), st.sampled_from("ab"), _DIGESTS),
    st.tuples(st.just("purge"), _TIMES, st.integers(0, 3)),
    st.tuples(st.just("following"), st.none() | _DIGESTS, st.integers(0, 4)),
    st.tuples(st.just("least_recent"), st.integers(0, 4), st.none() | _TIMES, st.none() | _RECORDS),
)


class HistoryTests(SynchronousTestCase):
    """One history, two indexes."""

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.lists(st.tuples(_STEPS, st.booleans()), max_size=25))
    def test_same_answers(self, history: list[tuple[tuple[str, object], bool]]) -> None:
        """After any history the file knows what the memory knows, also where it was opened anew on the way."""
        path = os.path.join(self.mktemp(), "index.sqlite3")
        model, index = MemoryIndex(), SqliteIndex(path)
        for (step, *arguments), reopen in history:
            self.assertEqual(getattr(index, step)(*arguments), getattr(model, step)(*arguments))
            if reopen:
                index.close()
                index = SqliteIndex(path)
            self.assertEqual((index.total(), index.count()), (model.total(), model.count()))
        self.assertEqual(index.least_recent(100), model.least_recent(100))
        for digest in map(numbered, range(6)):
            self.assertEqual(index.blob(digest), model.blob(digest))
            for origin in "ab":
                self.assertEqual(index.possesses(origin, digest), model.possesses(origin, digest))
                for repository in "rs":
                    link = Link(origin, repository, "blobs", digest)
                    self.assertEqual(index.affirmation(link), model.affirmation(link))
        for origin in "ab":
            for name in "xyz":
                tag = Tag(origin, "r", name, "")
                self.assertEqual(index.tag(tag), model.tag(tag))
        index.close()
