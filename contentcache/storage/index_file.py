"""The file under the SQLite index: its tables and their limits, how it is opened, what its errors mean."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from contentcache.persist.sqlite_file import (
    DAMAGE,
    connect,
    create_with_mode,
    errno_of,
    result_code,
    set_pragmas,
    transaction,
)
from contentcache.storage.interfaces import IndexDamaged, IndexTooNew

VERSION: Final = 2

_PAGE: Final = 4096

_POSSESSIONS: Final = """
    CREATE TABLE possessions (
        digest TEXT NOT NULL,
        origin TEXT NOT NULL,
        PRIMARY KEY (digest, origin)
    ) WITHOUT ROWID
    """
_POSSESSIONS_TRIGGER: Final = """
    CREATE TRIGGER possessions_gone AFTER DELETE ON blobs BEGIN
        DELETE FROM possessions WHERE digest = OLD.digest;
    END
    """

#: What makes a file of version 1 one of version 2. Version 1 did not say which origin had delivered a blob: so
#: each origin has to prove that it has the bytes before they are served in its name. Links without a
#: repository meant that an origin had said so, which proves nothing.
_UPGRADE: Final = (
    _POSSESSIONS,
    _POSSESSIONS_TRIGGER,
    "DELETE FROM links WHERE repository = ''",
    f"PRAGMA user_version = {VERSION}",
)

# ``blobs.pulled`` plus ``state.shifted`` is the last pull: so a jump of the clock moves a million pulls by
# writing one row. ``links.stored`` says whether ``blobs`` has the digest: so what may be purged is found
# without reading the links of stored blobs. Triggers update both.
_SCHEMA: Final = (
    """
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        bytes INTEGER NOT NULL,
        shifted REAL NOT NULL,
        complete INTEGER NOT NULL
    )
    """,
    "INSERT INTO state VALUES (0, 0, 0.0, 0)",
    """
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        pulled REAL NOT NULL,
        verified INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX blobs_by_pull ON blobs (pulled, digest)",
    """
    CREATE TABLE links (
        digest TEXT NOT NULL,
        repository TEXT NOT NULL,
        origin TEXT NOT NULL,
        kind TEXT NOT NULL,
        affirmed REAL NOT NULL,
        media_type TEXT,
        stored INTEGER NOT NULL,
        PRIMARY KEY (digest, repository, origin, kind)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX links_by_age ON links (affirmed) WHERE stored = 0",
    """
    CREATE TABLE tags (
        origin TEXT NOT NULL,
        repository TEXT NOT NULL,
        name TEXT NOT NULL,
        accept TEXT NOT NULL,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size INTEGER,
        seen REAL NOT NULL,
        PRIMARY KEY (origin, repository, name, accept)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX tags_by_age ON tags (seen)",
    _POSSESSIONS,
    _POSSESSIONS_TRIGGER,
    """
    CREATE TRIGGER blob_added AFTER INSERT ON blobs BEGIN
        UPDATE state SET bytes = bytes + NEW.size;
        UPDATE links SET stored = 1 WHERE digest = NEW.digest;
    END
    """,
    """
    CREATE TRIGGER blob_resized AFTER UPDATE OF size ON blobs BEGIN
        UPDATE state SET bytes = bytes + NEW.size - OLD.size;
    END
    """,
    """
    CREATE TRIGGER blob_gone AFTER DELETE ON blobs BEGIN
        UPDATE state SET bytes = bytes - OLD.size;
        UPDATE links SET stored = 0 WHERE digest = OLD.digest;
    END
    """,
    f"PRAGMA user_version = {VERSION}",
)

_NAMES: Final = frozenset(
    {"state", "blobs", "blobs_by_pull", "links", "links_by_age", "tags", "tags_by_age"}
    | {"blob_added", "blob_resized", "blob_gone"}
)
_NEW_NAMES: Final = frozenset({"possessions", "possessions_gone"})

# Each walks down one edge of a tree: what is torn or cut off at the end shows here, at any size.
_PROBES: Final = tuple(
    f"SELECT * FROM {table} ORDER BY {column} {direction} LIMIT 1"  # noqa: S608 - constants
    for table, column in (
        ("blobs", "digest"),
        ("blobs", "pulled"),
        ("links", "digest"),
        ("tags", "origin"),
        ("tags", "seen"),
    )
    for direction in ("ASC", "DESC")
)

_PRAGMAS: Final = {
    "page_size": _PAGE,
    "journal_mode": "WAL",
    "synchronous": "NORMAL",
    "cell_size_check": "ON",
    "journal_size_limit": 64 << 20,
}


#: Keeps the number of blobs as long as the file is open, and nothing of it in the file: a program of an earlier
#: version can open it.
COUNT_BLOBS: Final = (
    "PRAGMA temp_store = MEMORY",
    "CREATE TEMP TABLE blob_count AS SELECT count(*) AS number FROM blobs",
    """
    CREATE TEMP TRIGGER blob_counted AFTER INSERT ON main.blobs BEGIN
        UPDATE blob_count SET number = number + 1;
    END
    """,
    """
    CREATE TEMP TRIGGER blob_discounted AFTER DELETE ON main.blobs BEGIN
        UPDATE blob_count SET number = number - 1;
    END
    """,
)


