"""
The interfaces of a store and of an index, their values and their errors.

Every method may block on a disk, except where a docstring says otherwise: callers run it in a pool of threads.
Providers are safe to call from several threads at once. A failing disk raises ``OSError``, a damaged index
``IndexDamaged``; anything else is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

from contentcache.core.digest import Digest


class StorageError(Exception):
    """Something on disk is not as this daemon needs it, and no retry helps. The text says what to do."""


class StoreLocked(StorageError):
    """Another process has locked the root directory."""


class IndexDamaged(StorageError):
    """The index contradicts itself. Nothing more is read from it; it is rebuilt when it is next opened."""


class IndexTooNew(StorageError):
    """The index was written by a version of this program that is newer than this one."""


@frozen
class StoredFile:
    """A file of the store: ``size`` in bytes, ``modified`` in seconds since the epoch."""

    digest: Digest
    size: int
    modified: float


@frozen
class StoredPartial:
    """
    A partial file of the store: the origin by its :func:`~contentcache.storage.partial_files.origin_tag`, ``size``
    in bytes that it takes, ``modified`` in seconds since the epoch.
    """

    digest: Digest
    tag: str
    size: int
    modified: float


class BlobFile(Protocol):
    """An open file of the store. It stays readable when its name is deleted."""

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""

    @property
    def descriptor(self) -> int | None:
        """The open file's number until :meth:`close`, for ``sendfile``; ``None`` where there is none."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""

    def read_now(self, offset: int, length: int) -> bytes | None:
        """
        The same without ever blocking, for the reactor's thread; ``None`` where the bytes are not in memory or
        the platform cannot tell.
        """

    def is_loaded(self, offset: int, length: int) -> bool:
        """
        Whether ``length`` bytes from ``offset`` are in memory, as far as a look at some of them tells. Never
        blocks; ``False`` where the platform cannot tell.
        """

    def load(self, offset: int, length: int) -> None:
        """
        Block until up to ``length`` bytes from ``offset`` are in memory, before they are sent from the file.

        :raises OSError: they cannot be read.
        """

    def close(self) -> None:
        """Close the descriptor. Does not block, never raises, may be called twice."""


class PartialFile(BlobFile, Protocol):
    """
    A blob that is being downloaded. The caller makes sure of one writer at a time per digest and origin.

    What an earlier run has written can be resumed once it is hashed again.
    """

    @property
    def held(self) -> Sequence[tuple[int, int]]:
        """
        The runs of bytes, half-open and in order, that were in the file when it was opened; between them are
        holes.
        """

    def park(self, held: Sequence[tuple[int, int]]) -> None:
        """Note which runs of bytes are there: without a note only the first one is resumed."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` at ``offset``, short writes repeated."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, to start again."""

    def commit(self) -> None:
        """
        Make it a blob of the store: fsync, rename into place, fsync the folder. The descriptor stays open for
        readers. To be called with verified content only, and after an unverified blob of this digest was
        recorded in the index: so the store has no file without a record.
        """

    def discard(self) -> None:
        """Delete the name (the partial's, or the blob's if it was adopted or committed)."""


@frozen
class Reservation:
    """
    Space for a download: ``size`` bytes in all, with those that are written. ``key`` names it, ``tag`` is that of
    the origin. Where its partial file is ``unlinked`` and still open, its bytes are in no listing of the store.
    """

    key: str
    digest: Digest
    tag: str
    size: int
    unlinked: bool = False


class Room(Protocol):
    """The space in a store, over all downloads and processes that write into it."""

    async def reserve(self, wanted: Reservation) -> str | None:
        """
        Reserve space, or enlarge what is reserved under the same key; blobs that nobody reads are evicted for
        it. Returns why there is not enough, in words: then nothing has changed.
        """

    def shrink(self, key: str, size: int, *, unlinked: bool) -> None:
        """Reserve no more than ``size``: the download has ended without a blob, and its file is still open."""

    def release(self, key: str) -> None:
        """Release a reservation, if there is one, once the file is closed."""


class StoreListing(Protocol):
    """What a store has, and how much more it can take."""

    def blobs(self) -> Iterator[StoredFile]:
        """Every blob that is here, in no order. Files that are no blobs are passed over."""

    def partials(self) -> Iterator[StoredPartial]:
        """Every partial file that is here."""

    def free(self) -> int | None:
        """Bytes that can still be written, ``None`` where there is no bound."""


class Store(StoreListing, Protocol):
    """Blobs and partial files by digest."""

    def open(self, digest: Digest) -> BlobFile:
        """
        A blob of the store.

        :raises BlobUnknown: there is none.
        """

    def adopt(self, digest: Digest) -> PartialFile:
        """
        A blob of the store that is not known to be verified, as a partial whose bytes are all there:
        ``commit`` leaves it where it is, ``discard`` deletes it.

        :raises BlobUnknown: there is none.
        """

    def resume(self, digest: Digest, origin: str) -> PartialFile:
        """The partial file of ``digest`` from ``origin``, made if there is none."""

    def delete(self, digest: Digest) -> None:
        """Delete a blob; nothing happens if there is none. Who has it open can still read it."""

    def delete_partial(self, digest: Digest, tag: str) -> None:
        """Delete the partial file of ``digest`` from the origin with this tag, if there is one."""


