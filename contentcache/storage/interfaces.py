"""
What the rest of the house may ask of a store and of an index.

Every method here may block on a disk: callers run it in a pool of threads,
except where a docstring says otherwise. Providers are safe to call from
several threads at once. ``OSError`` is what a failing disk raises; an index that
turns out to be damaged raises ``IndexDamaged``; anything else is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from attrs import frozen

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
    """An open file of the store. It stays readable after its name is gone."""

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
        The same without ever blocking, for the reactor's thread; ``None`` where the bytes are not
        in memory or the platform cannot tell.
        """

    def is_loaded(self, offset: int, length: int) -> bool:
        """
        Whether ``length`` bytes from ``offset`` are in memory, as far as a look at some of them tells. Never
        blocks; ``False`` where the platform cannot tell.
        """

    def load(self, offset: int, length: int) -> None:
        """
        Wait until up to ``length`` bytes from ``offset`` are in memory, for who sends them from the file.

        :raises OSError: they cannot be read.
        """

    def close(self) -> None:
        """Give the descriptor back. Does not block, never raises, may be called twice."""


class PartialFile(BlobFile, Protocol):
    """
    A blob in the making. One writer at a time per digest and origin: the caller sees to that.

    What an earlier run left behind is good for resumption once it is hashed again.
    """

    @property
    def held(self) -> Sequence[tuple[int, int]]:
        """
        The runs of bytes, half-open and in order, that were in the file when it was opened. Between them it
        has holes.
        """

    def park(self, held: Sequence[tuple[int, int]]) -> None:
        """Note which runs of bytes are there: without a note only the first one is resumed."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` at ``offset``, short writes repeated."""

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, to start again."""

    def commit(self) -> None:
        """
        Make it a blob of the store: fsync, rename into place, fsync the folder. The descriptor
        stays open for readers. To be called with verified content only, and after the index was
        told of an unverified blob of this digest: so no file is ever here that the index never heard of.
        """

    def discard(self) -> None:
        """Take the name away (the partial's, or the blob's if it was adopted or committed)."""


@frozen
class Reservation:
    """
    Room for a download: ``size`` bytes in all, those that are written already among them. ``key`` names it,
    ``tag`` is that of the origin in the name of its partial file. Where that file is ``unlinked`` and still
    open, its bytes are on the disk and in no listing of the store.
    """

    key: str
    digest: Digest
    tag: str
    size: int
    unlinked: bool = False


class Room(Protocol):
    """The room in a store, over all downloads and processes that write into it."""

    async def reserve(self, wanted: Reservation) -> bool:
        """
        Reserve room, or enlarge what is reserved under the same key; what nobody reads is evicted for it.
        ``False`` where there is not enough: then nothing has changed.
        """

    def shrink(self, key: str, size: int, *, unlinked: bool) -> None:
        """
        A download has ended without a blob, and its file is still open: reserve no more than the ``size`` of
        that, until :meth:`release`. Nothing happens if nothing is reserved.
        """

    def release(self, key: str) -> None:
        """Give up a reservation, once the file is closed; nothing happens if there is none."""


class Store(Protocol):
    """Bytes by digest."""

    def open(self, digest: Digest) -> BlobFile:
        """
        A blob of the store.

        :raises BlobUnknown: there is none.
        """

    def adopt(self, digest: Digest) -> PartialFile:
        """
        A blob of the store that is not known to be verified, as a partial whose bytes are all there:
        ``commit`` leaves it where it is, ``discard`` takes it away.

        :raises BlobUnknown: there is none.
        """

    def resume(self, digest: Digest, origin: str) -> PartialFile:
        """The partial file of ``digest`` from ``origin``, made if there is none."""

    def delete(self, digest: Digest) -> None:
        """Take away a blob; nothing happens if there is none. Its readers keep their bytes."""

    def delete_partial(self, digest: Digest, tag: str) -> None:
        """
        Take away the partial file of ``digest`` from the origin with this tag; nothing happens if there is
        none.
        """

    def blobs(self) -> Iterator[StoredFile]:
        """Every blob that is here, in no order. Files that are no blobs are passed over."""

    def partials(self) -> Iterator[StoredPartial]:
        """Every partial file that is here."""

    def free(self) -> int | None:
        """Bytes that can still be written, ``None`` where there is no bound."""


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
    "This origin says that this digest belongs to this repository."

    ``kind`` is ``blobs`` or ``manifests``: registries keep the two apart, so a yes to the one is
    no yes to the other.
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
    """A question about a tag: what it means depends on the ``Accept`` that was sent."""

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


class BlobIndex(Protocol):
    """What is known of stored blobs. Its cost follows what is asked, not what is stored."""

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of one blob."""

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """
        Add blobs, or replace what is known of them.

        Records that are not verified are on the disk when this returns, since they announce a file
        that is about to stand there; a verified record may be lost with the power, and costs a hash.
        """

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        """Set last pulls. A pull never goes back in time; unknown digests are passed over."""

    def forget(self, digests: Iterable[Digest]) -> None:
        """These blobs are gone."""

    def least_recent(
        self, limit: int, before: float | None = None, after: BlobRecord | None = None
    ) -> Sequence[BlobRecord]:
        """
        At most ``limit`` records, least recently pulled first, last pulled before ``before``.

        ``after`` is the last record of the batch before this one: the answer goes on behind it.
        Equal pulls are in the order of their digests.
        """

    def following(self, digest: Digest | None, limit: int) -> Sequence[BlobRecord]:
        """At most ``limit`` records in the order of their digests: those behind ``digest``, or the first ones."""

    def possesses(self, origin: str, digest: Digest) -> bool:
        """Whether ``origin`` has delivered these stored bytes, or proved that it has them."""

    def record_possession(self, origin: str, digest: Digest) -> None:
        """
        ``origin`` has delivered these bytes or proved that it has them. Nothing happens if there is no record
        of the blob; what is known goes with that record.
        """

    def total(self) -> int:
        """Bytes of all recorded blobs, without counting them one by one."""

    def shift(self, seconds: float, now: float) -> None:
        """
        Move every last pull by ``seconds`` (the clock jumped), none beyond ``now``.

        With ``seconds`` 0 it brings back pulls that lie in the future, and costs what there are of them.
        """


