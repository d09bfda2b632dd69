"""
One running download of one digest from one origin. It belongs to no client: subscribers come and go.

:mod:`contentcache.delivery.download_steps` does, step by step, what
:class:`contentcache.core.download_planner.DownloadPlanner` says. The stream
(:mod:`contentcache.delivery.download_stream`) requests what is missing from the start on, in the name of a
subscriber; segments (:mod:`contentcache.delivery.segments`) are bytes far from there. Both write into the partial
file (:mod:`contentcache.delivery.download_storage`), and subscribers read from it as far as
:meth:`Download.readable_until` lets them.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.logger import Logger

from contentcache.aio.condition import Condition
from contentcache.aio.fair_semaphore import Permit
from contentcache.core.download_planner import DownloadPlanner
from contentcache.core.errors import (
    CacheError,
    DiskFailed,
    LoopDetected,
)
from contentcache.delivery.download_context import DownloadContext, DownloadOptions
from contentcache.delivery.download_file import DownloadFile
from contentcache.delivery.download_steps import DownloadSteps
from contentcache.delivery.download_storage import DownloadStorage
from contentcache.delivery.download_stream import FIRST_PART, DownloadStream
from contentcache.delivery.segments import LONGEST, Segments
from contentcache.delivery.shared_download import (
    HELD_BACK,
    AuthorizationNeeded,
    DownloadKey,
    Progress,
    UndecidedError,
    readable,
    superseded,
)
from contentcache.delivery.subscribers import Subscriber, Subscribers
from contentcache.storage.interfaces import PartialFile
from contentcache.telemetry.request_ids import TRACE, Provenance, RequestTrace, new_id
from contentcache.upstream.answers import Answer


class Download:
    """A :class:`contentcache.delivery.shared_download.SharedDownload` of this worker."""

    _log = Logger()

    def __init__(
        self,
        key: DownloadKey,
        context: DownloadContext,
        options: DownloadOptions,
        permit: Permit[bytes] | None = None,
    ) -> None:
        self.key = key
        self.context = context
        self.options = options
        #: The permit that it holds while upstream is asked, or sends; ``None`` where it needs none.
        self.permit = permit
        self.media_type: str | None = None
        self.generation = 0
        self.verified = False
        self.failure: CacheError | None = None
        #: Whether nothing changes any more.
        self.is_over = False
        self.progress = Progress(context.clock)
        self.provenance = Provenance(new_id())
        self.planner = DownloadPlanner()
        self.storage = DownloadStorage(key, context, in_place=options.in_place)
        self.subscribers = Subscribers()
        self.stream = DownloadStream(self)
        self.segments = Segments(self)
        self.changed = Condition()
        #: Whether responses can begin: the size and media type are known as far as they will be.
        self.is_open = False
        #: Whether all is downloaded though no subscriber wants all.
        self._is_completing = False
        self.is_closing = False
        self.is_superseded = False
        self.disk_error: DiskFailed | None = None

    # For readers and other workers.

    @property
    def is_stored(self) -> bool:
        """Whether the whole content is in the store, or on its way there, verified, where the disk is slow."""
        return self.storage.will_be_stored

    @property
    def in_place(self) -> bool:
        """Whether it is a stored blob that is being verified."""
        return self.options.in_place

    @property
    def size(self) -> int | None:
        """How many bytes the content has, as far as is known."""
        return self.planner.total

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""
        return self.planner.prefix

    @property
    def connections(self) -> int:
        """How many requests to upstreams are under way."""
        return (self.stream.host is not None) + self.segments.running

    @property
    def target(self) -> str | None:
        """The host that the origin has redirected to, if all bytes are from there."""
        return self.stream.target

    @property
    def download_file(self) -> DownloadFile:
        """The partial file, its hash, and the bodies on their way into it."""
        return self.storage.file

    @property
    def file(self) -> PartialFile:
        """Where the bytes are."""
        return self.storage.file.file

    @property
    def withholds_all(self) -> bool:
        """Whether no byte is sent before all are verified. So it is, too, once there was a digest mismatch."""
        return self.options.is_manifest or self.in_place or self.stream.is_doubtful or self.generation > 0

    @property
    def awaits_decision(self) -> bool:
        """Whether the first answer is still to come, and can be the decision for who subscribes now."""
        return not (self.stream.is_authorized or self.is_open or self.in_place)

    @property
    def is_ending(self) -> bool:
        """Whether the download is over without the content, and leaves its file."""
        return (self.is_closing or self.is_superseded) and not self.verified

    def has_subscriber(self, key: bytes) -> bool:
        """Whether a client with this question has subscribed."""
        return self.subscribers.has_key(key)

    def readable_until(self, position: int = 0, *, small_part: bool = False) -> int:
        """
        Up to which byte a reader at ``position`` may go; see
        :func:`contentcache.delivery.shared_download.readable`.
        """
        planner = self.planner
        if self.verified:
            return planner.prefix
        if self.withholds_all:
            return 0
        return readable(planner.held, self.progress.announced, planner.total, position, small_part=small_part)

    def request_bytes(self, position: int, stop: int | None) -> None:
        """
        A reader waits for the bytes from ``position`` on: unless the stream is about to bring them, they are
        requested as a segment.

        :raises CacheError: they cannot be had.
        """
        total = self.planner.total
        if total is None or position >= total:
            return
        if self.planner.held.reach(position) > position:
            if position >= total - HELD_BACK:
                # They are there, and held back until all are verified: so the rest is wanted after all.
                self._is_completing = True
                self.changed.notify_all()
            return
        if self.needs_all and position - self.planner.prefix <= LONGEST:
            return
        self.segments.request(position, total if stop is None else stop)

    def subscribe(self, subscriber: Subscriber) -> None:
        """A client wants this content. The file stays open for it until :meth:`unsubscribe`."""
        self.storage.acquire()
        self.subscribers.add(subscriber)
        self.changed.notify_all()
        self.notify_ready()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """A client has what it wanted, or has disconnected."""
        if not self.subscribers.remove(subscriber):
            return
        self.storage.release()
        self.changed.notify_all()
        if not (self.is_wanted or self.planner.prefix >= FIRST_PART or self.segments.busy):
            self.download_file.abandon_bodies()

    def trace(self, request_id: str) -> None:
        """Log what follows in this task as a part of this download, and ask upstream by this id of a request."""
        TRACE.set(RequestTrace(request_id, download=self.provenance.download))

    async def run(self) -> None:
        """
        Wait for a permit, then download until the content is stored, or nothing more can be done: then ``failure``
        says why.
        """
        if self.permit is None:
            await DownloadSteps(self).run()
            return
        try:
            await self.permit.acquire()
        except CacheError as error:
            self.context.meter.limited("fetches")
            await self.abort(error)
            return
        try:
            await DownloadSteps(self).run()
        finally:
            self.permit.release()

    def end(self) -> None:
        """Nothing changes any more: whoever still waits to be answered gets the failure."""
        self.is_over = True
        # All bytes may have been there, and cannot be stored: then nothing but a question decides.
        error = self.failure or AuthorizationNeeded("the origin has not been asked")
        if isinstance(error, LoopDetected):
            # The way of one client's request does not decide for those who came another way: they ask again.
            others = UndecidedError("another client's request has come in a circle")
            self.subscribers.fail_all(others, but=self.stream.looped)
        self.subscribers.fail_all(error)
        self.progress.notify_all(self.planner.prefix)

    async def abort(self, error: CacheError) -> None:
        """End before the start; subscribers receive ``error``."""
        self.failure = error
        self.end()
        self.storage.release()

    async def supersede(self) -> bool:
        """
        Another origin's download has stored the content: end, and let subscribers go on from the stored file,
        without waiting for an upstream that may be slow. The name of the partial file goes first: a later
        download must not work on the file of one that is still coming to rest. ``False`` if it is too late.
        """
        if self.is_over or self.verified or self.storage.is_committing or self.in_place or self.is_superseded:
            return False
        self.is_superseded = True
        if self.download_file.has_file:
            try:
                await self.storage.discard()
            except DiskFailed as error:
                self._log.warn(
                    "partial file not deleted",
                    origin=self.key.origin,
                    digest=self.key.digest,
                    reason=error.__cause__,
                )
        self.failure = superseded()
        self.segments.close()
        self.download_file.abandon_bodies()
        self.end()
        self.changed.notify_all()
        return True

    # What the stream and the segments ask, and report.

    @property
    def is_wanted(self) -> bool:
        """Whether anything is still to be downloaded for somebody."""
        return bool(self.subscribers) or self._is_completing or self.generation > 0

    @property
    def needs_all(self) -> bool:
        """Whether the stream goes on to the end, for whatever reason."""
        return (
            self.subscribers.needs_whole
            or self._is_completing
            or self.segments.ranges_ignored
            or self.planner.total is None
            or self.generation > 0
        )

    def sources(self) -> Mapping[str, Subscriber]:
        """The hosts that can be asked, each with a subscriber in whose name."""
        return {} if self.is_superseded else self.subscribers.sources()

    def gap_end(self, offset: int) -> int | None:
        """Where the bytes that are missing from ``offset`` on end before the end of the content."""
        ends = (self.planner.held.gap(offset)[1], self.segments.next_start(offset))
        return min((end for end in ends if end is not None), default=None)

    async def reserve(self, answer: Answer | None = None) -> None:
        """
        Have room reserved for the whole content; where nobody knows its size, for more bytes than are there.

        :raises DiskFailed: there is none; the ``answer`` whose body was to come is abandoned.
        """
        try:
            await self.storage.reserve(self.planner.total, self.planner.held.end())
        except BaseException:
            if answer is not None:
                answer.abandon()
            raise

    def open_responses(self) -> None:
        """Size and media type are known as far as they will be: subscribers can be answered."""
        self.is_open = True
        self.notify_ready()
        self.progress.notify_all(self.planner.prefix)

    def arrived(self, host: str, start: int, stop: int) -> None:
        """Bytes of ``host`` are in the file."""
        self.planner.arrived(host, start, stop)
        self.download_file.hash_in_background()
        self.progress.received += stop - start
        total = self.planner.total
        if not self._is_completing and total is not None:
            self._is_completing = self.planner.held.total() >= self.options.fill_after * total
        elif total is None:
            self.storage.reserve_ahead(stop, self.planner.held.end())
        self.progress.notify_soon(self.planner.prefix)

    def segment_ended(self) -> None:
        """A segment has ended."""
        self.progress.notify_all(self.planner.prefix)
        self.changed.notify_all()

    def notify_ready(self) -> None:
        """Answer the subscribers that are authorized, if responses can begin."""
        if self.is_open:
            self.subscribers.notify_ready()