@frozen
class BlobRecord:
    """What is known of a stored blob. ``pulled`` is the last pull, seconds since the epoch."""

    digest: Digest
    size: int
    pulled: float
    verified: bool


@frozen(cache_hash=True)
class Link:
    """
    This origin says that this digest is in this repository.

    ``kind`` is ``blobs`` or ``manifests``: registries keep the two apart, so one says nothing of the other.
    """

    origin: str
    repository: str
    kind: str
    digest: Digest


@frozen
class Affirmation:
    """When a link was last affirmed (seconds since the epoch), and the media type that came with it."""

    when: float
    media_type: str | None


@frozen
class Tag:
    """A tag, with the ``Accept`` that it was resolved for: what it means depends on that."""

    origin: str
    repository: str
    name: str
    accept: str


@frozen
class TagRecord:
    """What a tag meant at ``when`` (seconds since the epoch)."""

    digest: Digest
    media_type: str
    size: int | None
    when: float


#: Repositories, and tags of each of them, that :meth:`LinkIndex.names` returns.
MOST_NAMES = 3


def _as_tuple(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)  # between processes it is a list


@frozen
class BlobNames:
    """Some of the repositories that have a blob, and of the tags that mean it: for the log."""

    repositories: tuple[str, ...] = field(default=(), converter=_as_tuple)
    tags: tuple[str, ...] = field(default=(), converter=_as_tuple)


class BlobIndex(Protocol):
    """What is known of each stored blob."""

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of one blob."""

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """
        Add blobs, or replace what is known of them.

        Records that are not verified are on the disk when this returns, since their files follow; a verified
        record may be lost with the power, and costs a hash.
        """

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        """Set last pulls. A pull never goes back in time; unknown digests are passed over."""

    def forget(self, digests: Iterable[Digest]) -> None:
        """Delete the records of blobs."""

    def possesses(self, origin: str, digest: Digest) -> bool:
        """Whether ``origin`` has delivered these stored bytes, or proved that it has them."""

    def record_possession(self, origin: str, digest: Digest) -> None:
        """
        ``origin`` has delivered these bytes or proved that it has them. Nothing happens if there is no record
        of the blob; when that is deleted, so is this.
        """


class PullOrder(Protocol):
    """All stored blobs in an order, without reading them all."""

    def least_recent(
        self, limit: int, before: float | None = None, after: BlobRecord | None = None
    ) -> Sequence[BlobRecord]:
        """
        At most ``limit`` records, least recently pulled first, last pulled before ``before``.

        ``after`` is the last record of the previous batch. Equal pulls are in the order of their digests.
        """

    def following(self, digest: Digest | None, limit: int) -> Sequence[BlobRecord]:
        """At most ``limit`` records in the order of their digests: those after ``digest``, or the first ones."""

    def total(self) -> int:
        """Bytes of all recorded blobs, without counting them one by one."""

    def count(self) -> int:
        """Number of recorded blobs. They are counted at the first call only."""

    def shift(self, seconds: float, now: float) -> None:
        """
        Move every last pull by ``seconds`` (the clock jumped), none beyond ``now``.

        With ``seconds`` 0 only pulls that lie in the future are moved.
        """


@frozen
class IndexLimits:
    """
    How many rows an index keeps: links, tag rows, and of these the most recent ones of one tag (one for each
    ``Accept``). Beyond that, links of blobs that are not stored are dropped first, then what was affirmed
    least recently. A lower number than before takes effect when the next row is added.
    """

    links: int = 1_000_000
    tag_rows: int = 1_000_000
    rows_of_tag: int = 8


class LinkIndex(Protocol):
    """What origins have said. What is missing is always safe: the origin is asked again."""

    def affirmation(self, link: Link) -> Affirmation | None:
        """When a link was affirmed, if ever."""

    def affirm(self, link: Link, affirmation: Affirmation) -> None:
        """Record a 2xx of the origin. Without a media type the one that is known stays."""

    def links(self, digests: Sequence[Digest]) -> Sequence[Link]:
        """All links of these digests that name a repository, in any order."""

    def revoke(self, link: Link) -> None:
        """Delete a link: the origin denies it."""

    def tag(self, tag: Tag) -> TagRecord | None:
        """What a tag meant when the origin was last asked."""

    def remember_tag(self, tag: Tag, record: TagRecord) -> None:
        """Record what a tag means."""

    def names(self, digest: Digest) -> BlobNames:
        """Up to :data:`MOST_NAMES` repositories that have it, and in each as many tags that mean it."""

    def purge(self, before: float, limit: int) -> int:
        """
        Delete at most ``limit`` links and ``limit`` tags last affirmed before ``before``; links of recorded
        blobs stay. Returns how many were deleted.
        """


class Index(BlobIndex, PullOrder, LinkIndex, Protocol):
    """All of it, over one file."""

    @property
    def rebuilt(self) -> bool:
        """Whether the store must be listed (``blobs()``), as no listing into this index was ever finished."""

    def rebuild_done(self) -> None:
        """The store was listed to its end."""

    def close(self) -> None:
        """Write what waits, and close."""