#: Rows of one tag that an index keeps, those asked for last: each ``Accept`` is one more.
MOST_ROWS_OF_TAG: Final = 8
#: Links that an index keeps, and tag rows. Beyond it links of blobs that are not stored are dropped first,
#: then those that were affirmed least recently.
MOST_LINKS: Final = 1_000_000
MOST_TAG_ROWS: Final = 1_000_000


class LinkIndex(Protocol):
    """What origins have said: links and tags. Missing is always safe: the origin is asked again."""

    def affirmation(self, link: Link) -> Affirmation | None:
        """When a link was affirmed, if ever."""

    def affirm(self, link: Link, affirmation: Affirmation) -> None:
        """Remember a 2xx of the origin. Without a media type the one that is known stays."""

    def revoke(self, link: Link) -> None:
        """The origin denies it."""

    def tag(self, tag: Tag) -> TagRecord | None:
        """What a tag meant when it was last asked."""

    def remember_tag(self, tag: Tag, record: TagRecord) -> None:
        """Remember what a tag means."""

    def purge(self, before: float, limit: int) -> int:
        """
        Forget at most ``limit`` links and ``limit`` tags last affirmed before ``before``; links of
        digests that :class:`BlobIndex` has a record of stay. Answers how many went.
        """


class Index(BlobIndex, LinkIndex, Protocol):
    """Both, over one file."""

    @property
    def rebuilt(self) -> bool:
        """
        Whether the store must be listed (``blobs()``): nothing was known at the start, and no
        listing was finished since, not even before a crash.
        """

    def rebuild_done(self) -> None:
        """The store was listed to its end."""

    def close(self) -> None:
        """Write what waits and give everything back."""
