"""The index in memory: for ``storage: inmemory``, for a disk that takes no index, and for tests."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from threading import RLock
from typing import Final

from attrs import evolve

from contentcache.core.digest import Digest
from contentcache.storage.interfaces import (
    MOST_NAMES,
    Affirmation,
    BlobNames,
    BlobRecord,
    IndexLimits,
    Link,
    Tag,
    TagRecord,
)

#: Links, and tags, that are looked at for the names of a blob.
_MOST_SEARCHED: Final = 10_000


class MemoryIndex:
    """An :class:`~contentcache.storage.interfaces.Index` that is empty whenever the daemon starts."""

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._limits = limits or IndexLimits()
        self._lock = RLock()
        self._records: dict[Digest, BlobRecord] = {}
        self._order: list[tuple[float, Digest]] = []
        self._total = 0
        self._possessions: dict[Digest, set[str]] = {}
        self._links: dict[Link, Affirmation] = {}
        self._tags: dict[Tag, TagRecord] = {}
        self._rows_of: dict[tuple[str, str, str], list[Tag]] = {}
        self._rebuilt = True

    @property
    def rebuilt(self) -> bool:
        """Whether the store must still be listed."""
        return self._rebuilt

    def rebuild_done(self) -> None:
        """The store was listed to its end."""
        self._rebuilt = False

    def close(self) -> None:
        """Nothing waits to be written."""

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of one blob."""
        return self._records.get(digest)

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """Add blobs, or replace what is known of them."""
        with self._lock:
            for record in blobs:
                self._drop(record.digest)
                self._add(record)

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        """Set last pulls. A pull never goes back in time; unknown digests are passed over."""
        with self._lock:
            for digest, pulled in pulls.items():
                record = self._records.get(digest)
                if record is not None and pulled > record.pulled:
                    self._drop(digest)
                    self._add(evolve(record, pulled=pulled))

    def forget(self, digests: Iterable[Digest]) -> None:
        """Delete the records of blobs."""
        with self._lock:
            for digest in digests:
                self._drop(digest)
                self._possessions.pop(digest, None)

    def possesses(self, origin: str, digest: Digest) -> bool:
        """Whether ``origin`` has delivered these stored bytes, or proved that it has them."""
        return origin in self._possessions.get(digest, ())

    def record_possession(self, origin: str, digest: Digest) -> None:
        """``origin`` has delivered these bytes or proved that it has them."""
        with self._lock:
            if digest in self._records:
                self._possessions.setdefault(digest, set()).add(origin)

    def least_recent(
        self, limit: int, before: float | None = None, after: BlobRecord | None = None
    ) -> Sequence[BlobRecord]:
        """At most ``limit`` records, least recently pulled first."""
        with self._lock:
            start = 0 if after is None else bisect_right(self._order, (after.pulled, after.digest))
            stop = len(self._order) if before is None else bisect_left(self._order, before, key=_pulled)
            return [self._records[digest] for _, digest in self._order[start : min(stop, start + limit)]]

    def following(self, digest: Digest | None, limit: int) -> Sequence[BlobRecord]:
        """At most ``limit`` records in the order of their digests; it looks at all of them."""
        with self._lock:
            behind = (one for one in self._records if digest is None or one > digest)
            return [self._records[one] for one in nsmallest(limit, behind)]

    def total(self) -> int:
        """Bytes of all recorded blobs."""
        return self._total

    def count(self) -> int:
        """Number of recorded blobs."""
        return len(self._records)

    def shift(self, seconds: float, now: float) -> None:
        """Move every last pull by ``seconds``, none beyond ``now``."""
        with self._lock:
            start = 0 if seconds else bisect_right(self._order, now, key=_pulled)
            moved = [self._records[digest] for _, digest in self._order[start:]]
            self.record([evolve(record, pulled=min(record.pulled + seconds, now)) for record in moved])

    def affirmation(self, link: Link) -> Affirmation | None:
        """When a link was affirmed, if ever."""
        return self._links.get(link)

    def affirm(self, link: Link, affirmation: Affirmation) -> None:
        """Record a 2xx of the origin. Without a media type the one that is known stays."""
        with self._lock:
            before = self._links.get(link)
            if affirmation.media_type is None and before is not None:
                affirmation = evolve(affirmation, media_type=before.media_type)
            self._links[link] = affirmation
            if len(self._links) > self._limits.links:
                self._drop_links()

    def links(self, digests: Sequence[Digest]) -> Sequence[Link]:
        """All links of these digests that name a repository; it looks at all links."""
        wanted = set(digests)
        with self._lock:
            return [link for link in self._links if link.digest in wanted and link.repository]

    def revoke(self, link: Link) -> None:
        """Delete a link."""
        with self._lock:
            self._links.pop(link, None)

    def tag(self, tag: Tag) -> TagRecord | None:
        """What a tag meant when it was last asked."""
        return self._tags.get(tag)

    def remember_tag(self, tag: Tag, record: TagRecord) -> None:
        """Remember what a tag means."""
        with self._lock:
            self._tags[tag] = record
            rows = [one for one in self._rows_of.setdefault(_name(tag), []) if one != tag]
            rows = sorted([*rows, tag], key=lambda one: self._tags[one].when)
            for dropped in rows[: -self._limits.rows_of_tag]:
                del self._tags[dropped]
            self._rows_of[_name(tag)] = rows[-self._limits.rows_of_tag :]
            if len(self._tags) > self._limits.tag_rows:
                self._drop_tag(min(self._tags, key=lambda one: self._tags[one].when))

    def names(self, digest: Digest) -> BlobNames:
        """Some of the repositories that have it, and of the tags that mean it, among the latest rows."""
        with self._lock:
            links = [link for link in islice(reversed(self._links), _MOST_SEARCHED) if link.digest == digest]
            places = {(link.origin, link.repository): None for link in sorted(links, key=_place)[:MOST_NAMES]}
            tags = [
                tag.name
                for tag in islice(reversed(self._tags), _MOST_SEARCHED)
                if (tag.origin, tag.repository) in places and self._tags[tag].digest == digest
            ]
        repositories = dict.fromkeys(repository for _origin, repository in places)
        return BlobNames(tuple(repositories), tuple(sorted(set(tags))[:MOST_NAMES]))

    def purge(self, before: float, limit: int) -> int:
        """Forget old links and tags; links of recorded blobs stay."""
        with self._lock:
            links = sorted(
                (affirmation.when, str(link.digest), link.repository, link.origin, link.kind, link)
                for link, affirmation in self._links.items()
                if affirmation.when < before and link.digest not in self._records
            )[:limit]
            tags = sorted(
                (record.when, tag.origin, tag.repository, tag.name, tag.accept, tag)
                for tag, record in self._tags.items()
                if record.when < before
            )[:limit]
            for *_, link in links:
                del self._links[link]
            for *_, tag in tags:
                self._drop_tag(tag)
            return len(links) + len(tags)

    def _add(self, record: BlobRecord) -> None:
        self._records[record.digest] = record
        insort(self._order, (record.pulled, record.digest))
        self._total += record.size

    def _drop_links(self) -> None:
        # Those of blobs that are not here, then the oldest; some at once, since all are looked at.
        oldest = sorted(self._links, key=lambda link: (link.digest in self._records, self._links[link].when))
        most = self._limits.links
        for link in oldest[: len(self._links) - most + most // 100]:
            del self._links[link]

    def _drop_tag(self, tag: Tag) -> None:
        del self._tags[tag]
        rows = self._rows_of[_name(tag)]
        rows.remove(tag)
        if not rows:
            del self._rows_of[_name(tag)]

    def _drop(self, digest: Digest) -> None:
        record = self._records.pop(digest, None)
        if record is not None:
            del self._order[bisect_left(self._order, (record.pulled, digest))]
            self._total -= record.size


def _name(tag: Tag) -> tuple[str, str, str]:
    return tag.origin, tag.repository, tag.name


def _place(link: Link) -> tuple[str, str]:
    return link.repository, link.origin


def _pulled(entry: tuple[float, Digest]) -> float:
    return entry[0]
