"""SQLite files: created with a mode, connected, changed in transactions, with an errno for their errors."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: Seconds for which SQLite waits for another connection's transaction.
BUSY_TIMEOUT: Final = 5.0
_POLL_INTERVAL: Final = 0.05

#: Primary result codes of a file that is damaged, or no database at all.
DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})

_ERRNO: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_BUSY: errno.EBUSY,
    sqlite3.SQLITE_LOCKED: errno.EBUSY,
    sqlite3.SQLITE_NOLFS: errno.EFBIG,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}


def result_code(error: sqlite3.Error) -> int | None:
    """The primary result code (sqlite.org/rescode.html), ``None`` where Python itself raised the error."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def errno_of(error: sqlite3.Error) -> int | None:
    """The errno that says the same, ``None`` where the disk and other processes are not the reason."""
    return _ERRNO.get(result_code(error) or 0)


def create_with_mode(path: str, mode: int) -> bool:
    """
    Create an empty file where there is none. Returns whether it was created.

    SQLite would make it readable for everybody; the files that it puts beside get the mode of this one.

    :raises OSError: the disk does not allow it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    except FileExistsError:
        return False
    return True


def connect(
    path: str, prepare: Callable[[sqlite3.Connection], None], *, immutable: bool = False
) -> sqlite3.Connection:
    """
    A connection to the file, for any thread, one at a time. Only :func:`transaction` begins transactions.

    :param prepare: called with the connection before it is returned; where it raises, that is closed.
    :param immutable: read the file as it is, without log and locks: for one that nobody can write.
    :raises sqlite3.Error: it cannot be opened.
    """
    name = f"{Path(path).as_uri()}?mode=ro&immutable=1" if immutable else path
    database = sqlite3.connect(
        name, uri=immutable, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def set_pragmas(database: sqlite3.Connection, settings: Mapping[str, object]) -> None:
    """Change settings of the connection or the file, in this order (sqlite.org/pragma.html)."""
    for name, value in settings.items():
        database.execute(f"PRAGMA {name} = {value}").fetchone()


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """
    One transaction that may write: committed at the end, rolled back where the block or the commit raises.

    :raises sqlite3.Error: it cannot be begun or committed.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite itself may have rolled back: on a full disk it does
            database.execute("ROLLBACK")
        raise


def retry_while_busy(call: Callable[[], None]) -> None:
    """
    Call until it succeeds, for up to :data:`BUSY_TIMEOUT` seconds, as long as another connection is in the
    way: SQLite itself does not wait where a file gets its log.

    :raises sqlite3.Error: it still does not succeed.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if result_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_POLL_INTERVAL)
