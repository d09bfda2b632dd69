"""Tests for :mod:`contentcache.gateway.database`."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.database import DatabaseUnusableError, SqliteDirectory
from contentcache.gateway.directory import DirectoryStore, NameTakenError
from tests.gateway import directory_suite
from tests.gateway.directory_suite import cache
from tests.real.programs import needs, run


class SqliteDirectoryTests(directory_suite.DirectorySuite):
    """What a file adds."""

    def make_directory(self) -> DirectoryStore:
        self.path = os.path.join(self.mktemp(), "gateway", "gateway.sqlite3")
        return SqliteDirectory(self.path)

    def another(self) -> SqliteDirectory:
        """Another gateway with the same file."""
        other = SqliteDirectory(self.path)
        self.addCleanup(other.close)
        return other

    def test_lasts(self) -> None:
        """Caches and choices are the same after a restart."""
        self.directory.add(cache(1))
        self.directory.choose("alice", UUID(int=1))
        self.directory.add_account("bob")
        self.directory.close()
        again = self.another()
        self.assertEqual(list(again.caches()), [cache(1)])
        self.assertEqual((again.choice("alice"), again.has_account("bob")), (UUID(int=1), True))

    def test_shared(self) -> None:
        """What one gateway writes the other one reads at once, a removed cache too."""
        other = self.another()
        self.directory.add(cache(1))
        self.assertRaises(NameTakenError, other.add, cache(2, "CACHE-1"))
        self.assertTrue(other.choose("alice", UUID(int=1)))
        self.assertEqual(self.directory.choice("alice"), UUID(int=1))
        self.directory.remove(UUID(int=1))
        self.assertIsNone(other.choice("alice"))
        self.assertFalse(other.choose("alice", UUID(int=1)))

    def test_at_once(self) -> None:
        """Two gateways that write at the same time wait for each other, and nothing is lost."""
        directories = (self.directory, self.another())
        faults: list[BaseException] = []

        def write(number: int) -> None:
            try:
                for count in range(25):
                    directories[number].choose(f"{number}-{count}", None)
                    directories[number].add(cache(1000 * number + count + 1, f"c-{number}-{count}"))
            except BaseException as error:  # noqa: BLE001
                faults.append(error)

        threads = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(faults, [])
        self.assertEqual(len(self.directory.caches()), 50)
        self.assertTrue(all(self.directory.has_account(f"{n}-{c}") for n in (0, 1) for c in range(25)))

    def test_opened_at_once(self) -> None:
        """Of several gateways that start at once without a file, one creates it."""
        path = os.path.join(self.mktemp(), "x.sqlite3")
        opened: list[SqliteDirectory] = []
        threads = [threading.Thread(target=lambda: opened.append(SqliteDirectory(path))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(opened), 6)
        opened[0].add(cache(1))
        self.assertEqual([list(each.caches()) for each in opened], [[cache(1)]] * 6)
        for each in opened:
            each.close()

    def test_mode(self) -> None:
        """Nobody else on the machine can read who chose what."""
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)

    def test_closed(self) -> None:
        """A closed store raises, and may be closed again."""
        self.directory.close()
        self.directory.close()
        self.assertRaises(OSError, self.directory.caches)

    def test_other_files(self) -> None:
        """A file of another program, of a later version, or that is no database is named and left as it is."""
        folder = Path(self.mktemp())
        folder.mkdir()
        text = folder / "text"
        text.write_bytes(b"not a database at all" * 100)
        self.assertIn(
            "no database", str(self.assertRaises(DatabaseUnusableError, SqliteDirectory, str(text)))
        )
        self.assertEqual(text.read_bytes(), b"not a database at all" * 100)
        foreign = folder / "foreign"
        database = sqlite3.connect(foreign)
        database.execute("CREATE TABLE caches (x)")
        database.commit()
        database.close()
        said = str(self.assertRaises(DatabaseUnusableError, SqliteDirectory, str(foreign)))
        self.assertIn("another program", said)
        self.directory.close()
        database = sqlite3.connect(self.path)
        database.execute("PRAGMA user_version = 2")
        database.close()
        said = str(self.assertRaises(DatabaseUnusableError, SqliteDirectory, self.path))
        self.assertIn("version 2", said)

    def test_busy(self) -> None:
        """A file that another program keeps locked is a failure of the disk with its errno."""
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        self.directory._database.execute("PRAGMA busy_timeout = 1")  # type: ignore[attr-defined]
        other.execute("BEGIN IMMEDIATE")
        error = self.assertRaises(OSError, self.directory.add, cache(1))
        self.assertEqual(error.errno, 16)
        other.execute("ROLLBACK")
        self.directory.add(cache(1))

    def test_imports(self) -> None:
        """The module can be used by a script that has no Twisted."""
        script = "import sys, contentcache.gateway.database; sys.exit('twisted' in sys.modules)"
        run([sys.executable, "-c", script])

    def test_becomes_unusable(self) -> None:
        """A file that is damaged while it is open is a failure of the disk, like any other."""
        directory: Any = self.directory
        error = sqlite3.DatabaseError("file is not a database")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB

        class Spoilt:
            def execute(self, *_: object) -> NoReturn:
                raise error

        self.patch(directory, "_database", Spoilt())
        for use in (directory.caches, lambda: directory.choose("ann", None)):
            self.assertEqual(self.assertRaises(OSError, use).errno, errno.EIO)


@needs("mount", root=True)
class FullDiskTests(SynchronousTestCase):
    """On a filesystem of its own without a free byte."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.folder)])
        self.addCleanup(run, ["umount", "--lazy", str(self.folder)])
        self.path = str(self.folder / "gateway.sqlite3")
        self.ballast = self.folder / "ballast"

    def open(self) -> SqliteDirectory:
        """A gateway's view of the file."""
        directory = SqliteDirectory(self.path)
        self.addCleanup(directory.close)
        return directory

    def fill(self) -> None:
        """Fill the filesystem."""
        for piece in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError), self.ballast.open("ab", buffering=0) as file:
                while file.write(bytes(piece)):
                    pass

    def assert_only_read(self, directory: SqliteDirectory) -> None:
        """What is stored can be read, and each write is an error of the disk."""
        for _ in range(2):
            for write in (
                lambda: directory.choose("bob", UUID(int=1)),
                lambda: directory.add_account("carol"),
                lambda: directory.add(cache(2)),
                lambda: directory.remove(UUID(int=1)),
            ):
                error = self.assertRaises(OSError, write)
                self.assertIn(error.errno, {errno.ENOSPC, errno.EIO, errno.EROFS})
            self.assertEqual(list(directory.caches()), [cache(1)])
            self.assertEqual(directory.cache(UUID(int=1)), cache(1))
            self.assertEqual((directory.choice("ann"), directory.choice("bob")), (UUID(int=1), None))

    def test_fills_up(self) -> None:
        """
        A disk that fills up under a gateway: reading goes on, writing fails, and works again when there is
        room.
        """
        directory = self.open()
        directory.add(cache(1))
        directory.choose("ann", UUID(int=1))
        self.fill()
        self.assert_only_read(directory)
        self.ballast.unlink()
        self.assertTrue(directory.choose("bob", UUID(int=1)))

    def test_starts(self) -> None:
        """
        A gateway that starts on a full disk knows what is in the file, whether the one before has stopped or
        was killed; once there is room it writes again.
        """
        first = self.open()
        first.add(cache(1))
        first.choose("ann", UUID(int=1))
        first.close()
        self.fill()
        directory = self.open()
        self.assertIsNotNone(directory.read_only)
        self.assert_only_read(directory)
        self.ballast.unlink()
        self.patch(directory, "_next_reopen", 0.0)
        self.assertTrue(directory.choose("bob", UUID(int=1)))
        self.assertIsNone(directory.read_only)
        self.assertEqual(directory.choice("bob"), UUID(int=1))

    def test_nothing_there(self) -> None:
        """Where there is no file yet, and no room for one, opening fails."""
        self.fill()
        self.assertRaises(OSError, SqliteDirectory, self.path)
