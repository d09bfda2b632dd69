"""
The store of the cache directory in one SQLite file, which several gateways of a machine may share.

Every method is one short transaction. Unlike the index of a cache this file cannot be rebuilt: so every change
is on the disk when its method returns, and a damaged file is never moved aside.

SQLite cannot open a file in WAL mode on a disk that is full or read-only, not even to read it. A gateway that
starts then reads the file as it is, and reopens it as soon as that is possible: until then nothing can be
changed.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, Final
from uuid import UUID

from contentcache.gateway.directory import Cache, NameTakenError
from contentcache.persist.atomic_file import make_folders
from contentcache.persist.sqlite_file import (
    connect,
    create_with_mode,
    errno_of,
    result_code,
    retry_while_busy,
    set_pragmas,
    transaction,
)

VERSION: Final = 1

#: "CC" and "gw" in ASCII: tells these files from those of other programs.
_APPLICATION: Final = 0x43436777
#: Seconds between two tries to reopen a file that could only be read.
_REOPEN_INTERVAL: Final = 10.0
_PRIVATE: Final = 0o600

_SCHEMA: Final = (
    """
    CREATE TABLE caches (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL COLLATE NOCASE UNIQUE,
        host TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE accounts (
        name TEXT PRIMARY KEY,
        cache TEXT REFERENCES caches (id) ON DELETE SET NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX accounts_by_cache ON accounts (cache) WHERE cache NOT NULL",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)

#: Another program holds the file: it is not to be read as it is, since that may change at any moment.
_HELD: Final = frozenset({errno.EBUSY, errno.ENOMEM})
_PRAGMAS: Final = {"journal_mode": "WAL", "synchronous": "FULL", "foreign_keys": "ON"}


class DatabaseUnusableError(Exception):
    """The file is of a later version, or no database of a gateway; the sentence says which, and what to do."""


class SqliteDirectory:
    """
    A :class:`~contentcache.gateway.directory.DirectoryStore` in the file at ``path``, made if it is missing.

    :raises DatabaseUnusableError: something else is there.
    :raises OSError: the disk is full, read-only or broken, or another program holds the file.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._lock = RLock()
        make_folders(os.path.dirname(self._path))
        create_with_mode(self._path, _PRIVATE)
        #: Why nothing can be written since the file was opened; ``None`` if it can be.
        self.read_only: str | None = None
        self._database: sqlite3.Connection | None = None
        self._next_reopen = 0.0
        try:
            self._database = self._open()
        except OSError as error:
            self._database = self._open_read_only(error)
            self._note_read_only(error)

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._lock, self._named_errors():
            database, self._database = self._database, None
            if database is not None:
                database.close()

    def caches(self) -> Sequence[Cache]:
        """All caches, by name."""
        return [_cache(row) for row in self._rows("SELECT id, name, host FROM caches ORDER BY name")]

    def cache(self, cache_id: UUID) -> Cache | None:
        """One cache."""
        rows = self._rows("SELECT id, name, host FROM caches WHERE id = ?", str(cache_id))
        return _cache(rows[0]) if rows else None

    def add(self, cache: Cache) -> None:
        """Add a cache."""
        with self._change() as database:
            _check_name(database, cache)
            database.execute("INSERT INTO caches VALUES (?, ?, ?)", (str(cache.id), cache.name, cache.host))

    def change(self, cache: Cache) -> bool:
        """Give a cache another name or host."""
        with self._change() as database:
            _check_name(database, cache)
            changed = database.execute(
                "UPDATE caches SET name = ?, host = ? WHERE id = ?", (cache.name, cache.host, str(cache.id))
            )
            return changed.rowcount > 0

    def remove(self, cache_id: UUID) -> None:
        """Remove a cache, and all choices of it."""
        with self._change() as database:
            database.execute("DELETE FROM caches WHERE id = ?", (str(cache_id),))

    def users(self) -> Mapping[UUID, int]:
        """How many accounts have chosen each cache."""
        query = "SELECT cache, count(*) FROM accounts WHERE cache NOT NULL GROUP BY cache"
        return {UUID(cache_id): count for cache_id, count in self._rows(query)}

    def choice(self, account: str) -> UUID | None:
        """The cache that an account has chosen."""
        rows = self._rows("SELECT cache FROM accounts WHERE name = ?", _text(account))
        return UUID(rows[0][0]) if rows and rows[0][0] is not None else None

    def choose(self, account: str, cache_id: UUID | None) -> bool:
        """Set or unset an account's choice."""
        wanted = None if cache_id is None else str(cache_id)
        with self._change() as database:
            if (
                wanted is not None
                and not database.execute("SELECT 1 FROM caches WHERE id = ?", (wanted,)).fetchone()
            ):
                return False
            database.execute(
                "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET cache = excluded.cache",
                (_text(account), wanted),
            )
        return True

    def add_account(self, account: str) -> None:
        """Add an account."""
        if not self.has_account(account):  # most often it has: readers wait for no lock
            with self._change() as database:
                database.execute("INSERT OR IGNORE INTO accounts VALUES (?, NULL)", (_text(account),))

    def has_account(self, account: str) -> bool:
        """Whether an account was added, or has ever chosen."""
        return bool(self._rows("SELECT 1 FROM accounts WHERE name = ?", _text(account)))

    def count_accounts(self) -> tuple[int, dict[UUID, int]]:
        """How many accounts there are, and how many have chosen each cache."""
        ((accounts,),) = self._rows("SELECT count(*) FROM accounts")
        rows = self._rows("SELECT cache, count(*) FROM accounts WHERE cache IS NOT NULL GROUP BY cache")
        return int(accounts), {UUID(cache): int(count) for cache, count in rows}

    def _open(self) -> sqlite3.Connection:
        """Open the file for reading and writing."""
        with self._named_errors():
            # Other gateways may open it at the same time.
            return connect(self._path, lambda database: retry_while_busy(partial(self._prepare, database)))

    def _open_read_only(self, error: OSError) -> sqlite3.Connection:
        """
        Open the file as it is on the disk, for reading. ``error`` is raised where that is not all of it: the WAL
        has later changes, or there is nothing in it yet.
        """
        log = Path(self._path + "-wal")
        is_empty = not os.path.exists(self._path) or not os.path.getsize(self._path)
        if error.errno in _HELD or is_empty or (log.exists() and log.stat().st_size):
            raise error
        with self._named_errors():
            # SQLite assumes that no program writes: none can, on a disk that is full or read-only.
            return connect(self._path, self._check, immutable=True)

    def _note_read_only(self, error: OSError) -> None:
        self.read_only = error.strerror or str(error)
        self._next_reopen = time.monotonic() + _REOPEN_INTERVAL

    def _reopen(self) -> None:
        """
        Reopen for writing what could only be read so far, if it is time for that.

        :raises OSError: it still cannot be.
        """
        if time.monotonic() < self._next_reopen:
            raise OSError(
                errno.EROFS, f"the database of caches can only be read: {self.read_only}", self._path
            )
        self._next_reopen = time.monotonic() + _REOPEN_INTERVAL
        fresh, before = self._open(), self._database
        self._database, self.read_only = fresh, None
        if before is not None:
            before.close()

    def _prepare(self, database: sqlite3.Connection) -> None:
        set_pragmas(database, _PRAGMAS)
        with transaction(database):  # of two gateways that start at once one creates the tables
            self._check_or_create(database)

    def _check_or_create(self, database: sqlite3.Connection) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not application and not version and not tables:
            for statement in _SCHEMA:
                database.execute(statement)
        else:
            self._check(database)

    def _check(self, database: sqlite3.Connection) -> None:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise DatabaseUnusableError(f"{self._path} is the database of another program: name another file")
        if version > VERSION:
            raise DatabaseUnusableError(
                f"{self._path} is of version {version}, this program knows version {VERSION}:"
                " run the newer program"
            )

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._connection(for_writing=False) as database:
            return database.execute(query, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._connection(for_writing=True) as database, transaction(database):
            yield database

    @contextmanager
    def _connection(self, *, for_writing: bool) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._database is None:
                raise OSError(errno.EBADF, "the database was closed", self._path)
            try:
                if self.read_only is not None:
                    with nullcontext() if for_writing else suppress(OSError):
                        self._reopen()
                with self._named_errors():
                    yield self._database
            except DatabaseUnusableError as unusable:  # it has become so while it was open
                raise OSError(errno.EIO, str(unusable), self._path) from unusable

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if result_code(error) == sqlite3.SQLITE_NOTADB:
                raise DatabaseUnusableError(
                    f"{self._path} is no database: name another file, or bring this one back from a copy"
                ) from error
            number = errno_of(error) or errno.EIO
            raise OSError(number, f"the database of caches does not work: {error}", self._path) from error


def _check_name(database: sqlite3.Connection, cache: Cache) -> None:
    """:raises NameTakenError: another cache has the name."""
    query = "SELECT 1 FROM caches WHERE name = ? AND id != ?"
    if database.execute(query, (cache.name, str(cache.id))).fetchone():
        raise NameTakenError(cache.name)


def _cache(row: tuple[Any, ...]) -> Cache:
    cache_id, name, host = row
    return Cache(UUID(cache_id), name, host)


def _text(account: str) -> str:
    """A name as SQLite accepts it: a lone surrogate is no UTF-8."""
    return account.encode("utf-8", "backslashreplace").decode("utf-8")
