"""
One fetch of one content, owned by nobody.

Clients attach to it and leave it; it asks upstream in the name of those who are attached, puts what comes
into the partial file, and tells the readers how far they may go. What to do next is decided by
:class:`contentcache.core.download_planner.DownloadPlanner`; this module only does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from twisted.logger import Logger

from contentcache.aio.condition import Condition, sleep
from contentcache.aio.tasks import in_background
from contentcache.core.download_planner import (
    Backoff,
    Commit,
    DownloadPlanner,
    Fail,
    RequestRange,
    Restart,
    Verify,
)
from contentcache.core.errors import (
    BlobUnknown,
    CacheError,
    ContentWrong,
    DiskFailed,
    LoopDetected,
    ManifestTooLarge,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.manifests import (
    SCHEMA_1_TYPES,
    ManifestInvalid,
    check_manifest,
    essence,
    manifest_digests,
)
from contentcache.core.ports import Given, Result
from contentcache.core.ranges import OK, RANGE_NOT_SATISFIABLE, read_opening, read_unsatisfied
from contentcache.delivery.body_writer import BodyTooLong
from contentcache.delivery.download_context import DownloadContext
from contentcache.delivery.download_file import DownloadFile
from contentcache.delivery.manifests import too_large
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.segments import LONGEST, RangesIgnored, Segments
from contentcache.delivery.shared_download import (
    HELD_BACK,
    AuthorizationNeeded,
    DownloadKey,
    Progress,
    SignedManifest,
    StoredMeanwhile,
    UndecidedError,
    readable,
)
from contentcache.delivery.subscribers import Subscriber, Subscribers
from contentcache.storage.interfaces import PartialFile
from contentcache.upstream.answers import Answer

#: A fetch that is past its first part is finished even if nobody is left.
FIRST_PART: Final = 64 << 10
#: Bytes that are there already are passed over in a running answer if they are fewer.
_WORTH_ANOTHER_REQUEST: Final = 1 << 20
#: For so many seconds the end of a verified content waits for its being stored.
_LONGEST_COMMIT: Final = 0.1
#: Bytes that are reserved ahead of what has come, where nobody knows how many will come.
_AHEAD: Final = 1 << 20


class Download:
    """
    The making of one content. ``in_place`` says that it is a blob of the store which nobody has ever
    verified: it is hashed before a byte of it leaves, and thrown away if it is wrong; upstream is not asked.

    ``largest`` bounds the size (manifests); with ``whole`` no byte leaves before all are verified. ``total``
    is what the origin says of the size, where it was asked before. While nobody wants the whole content, only
    the segments that are asked for are fetched, until ``fill_after`` (a share) of it is there.
    """

    _log = Logger()

    def __init__(
        self,
        key: DownloadKey,
        context: DownloadContext,
        *,
        in_place: bool = False,
        largest: int | None = None,
        whole: bool = False,
        total: int | None = None,
        fill_after: float = 1.0,
    ) -> None:
        self.key = key
        self.media_type: str | None = None
        self._said_type: str | None = None
        self.generation = 0
        self.verified = False
        self.stored = False
        self.progress = Progress(context.clock)
        self._context = context
        self.in_place = in_place
        self._largest = largest
        self._whole = whole
        self.planner = DownloadPlanner()
        self.download_file = DownloadFile(key.digest, context.run)
        self._total = total
        self._fill_after = fill_after
        self._completing = False
        self._segments = Segments(self)
        self._changed = Condition()
        self._clients = Subscribers()
        self._is_judged = False
        self._is_doubted = False
        #: The questions that bodies came in answer to.
        self.senders: set[ContentRequest] = set()
        self._has_page = False
        #: Answers that count once the content is verified.
        self._in_doubt: list[tuple[Subscriber, str | None, float]] = []
        #: The hosts that the origin redirected to, ``None`` where it sent the bytes itself.
        self._targets: set[str | None] = set()
        self._head_in = False
        self._ranges_ignored = False
        self._disk_error: DiskFailed | None = None
        self._ending = False
        #: The host that is asked now or sends the body.
        self.upstream_host: str | None = None
        self._looped: set[str] = set()
        self._storing = False
        self._reserved = context.reservations.begin(key)
        self._growing = False
        self._unlinked = False
        self._superseded = False
        #: Whether nothing changes any more.
        self.is_over = False
        self._holders = 1
        self._error: CacheError = UpstreamUnavailable("no upstream was asked")
        self.failure: CacheError | None = None

    # For those who read.

    @property
    def size(self) -> int | None:
        """How many bytes the content has, as far as is known."""
        return self.planner.total

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""
        return self.planner.prefix

    @property
    def delivered_by(self) -> str | None:
        """The origin that all bytes are from, ``None`` for what was found in the store."""
        return None if self.in_place else self.key.origin

    @property
    def target(self) -> str | None:
        """The host that the origin has redirected to, if all bytes are from there."""
        return next(iter(self._targets)) if len(self._targets) == 1 else None

    @property
    def withholds_all(self) -> bool:
        """Whether no byte leaves before all are known to be right."""
        # Once something was wrong, nobody gets a byte before that.
        return self._whole or self.in_place or self._is_doubted or self.generation > 0

    @property
    def file(self) -> PartialFile:
        """Where the bytes are."""
        return self.download_file.file

    @property
    def awaits_decision(self) -> bool:
        """Whether the fetch's first answer is still to come, and can be the verdict for who attaches now."""
        return not (self._is_judged or self._head_in or self.in_place)

    def has_subscriber(self, key: bytes) -> bool:
        """Whether a client with this question is attached."""
        return self._clients.has_key(key)

    def readable_until(self, position: int = 0, *, small_part: bool = False) -> int:
        """
        Up to which byte a reader may go now that stands at ``position``; see
        :func:`contentcache.delivery.shared_download.readable`.
        """
        if self.verified:
            return self.planner.prefix
        if self.withholds_all:
            return 0
        planner = self.planner
        return readable(planner.held, self.progress.announced, planner.total, position, small_part=small_part)

    def request_bytes(self, position: int, stop: int | None) -> None:
        """
        A reader wants the bytes from ``position`` on: if the fetch is not about to bring them, they are asked
        for on their own.

        :raises CacheError: they cannot be had.
        """
        total = self.planner.total
        if total is None or position >= total:
            return
        if self.planner.held.reach(position) > position:
            if position >= total - HELD_BACK:
                # They are there, and wait for the digest: so the rest of the content is wanted after all.
                self._completing = True
                self._changed.notify_all()
            return
        if self._wants_all() and position - self.planner.prefix <= LONGEST:
            return
        if not self._ranges_ignored:
            self._segments.request(position, total if stop is None else stop)

    def subscribe(self, subscriber: Subscriber) -> None:
        """A client wants this content. The file stays open for it until :meth:`unsubscribe`."""
        self._holders += 1
        self._clients.add(subscriber)
        self._changed.notify_all()
        self._answer()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """A client has what it wanted, or has left."""
        if not self._clients.remove(subscriber):
            return
        self._release()
        self._changed.notify_all()
        if not (self._is_wanted() or self.planner.prefix >= FIRST_PART or self._segments.busy):
            self.download_file.abandon_bodies()

    @property
    def is_ending(self) -> bool:
        """Whether the fetch is over without the content, and puts its file away."""
        return (self._ending or self._superseded) and not self.verified

    # The work.

    async def run(self) -> None:
        """
        Fetch until the content is stored, or nothing more can be done. Never raises what can be expected:
        ``failure`` has it.
        """
        try:
            await self._open_file()
            await self._fill()
        except CacheError as error:
            self.failure = error
            if isinstance(error, DiskFailed):
                self._context.report_disk(error.message)
        except Exception:  # noqa: BLE001  # a defect of ours must not leave clients waiting
            self._log.failure("download failed", origin=self.key.origin, digest=self.key.digest)
            self.failure = UpstreamUnavailable("the cache has failed; its log says why")
        self._ending = True
        self._segments.close()
        await self._come_to_rest()
        await self._leave_file()
        if not (self.stored or self.in_place):
            self._reserved.shrink(self.planner.held.total(), self._unlinked)
        self._end()

    async def abort(self, error: CacheError) -> None:
        """Never mind."""
        self.failure = error
        self._end()

    async def supersede(self) -> bool:
        """
        Another origin's download has stored the content: end, and let subscribers go on from the stored file,
        without waiting for an upstream that may be slow. The name of the partial file goes first: a later
        download must not work on the file of one that is still coming to rest. ``False`` if it is too late.
        """
        if self.is_over or self.verified or self._storing or self.in_place or self._superseded:
            return False
        self._superseded = True
        if self.download_file.has_file:
            try:
                await self._discard()
            except OSError as error:
                self._log.warn(
                    "partial file not deleted", origin=self.key.origin, digest=self.key.digest, reason=error
                )
        self.failure = _stored_meanwhile()
        self._segments.close()
        self.download_file.abandon_bodies()
        self._dismiss()
        self._changed.notify_all()
        return True

    async def _discard(self) -> None:
        await self._context.run(self.download_file.file.discard)
        self._unlinked = True

    def _end(self) -> None:
        self._dismiss()
        self._release()

    def _dismiss(self) -> None:
        self.is_over = True
        # All bytes may have been there, and cannot be stored: then nothing but a question decides.
        error = self.failure or AuthorizationNeeded("the origin has not been asked")
        if isinstance(error, LoopDetected):
            # The way of one client's request does not decide for those who came another way: they ask again.
            others = UndecidedError("another client's request has come in a circle")
            self._clients.fail_all(others, but=self._looped)
        self._clients.fail_all(error)
        self.progress.notify_all(self.planner.prefix)

    def _release(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            # Not before: what subscribers still read is on the disk, unlinked or not.
            self.download_file.close()
            self._reserved.release()

    async def _open_file(self) -> None:
        store = self._context.store
        try:
            if self.in_place:
                file = await self._on_disk(store.adopt, self.key.digest)
            else:
                file = await self._on_disk(store.resume, self.key.digest, self.key.origin)
        except BlobUnknown as error:
            raise UndecidedError("the blob has just gone") from error
        total = file.size if self.in_place else self._total
        fits = total is None or not file.held or file.held[-1][1] <= total
        held = file.held if fits else ()
        self.planner = DownloadPlanner(held, total)
        self.download_file.open(file, held)
        if not fits:
            await self.download_file.restart()
        if total is not None:
            await self.reserve()
        self._head_in = self._total is not None
        self.progress.announced = self.planner.prefix
        self._answer()

    async def _on_disk(
        self, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        try:
            return await self._context.run(function, *args, **kwargs)
        except OSError as error:
            raise DiskFailed(f"the store cannot be written: {error}") from error

    async def _come_to_rest(self) -> None:
        """Wait until nothing comes in and no thread works on the file any more."""
        self.download_file.abandon_bodies()
        while self._segments.busy:
            await self._changed.wait()
        await self.download_file.wait_idle()

    async def _fill(self) -> None:
        while not await self._took_last_step():
            pass

    async def _took_last_step(self) -> bool:
        if self._superseded:
            raise _stored_meanwhile()
        # Who was ended short by wrong bytes has left; but without the verdict, at most one try of each host,
        # the next client would start from the same lie.
        sources = self._clients.sources(or_last=self.generation > 0)
        if self._rests(sources):
            await self._changed.wait()
            return False
        match self.planner.next(tuple(sources)):
            case RequestRange(host, offset):
                self.upstream_host = host
                try:
                    await self._request_range(sources[host], host, offset)
                finally:
                    self.upstream_host = None
            case Backoff(seconds):
                await sleep(self._context.clock, seconds)
            case Verify():
                self.planner.checked(right=await self._matches_digest())
            case Restart(blamed):
                await self._start_again(blamed)
            case Fail(wrong=True):
                raise ContentWrong("what upstream delivers is not what the digest says")
            case Fail():
                raise self._error
            case Commit():
                await self._keep()
                return True
        return False

    def _is_wanted(self) -> bool:
        return bool(self._clients) or self._completing or self.generation > 0

    def _wants_all(self) -> bool:
        unsized = self.planner.total is None
        in_doubt = self.generation > 0
        return (
            self._clients.any_wants_whole or self._completing or self._ranges_ignored or unsized or in_doubt
        )

    def _rests(self, sources: Mapping[str, Subscriber]) -> bool:
        """
        Whether there is nothing to stream now: nobody wants the whole, or the next bytes come as a segment.

        :raises DiskFailed: a segment could not be written.
        :raises UndecidedError: nothing goes on, and nobody is left in whose name upstream can be asked.
        """
        if self._disk_error is not None:
            raise self._disk_error
        if self.planner.complete:
            return False
        if not sources and not self._segments.busy:
            # Whoever was refused knows why, and whoever comes now may know better.
            raise UndecidedError("nobody is left in whose name upstream can be asked")
        return not sources or not self._wants_all() or self._segments.covers(self.planner.prefix)

    def _gap_end(self, offset: int) -> int | None:
        """Where the bytes that are missing from ``offset`` on end before the end of the content."""
        ends = (self.planner.held.gap(offset)[1], self._segments.next_start(offset))
        return min((end for end in ends if end is not None), default=None)

    # What segments report.

    def sources(self) -> Mapping[str, Subscriber]:
        """The hosts that can be asked, each with a client in whose name."""
        return {} if self._superseded else self._clients.sources()

    def arrived(self, host: str, start: int, stop: int) -> None:
        """Bytes of ``host`` are in the file."""
        self.planner.arrived(host, start, stop)
        self.download_file.hash_in_background()
        kind = next((request.content.kind for request in self.senders), "blobs")
        self._context.meter.received(self.key.origin, kind, stop - start)
        total = self.planner.total
        if not self._completing and total is not None:
            self._completing = self.planner.held.total() >= self._fill_after * total
        elif total is None and not self._growing and stop + _AHEAD // 2 > self._reserved.size:
            self._growing = True
            in_background(self._reserve_more())
        self.progress.notify_soon(self.planner.prefix)

    async def reserve(self, answer: Answer | None = None) -> None:
        """
        Have room reserved for the whole content; where nobody knows its size, for more bytes than are there.

        :raises DiskFailed: there is none; the ``answer`` whose body was to come is abandoned.
        """
        total, end = self.planner.total, self.planner.held.end()
        if self.in_place:
            return
        try:
            await self._reserved.grow(_with_more(end) if total is None else total)
        except BaseException:
            if answer is not None:
                answer.abandon()
            raise

    async def _reserve_more(self) -> None:
        """
        Reserve ahead of need, so that a body of unknown length does not wait. Where that fails nothing is
        lost yet, and it is not tried again: what is reserved is written, and :meth:`_reserve_for` decides.
        """
        try:
            await self.reserve()
        except DiskFailed:
            return
        self._growing = False

    async def _reserve_for(self, stop: int) -> int | None:
        """See :data:`contentcache.delivery.body_writer.Reserve`."""
        if self.planner.total is not None:
            return None  # all of it is reserved
        if stop > self._reserved.size:
            await self._reserved.grow(_with_more(stop))
        return self._reserved.size

    def failed_for(self, error: CacheError) -> None:
        """A segment cannot be had."""
        if isinstance(error, RangesIgnored):
            self._ranges_ignored = True
        elif isinstance(error, DiskFailed):
            self._disk_error = error

    def changed(self) -> None:
        """A segment has ended."""
        self.progress.notify_all(self.planner.prefix)
        self._changed.notify_all()

    async def _request_range(self, subscriber: Subscriber, host: str, offset: int) -> None:
        stop = self._gap_end(offset)
        asked = self._context.question_time()
        try:
            origin = subscriber.request.registry.upstream.origin
            range_ = f"bytes={offset}-{'' if stop is None else stop - 1}" if offset or stop else None
            answer = await subscriber.request.registry.ask_host(
                host, subscriber.request.upstream_request("GET", range_=range_)
            )
        except CacheError as error:
            if not await self._was_complete(host, offset):
                self._was_refused(subscriber, host, error, asked)
            return
        if self._superseded or not self._is_wanted():
            answer.abandon()
            return
        if answer.status == RANGE_NOT_SATISFIABLE:
            answer.abandon()
            if not await self._was_complete(host, offset):
                self.planner.has_no_more(host, read_unsatisfied(answer.header("Content-Range")))
            return
        media_type = answer.header("Content-Type")
        try:
            is_own_word = self._check_doubtful(answer, origin)
            start = self._open(host, answer, offset)
        except ManifestTooLarge:
            answer.abandon()
            raise
        except UpstreamBroken as error:
            # Of two who disagree about the size nobody knows yet which one is wrong: neither is set back.
            self._error = error
            self.planner.broke(host)
            answer.abandon()
            return
        # The type of a manifest is learned with its body, once that is checked.
        learned = None if self._whole else media_type
        if is_own_word:
            self._context.record_allowed(subscriber, learned, asked)
        else:
            self._in_doubt.append((subscriber, learned, asked))
        subscriber.notices = answer.notices()
        self.senders.add(subscriber.request)
        self._is_judged = True
        self._clients.allow(subscriber.key, asked if is_own_word else None)
        self._said_type = media_type
        if not self._whole:
            self.media_type = media_type
        await self._receive(subscriber, host, answer, start, (offset, stop))

    def _was_refused(self, subscriber: Subscriber, host: str, error: CacheError, asked: float) -> None:
        if isinstance(error, OriginRefused):
            self._context.record_denied(subscriber, error, asked)
            self._clients.deny(subscriber.key, error)
            return
        self._error = error
        if isinstance(error, LoopDetected):
            # That is about the way of this client's request, and no fault of the host.
            self._looped.add(subscriber.request.via)
        self.planner.broke(host, repeatable=isinstance(error, UpstreamBroken))

    async def _was_complete(self, host: str, offset: int) -> bool:
        """
        Whether an earlier run has left every byte, and no time to say so: ``host`` was asked for what follows
        on the last one, and its answer says nothing of the content. Whether a client may have it then takes a
        question of its own.

        :raises DiskFailed: they cannot be read.
        """
        planner = self.planner
        if not offset or planner.total is not None or planner.held.end() != offset or self._segments.busy:
            return False
        if not await self.download_file.matches_digest(offset):
            return False
        planner.has_no_more(host, offset)
        return True

    def _check_doubtful(self, answer: Answer, origin: str) -> bool:
        """
        Whether an answer is the registry's own word. A redirect to a host that has delivered nothing yet, or
        a page for people, is not: what it brings is sent to whoever asked, and makes a grant and a link once
        it is verified.

        Where it could be anything, and bytes of an earlier download are here already, nobody gets a byte
        before all are verified.

        :raises SignedManifest: its digest is not that of its bytes.
        """
        if self._whole and essence(answer.header("Content-Type")) in SCHEMA_1_TYPES:
            answer.abandon()
            raise SignedManifest(f"{self.key.digest} is a signed manifest")
        self._targets.add(answer.target)
        self._has_page = self._has_page or answer.is_page
        if not (answer.moved or answer.is_page) or self._context.is_known_target(origin, answer.target):
            return True
        if self.planner.held.total() and answer.status == OK and self.planner.total is None:
            self._is_doubted = True
        return False

    def _open(self, host: str, answer: Answer, offset: int) -> int:
        """The byte that the body of ``answer`` starts with."""
        opening = read_opening(answer.status, answer.length, answer.header("Content-Range"), offset)
        if not self.planner.opened(host, opening.total):
            raise UpstreamBroken(f"{host} says another size than others did")
        if self._largest is not None and (opening.total or 0) > self._largest:
            raise too_large(opening.total, self._largest)
        return opening.start

    async def _receive(
        self, subscriber: Subscriber, host: str, answer: Answer, start: int, gap: tuple[int, int | None]
    ) -> None:
        offset, stop = gap
        total = self.planner.total
        await self.reserve(answer)
        self._head_in = True
        self._answer()
        self.progress.notify_all(self.planner.prefix)

        def arrived(begin: int, end: int) -> bool:
            self.arrived(host, begin, end)
            if self._disk_error is not None:
                raise self._disk_error
            # What a segment has got, or is about to get, is not fetched twice.
            ahead = self.planner.held.reach(end) - end
            return self._superseded or ahead > _WORTH_ANOTHER_REQUEST or self._segments.covers(end)

        try:
            # What a 200 sends beyond the gap is there already.
            limit = total if total is not None else self._largest
            if await self.download_file.receive(answer, start, offset, limit, arrived, self._reserve_for):
                self.planner.ended(host, stop)
        except BodyTooLong as error:
            if total is None and self._largest is not None:
                raise too_large(None, self._largest) from error
            self.planner.too_long(host)
            self._error = error
        except (UpstreamBroken, UpstreamTimeout) as error:
            if self._is_wanted() or self.planner.prefix >= FIRST_PART:
                self._disappoint(subscriber, host, error)

    async def _start_again(self, blamed: str | None) -> None:
        if self.in_place:
            await self._throw_away()
        self._context.meter.digest_mismatch()
        self._log.warn(
            "digest mismatch, download restarted",
            origin=self.key.origin,
            repository=sorted({request.content.repository for request in self.senders}),
            digest=self.key.digest,
            upstream=blamed,
        )
        if blamed is not None:
            self._clients.eject_host(blamed, f"its {self.key.digest} was something else")
            self._error = UpstreamBroken(f"{blamed} delivers something else than {self.key.digest}")
        await self._come_to_rest()
        self.generation += 1
        self.planner.restarted()
        self.progress.announced = 0
        await self.download_file.restart()
        self.progress.notify_all(self.planner.prefix)

    async def _throw_away(self) -> NoReturn:
        self._log.error("stored blob corrupt, deleted", digest=self.key.digest, reason="digest mismatch")
        await self._on_disk(self.download_file.file.discard)
        raise UndecidedError("what lay in the store was something else")

    async def _keep(self) -> None:
        self._storing = True
        if self._whole and not await self._is_storable():
            if not self.in_place:
                await self._on_disk(self.download_file.file.discard)
                self._unlinked = True
            self._release_readers()
            return
        # Who sees the end of a pull finds the blob in the store; but nobody waits long for a slow disk, for
        # what readers get is verified all the same.
        impatience = self._context.clock.callLater(_LONGEST_COMMIT, self._release_readers)
        try:
            size, origin = self.planner.total or 0, self.delivered_by
            await self._context.run(
                self._context.commit, self.key.digest, self.download_file.file, size, origin
            )
        except OSError as error:
            self._context.report_disk(f"{self.key.digest} is fetched but cannot be stored: {error}")
        else:
            self.stored = True
            self._context.report_disk(None)
        finally:
            if impatience.active():
                impatience.cancel()
            self._release_readers()

    async def _matches_digest(self) -> bool:
        """
        Whether the digest is that of all bytes. Of a manifest it may be another one because it is signed:
        some registries do not say so by its type.

        :raises SignedManifest: it is.
        """
        if await self.download_file.matches_digest(self.planner.total or 0):
            return True
        if not self._whole:
            return False
        content = await self._on_disk(self.download_file.file.read, 0, self.planner.total or 0)
        if self.key.digest in manifest_digests(content, self._said_type, self.key.digest.algorithm):
            raise SignedManifest(f"{self.key.digest} is a signed manifest")
        return False

    async def _is_storable(self) -> bool:
        """
        Whether a manifest has the media type that upstream gives it. If not, its readers get it as upstream
        sent it.

        :raises ManifestInvalid: it is no manifest.
        """
        content = await self._on_disk(self.download_file.file.read, 0, self.planner.total or 0)
        checked = check_manifest(content)
        if not checked.agrees(self._said_type):
            self.media_type = self._said_type
            return False
        self.media_type = checked.media_type(get=self._said_type)
        return True

    def _release_readers(self) -> None:
        if not self.verified:
            # Where every byte was there before, upstream's head has never come: these wait still.
            self.verified = self._head_in = True
            in_doubt, self._in_doubt = self._in_doubt, []
            for doubted in in_doubt:
                self._context.record_allowed(*doubted)
            self._answer()
            self.progress.notify_all(self.planner.prefix)

    async def _leave_file(self) -> None:
        if self.verified or self.in_place or not self.download_file.has_file:
            return
        held = tuple(self.planner.held)
        # What a page has left there would be the first bytes of somebody else's blob.
        # A page may have any type, and what is small is not worth a resumption.
        is_small = (self.planner.total or self.planner.held.total()) < FIRST_PART
        useless = not held or is_small or self._has_page
        useless = useless or isinstance(
            self.failure, ContentWrong | ManifestInvalid | SignedManifest | StoredMeanwhile
        )
        try:
            if useless:
                await self._discard()
            elif held != ((0, self.planner.prefix),):
                await self._context.run(self.download_file.file.park, held)
        except OSError as error:
            self._log.warn(
                "partial file not stored", origin=self.key.origin, digest=self.key.digest, reason=error
            )

    def _disappoint(self, subscriber: Subscriber, host: str, error: CacheError) -> None:
        self._error = error
        subscriber.request.registry.failed(host, error.message, subscriber.request.content.kind)
        self.planner.broke(host)

    def _answer(self) -> None:
        if self._head_in:
            self._clients.notify_ready()


def _with_more(size: int) -> int:
    """What to reserve for a content of unknown length of which ``size`` bytes are there."""
    return size + max(_AHEAD, size // 4)


def _stored_meanwhile() -> StoredMeanwhile:
    return StoredMeanwhile("the blob has been stored from another origin")