class RowLimit:
    """
    Bounds the rows of a table to ``most``: ``drops`` delete the oldest ones, a hundredth of them at once.

    Rows are counted when the first one is added, and again once enough were added.
    """

    def __init__(self, table: str, drops: Sequence[str], most: int) -> None:
        self._count = f"SELECT count(*) FROM {table}"  # noqa: S608 - constants
        self._drops = drops
        self._most = most
        self._room = 0

    def added(self, database: sqlite3.Connection) -> None:
        """A row was added; one that replaces an old one may be reported too."""
        self._room -= 1
        if self._room >= 0:
            return
        ((count,),) = database.execute(self._count).fetchall()
        most = self._most
        at_once = min(max(1, most // 100), most - 1)
        if count > most:
            left = count - most + at_once
            for drop in self._drops:
                left -= database.execute(drop, (left,)).rowcount
                if left <= 0:
                    break
            count = most - at_once
        # To count costs as much as there are rows.
        self._room = max(most - count, 0)


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turn what SQLite raises into ``OSError`` with its errno, or :class:`IndexDamaged`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code, number = result_code(error), errno_of(error)
        if number is not None:
            raise OSError(number, f"the index does not work: {error}", path) from error
        is_not_utf8 = code is None and isinstance(error, sqlite3.OperationalError)
        if is_not_utf8 or code in DAMAGE:
            raise damage(path, error) from error
        raise


def open_database(path: str) -> sqlite3.Connection:
    """
    Open the file, or make it; a damaged one is moved aside first.

    :raises IndexTooNew: it is of a later version.
    :raises OSError: the disk does not allow it.
    """
    if os.path.exists(_damage_note(path)):
        _set_aside(path)
    try:
        return _open(path)
    except IndexDamaged:
        _set_aside(path)
        return _open(path)


def mark_damaged(path: str) -> None:
    """Mark the file as damaged, with a note beside it, for the next start."""
    with suppress(OSError):
        os.close(os.open(_damage_note(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))


def _open(path: str) -> sqlite3.Connection:
    _check_writable(path)
    if os.path.getsize(path) % _PAGE and not os.path.exists(f"{path}-wal"):
        # SQLite would read zeros there. With a log beside it the end may be about to be written anew.
        raise damage(path, "its end was cut off")
    with named_errors(path):
        return connect(path, partial(_prepare, path=path))


def _check_writable(path: str) -> None:
    # Not opened here to try: to close it would drop the locks of this process on it. But
    # SQLite would be content with reading, and the first change would fail much later.
    if not create_with_mode(path, 0o640) and not os.access(path, os.W_OK):
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        raise OSError(errno.EROFS if read_only else errno.EACCES, "cannot be written", path)


def _prepare(database: sqlite3.Connection, path: str) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise IndexTooNew(
            f"{path} is of version {version}, this program knows version {VERSION}: run the newer program,"
            " or move the file away and it is made anew from the stored blobs"
        )
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE sql NOT NULL")}
    if version != 0 or names:
        _probe(database, path, version, names)
    set_pragmas(database, _PRAGMAS)
    if version < VERSION:
        with transaction(database):
            for statement in _SCHEMA if version == 0 else _UPGRADE:
                database.execute(statement)


def _probe(database: sqlite3.Connection, path: str, version: int, names: set[str]) -> None:
    if version == 0 or not names >= (_NAMES if version == 1 else _NAMES | _NEW_NAMES):
        raise damage(path, "its tables are not the index's")
    try:
        if database.execute("SELECT bytes, shifted, complete FROM state").fetchone() is None:
            raise damage(path, "its state is missing")
        for probe in _PROBES:
            database.execute(probe).fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no such column
            raise damage(path, error) from error
        raise


def _set_aside(path: str) -> None:
    """
    Move the file to ``<path>.damaged-1``, and one that was there to ``-2``: the last two are kept.

    The write-ahead log goes first: SQLite would replay it into the new file.
    """
    for suffix in ("-wal", "-shm", ""):
        current, last, older = (f"{path}{place}{suffix}" for place in ("", ".damaged-1", ".damaged-2"))
        with suppress(FileNotFoundError):
            os.unlink(older)
        with suppress(FileNotFoundError):
            os.replace(last, older)
        with suppress(FileNotFoundError):
            os.replace(current, last)
    with suppress(FileNotFoundError):
        os.unlink(_damage_note(path))


def _damage_note(path: str) -> str:
    return f"{path}.suspect"


def damage(path: str, reason: object) -> IndexDamaged:
    return IndexDamaged(
        f"{path} is damaged ({reason}): when it is next opened, it is moved aside and made anew from the"
        " stored blobs"
    )
