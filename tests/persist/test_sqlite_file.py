"""Tests for :mod:`contentcache.persist.sqlite_file`."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contentcache.persist import sqlite_file
from contentcache.persist.sqlite_file import (
    DAMAGE,
    connect,
    create_with_mode,
    errno_of,
    result_code,
    retry_while_busy,
    set_pragmas,
    transaction,
)


def prepare(database: sqlite3.Connection) -> None:
    """A log and a table."""
    set_pragmas(database, {"journal_mode": "WAL", "synchronous": "FULL"})
    database.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER NOT NULL)")


class SqliteFileTests(SynchronousTestCase):
    """One file."""

    def setUp(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.path = str(folder / "with ? and # in it.sqlite3")

    def open(self) -> sqlite3.Connection:
        """Another connection."""
        create_with_mode(self.path, 0o600)
        database = connect(self.path, prepare)
        self.addCleanup(database.close)
        return database

    def numbers(self, database: sqlite3.Connection) -> list[int]:
        """What is in the table."""
        return [number for (number,) in database.execute("SELECT number FROM numbers")]

    def test_mode(self) -> None:
        """The file and those beside it get the mode; one that is there keeps its own, and its content."""
        self.assertTrue(create_with_mode(self.path, 0o600))
        with transaction(self.open()) as database:
            database.execute("INSERT INTO numbers VALUES (1)")
        for suffix in ("", "-wal", "-shm"):
            self.assertEqual(stat.S_IMODE(os.stat(self.path + suffix).st_mode), 0o600)
        os.chmod(self.path, 0o640)
        self.assertFalse(create_with_mode(self.path, 0o600))
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o640)
        self.assertEqual(self.numbers(self.open()), [1])

    def test_pragmas(self) -> None:
        """The settings are those of the connection."""
        database = self.open()
        self.assertEqual(database.execute("PRAGMA journal_mode").fetchone(), ("wal",))
        self.assertEqual(database.execute("PRAGMA synchronous").fetchone(), (2,))

    def test_preparation_fails(self) -> None:
        """Where the preparation raises, that is what the caller gets, and the connection is closed."""
        seen: list[sqlite3.Connection] = []

        def broken(database: sqlite3.Connection) -> None:
            seen.append(database)
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, connect, self.path, broken)
        self.assertRaises(sqlite3.ProgrammingError, seen[0].execute, "SELECT 1")

    def test_immutable(self) -> None:
        """A file without a log is read as it is, nothing is made beside it, and nothing can be written."""
        database = self.open()
        database.execute("INSERT INTO numbers VALUES (5)")
        database.close()
        before = os.listdir(os.path.dirname(self.path))
        read_only = connect(self.path, lambda _: None, immutable=True)
        self.addCleanup(read_only.close)
        self.assertEqual(self.numbers(read_only), [5])
        self.assertEqual(os.listdir(os.path.dirname(self.path)), before)
        error = self.assertRaises(sqlite3.Error, read_only.execute, "DELETE FROM numbers")
        self.assertEqual(errno_of(error), errno.EROFS)

    def test_transaction(self) -> None:
        """A block is committed whole; where it raises, nothing is left of it, and the next can begin."""
        database, other = self.open(), self.open()
        with transaction(database) as inside:
            inside.execute("INSERT INTO numbers VALUES (1)")
            self.assertEqual(self.numbers(other), [])
        self.assertEqual(self.numbers(other), [1])
        for number in (2, 3):
            with self.assertRaises(ZeroDivisionError), transaction(database):
                database.execute("INSERT INTO numbers VALUES (?)", (number,))
                raise ZeroDivisionError
        self.assertFalse(database.in_transaction)
        self.assertEqual(self.numbers(other), [1])

    def test_rolled_back_by_sqlite(self) -> None:
        """On a full disk SQLite may have rolled back itself: the error is that of the disk."""
        database = self.open()
        database.execute("PRAGMA max_page_count = 1")
        with self.assertRaises(sqlite3.OperationalError) as caught, transaction(database):
            for _ in range(2000):
                database.execute("INSERT INTO numbers VALUES (1)")
        self.assertEqual(errno_of(caught.exception), errno.ENOSPC)
        self.assertEqual((database.in_transaction, self.numbers(database)), (False, []))

    def test_busy(self) -> None:
        """Another connection's transaction is ``EBUSY``; the call is repeated until that is over."""
        database, other = self.open(), self.open()
        other.execute("PRAGMA busy_timeout = 0")
        attempts = 0

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 3:
                database.execute("COMMIT")
            with transaction(other):
                other.execute("INSERT INTO numbers VALUES (7)")

        self.patch(sqlite_file, "_POLL_INTERVAL", 0.0)
        database.execute("BEGIN IMMEDIATE")
        retry_while_busy(attempt)
        self.assertEqual((attempts, self.numbers(database)), (3, [7]))
        self.patch(sqlite_file, "BUSY_TIMEOUT", 0.0)
        database.execute("BEGIN IMMEDIATE")
        error = self.assertRaises(sqlite3.OperationalError, retry_while_busy, attempt)
        self.assertEqual((errno_of(error), attempts), (errno.EBUSY, 4))

    def test_not_busy(self) -> None:
        """Another error is raised at once."""
        calls: list[int] = []

        def broken() -> None:
            calls.append(1)
            raise sqlite3.OperationalError("no such table")

        self.assertRaises(sqlite3.OperationalError, retry_while_busy, broken)
        self.assertEqual(len(calls), 1)


class ErrorTests(SynchronousTestCase):
    """What SQLite's errors mean."""

    def test_codes(self) -> None:
        """Extended codes count as their primary one; what is not the disk's fault has no errno."""
        error = sqlite3.OperationalError("x")
        self.assertEqual((result_code(error), errno_of(error)), (None, None))
        for code, number in (
            (sqlite3.SQLITE_FULL, errno.ENOSPC),
            (sqlite3.SQLITE_IOERR_WRITE, errno.EIO),
            (sqlite3.SQLITE_READONLY_DBMOVED, errno.EROFS),
            (sqlite3.SQLITE_CANTOPEN, errno.EIO),
            (sqlite3.SQLITE_BUSY_SNAPSHOT, errno.EBUSY),
            (sqlite3.SQLITE_CONSTRAINT, None),
            (sqlite3.SQLITE_ERROR, None),
        ):
            error.sqlite_errorcode = code
            self.assertEqual((result_code(error), errno_of(error)), (code & 0xFF, number))

    def test_damage(self) -> None:
        """A file that is no database, or is damaged, has a code of damage."""
        path = self.mktemp()
        Path(path).write_bytes(b"<html>" * 1000)
        error = self.assertRaises(sqlite3.DatabaseError, connect, path, prepare)
        self.assertIn(result_code(error), DAMAGE)
        self.assertIn(sqlite3.SQLITE_CORRUPT, DAMAGE)
