"""The index in one SQLite file."""

from __future__ import annotations

import errno
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any, Final

from contentcache.core.digest import Digest
from contentcache.core.errors import DigestInvalid
from contentcache.persist.atomic_file import make_folders
from contentcache.persist.sqlite_file import transaction
from contentcache.storage.index_file import (
    COUNT_BLOBS,
    RowLimit,
    damage,
    mark_damaged,
    named_errors,
    open_database,
)
from contentcache.storage.index_statements import (
    AFFIRM,
    AFFIRM_AGAIN,
    DROP_LINKS,
    DROP_ROWS_OF_TAG,
    DROP_TAGS,
    PURGE_LINKS,
    PURGE_TAGS,
    REPOSITORIES,
    TAGS,
)
from contentcache.storage.interfaces import (
    MOST_NAMES,
    Affirmation,
    BlobNames,
    BlobRecord,
    IndexDamaged,
    IndexLimits,
    Link,
    Tag,
    TagRecord,
)

Row = tuple[Any, ...]

_RECORD: Final = "SELECT digest, size, pulled, verified FROM blobs"
_LARGEST: Final = (1 << 63) - 1


class SqliteIndex:
    """
    An :class:`~contentcache.storage.interfaces.Index` in the file at ``path``.

    Opening it does not read its rows, however many there are. Each change is one transaction; a loss of power
    may undo the last ones, except where a docstring says otherwise.

    :raises IndexTooNew: a later version of this program wrote it.
    :raises IndexDamaged: by any method, once the file is found to contradict itself; it is moved aside and
        rebuilt when it is next opened.
    :raises OSError: the disk is full, read-only or broken, with its errno.
    """

    def __init__(self, path: str, limits: IndexLimits | None = None) -> None:
        self._path = os.path.abspath(path)
        self._lock = RLock()
        make_folders(os.path.dirname(self._path))
        self._database: sqlite3.Connection | None = open_database(self._path)
        self._damage: IndexDamaged | None = None
        limits = limits or IndexLimits()
        self._links = RowLimit("links", DROP_LINKS, limits.links)
        self._tags = RowLimit("tags", DROP_TAGS, limits.tag_rows)
        self._rows_of_tag = limits.rows_of_tag
        ((shifted, complete),) = self._rows("SELECT shifted, complete FROM state")
        self._shifted = float(shifted)
        self._complete = bool(complete)
        #: Whether the number of blobs is kept.
        self._counts = False

    @property
    def rebuilt(self) -> bool:
        """Whether the store must be listed, since no listing was ever finished into this file."""
        return not self._complete

    def rebuild_done(self) -> None:
        """The store was listed to its end."""
        with self._change() as database:
            database.execute("UPDATE state SET complete = 1")
        self._complete = True

    def close(self) -> None:
        """Close the file. May be called twice."""
        with self._lock:
            database, self._database = self._database, None
            if database is not None:
                with named_errors(self._path):
                    database.close()

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of one blob."""
        with self._lock:
            row = self._row(f"{_RECORD} WHERE digest = ?", str(digest))
            return None if row is None else self._record(row)

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """Add blobs, or replace what is known of them; what is not verified is fsynced."""
        records = list(blobs)
        announced = not all(record.verified for record in records)
        with self._change(fsync=announced) as database:
            database.executemany(
                "INSERT INTO blobs VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE"
                " SET size = excluded.size, pulled = excluded.pulled, verified = excluded.verified",
                [(str(one.digest), one.size, one.pulled - self._shifted, one.verified) for one in records],
            )

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        """Set last pulls. A pull never goes back in time; unknown digests are passed over."""
        with self._change() as database:
            database.executemany(
                "UPDATE blobs SET pulled = ?1 WHERE digest = ?2 AND pulled < ?1",
                [(pulled - self._shifted, str(digest)) for digest, pulled in pulls.items()],
            )

    def forget(self, digests: Iterable[Digest]) -> None:
        """Delete the records of blobs."""
        deleted = [(str(digest),) for digest in digests]
        with self._change() as database:
            database.executemany("DELETE FROM blobs WHERE digest = ?", deleted)

    def least_recent(
        self, limit: int, before: float | None = None, after: BlobRecord | None = None
    ) -> Sequence[BlobRecord]:
        """At most ``limit`` records, least recently pulled first."""
        where: list[str] = []
        values: list[object] = []
        with self._lock:
            if before is not None:
                where.append("pulled < ?")
                values.append(before - self._shifted)
            if after is not None:
                where.append("(pulled, digest) > (?, ?)")
                values += [after.pulled - self._shifted, str(after.digest)]
            query = f"{_RECORD} WHERE {' AND '.join(where) or 'TRUE'} ORDER BY pulled, digest LIMIT ?"
            return [self._record(row) for row in self._rows(query, *values, limit)]

    def following(self, digest: Digest | None, limit: int) -> Sequence[BlobRecord]:
        """At most ``limit`` records in the order of their digests."""
        with self._lock:
            behind = "" if digest is None else str(digest)
            rows = self._rows(f"{_RECORD} WHERE digest > ? ORDER BY digest LIMIT ?", behind, limit)
            return [self._record(row) for row in rows]

    def possesses(self, origin: str, digest: Digest) -> bool:
        """Whether ``origin`` has delivered these stored bytes, or proved that it has them."""
        query = "SELECT 1 FROM possessions WHERE digest = ? AND origin = ?"
        return self._row(query, str(digest), origin) is not None

    def record_possession(self, origin: str, digest: Digest) -> None:
        """``origin`` has delivered these bytes or proved that it has them."""
        with self._change() as database:
            database.execute(
                "INSERT OR IGNORE INTO possessions SELECT digest, ?2 FROM blobs WHERE digest = ?1",
                (str(digest), origin),
            )

    def total(self) -> int:
        """Bytes of all recorded blobs, a sum that triggers update."""
        ((total,),) = self._rows("SELECT bytes FROM state")
        return int(total)

    def count(self) -> int:
        """Number of recorded blobs. Counted at the first call, and from then on by temporary triggers."""
        with self._working() as database:
            if not self._counts:
                for statement in COUNT_BLOBS:
                    database.execute(statement)
                self._counts = True
            ((count,),) = database.execute("SELECT number FROM blob_count").fetchall()
            return int(count)

    def shift(self, seconds: float, now: float) -> None:
        """Move every last pull by ``seconds``, none beyond ``now``."""
        with self._lock:
            shifted = self._shifted + seconds
            latest = now - shifted
            while latest + shifted > now:  # rounded up
                latest = math.nextafter(latest, -math.inf)
            with self._change() as database:
                if seconds:
                    database.execute("UPDATE state SET shifted = ?", (shifted,))
                database.execute("UPDATE blobs SET pulled = ?1 WHERE pulled > ?1", (latest,))
            self._shifted = shifted

    def affirmation(self, link: Link) -> Affirmation | None:
        """When a link was affirmed, if ever."""
        row = self._row(
            "SELECT affirmed, media_type FROM links"
            " WHERE digest = ? AND repository = ? AND origin = ? AND kind = ?",
            *_link(link),
        )
        return None if row is None else Affirmation(*row)

    def affirm(self, link: Link, affirmation: Affirmation) -> None:
        """Record a 2xx of the origin. Without a media type the one that is known stays."""
        values = (*_link(link), affirmation.when, _text(affirmation.media_type))
        with self._change() as database:
            if database.execute(AFFIRM_AGAIN, values).rowcount == 0:
                database.execute(AFFIRM, values)
                self._links.added(database)

    def links(self, digests: Sequence[Digest]) -> Sequence[Link]:
        """All links of these digests that name a repository."""
        places = ", ".join("?" * len(digests))
        query = f"SELECT * FROM links WHERE repository <> '' AND digest IN ({places})"  # noqa: S608 - placeholders
        rows = self._rows(query, *map(str, digests))
        return [
            Link(origin, repository, kind, self._digest(digest))
            for digest, repository, origin, kind, *_ in rows
        ]

    def revoke(self, link: Link) -> None:
        """Delete a link, with an fsync: no loss of power restores a link that the origin denied."""
        if self.affirmation(link) is None:
            return
        with self._change(fsync=True) as database:
            database.execute(
                "DELETE FROM links WHERE digest = ? AND repository = ? AND origin = ? AND kind = ?",
                _link(link),
            )

    def tag(self, tag: Tag) -> TagRecord | None:
        """What a tag meant when the origin was last asked."""
        row = self._row(
            "SELECT digest, media_type, size, seen FROM tags"
            " WHERE origin = ? AND repository = ? AND name = ? AND accept = ?",
            *_tag(tag),
        )
        return None if row is None else TagRecord(self._digest(row[0]), *row[1:])

    def remember_tag(self, tag: Tag, record: TagRecord) -> None:
        """Record what a tag means."""
        size = record.size if record.size is None or record.size <= _LARGEST else None
        with self._change() as database:
            database.execute(
                "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*_tag(tag), str(record.digest), _text(record.media_type), size, record.when),
            )
            dropped = database.execute(DROP_ROWS_OF_TAG, (*_tag(tag)[:3], self._rows_of_tag)).rowcount
            if not dropped:
                self._tags.added(database)

    def names(self, digest: Digest) -> BlobNames:
        """Some of the repositories that have it, and of the tags that mean it."""
        text, repositories, tags = str(digest), dict[str, None](), dict[str, None]()
        for origin, repository in self._rows(REPOSITORIES, text, MOST_NAMES):
            repositories[repository] = None
            tags.update((name, None) for (name,) in self._rows(TAGS, origin, repository, text, MOST_NAMES))
        return BlobNames(tuple(repositories), tuple(tags))

    def purge(self, before: float, limit: int) -> int:
        """Delete at most ``limit`` old links of blobs that are not recorded, and ``limit`` old tags."""
        with self._change() as database:
            links = database.execute(PURGE_LINKS, (before, limit)).rowcount
            return links + database.execute(PURGE_TAGS, (before, limit)).rowcount

    def _record(self, row: Row) -> BlobRecord:
        digest, size, pulled, verified = row
        return BlobRecord(self._digest(digest), size, pulled + self._shifted, bool(verified))

    def _digest(self, text: str) -> Digest:
        try:
            return Digest.parse(text)
        except DigestInvalid as error:
            raise self._found_damage(damage(self._path, error)) from error

    def _row(self, query: str, *values: object) -> Row | None:
        rows = self._rows(query, *values)
        return rows[0] if rows else None

    def _rows(self, query: str, *values: object) -> list[Row]:
        with self._working() as database:
            return database.execute(query, values).fetchall()

    @contextmanager
    def _change(self, *, fsync: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; with ``fsync`` it is on the disk at the end, and all that came before it."""
        with self._working() as database:
            if fsync:
                database.execute("PRAGMA synchronous = FULL")
            try:
                with transaction(database):
                    yield database
            finally:
                if fsync:
                    database.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _working(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._damage is not None:
                raise self._damage
            if self._database is None:
                raise OSError(errno.EBADF, "the index was closed", self._path)
            try:
                with named_errors(self._path):
                    yield self._database
            except IndexDamaged as error:
                self._found_damage(error)
                raise

    def _found_damage(self, error: IndexDamaged) -> IndexDamaged:
        self._damage = error
        mark_damaged(self._path)
        return error


def _link(link: Link) -> tuple[str, str, str, str]:
    return str(link.digest), link.repository, link.origin, link.kind


def _tag(tag: Tag) -> tuple[str, str, str, str | None]:
    return tag.origin, tag.repository, tag.name, _text(tag.accept)


def _text(text: str | None) -> str | None:
    """
    What a client sent, as SQLite accepts it: a lone surrogate is no UTF-8.

    >>> _text("application/json\\udcff")
    'application/json\\\\udcff'
    """
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")
