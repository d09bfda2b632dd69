"""Blobs and manifests by digest: from the store, from a fetch that is running, from a new one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from attrs import evolve
from twisted.logger import Logger

from contentcache.aio.fair_semaphore import FairSemaphore
from contentcache.aio.tasks import in_background, shielded
from contentcache.core.digest import Digest
from contentcache.core.errors import (
    CacheError,
    ContentWrong,
    DiskFailed,
    ManifestTooLarge,
    OriginRefused,
    Overloaded,
    UpstreamBroken,
    UpstreamUnavailable,
)
from contentcache.core.manifests import (
    CheckedManifest,
    ManifestInvalid,
    check_manifest,
    manifest_digests,
)
from contentcache.core.negative_cache import NegativeCache
from contentcache.core.ports import Clock, Run, Timer
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.blob_usage import BlobUsage
from contentcache.delivery.bodies import (
    Body,
    ClientSink,
    GrowingBody,
    MemoryBody,
    Remainder,
    ShortError,
    StoredBody,
    hash_prefix,
)
from contentcache.delivery.download import Download
from contentcache.delivery.download_context import DownloadContext, DownloadOptions, Reservations
from contentcache.delivery.hot_blobs import HotBlobs
from contentcache.delivery.indexed_store import IndexedStore
from contentcache.delivery.manifests import StoredManifest, StoredManifests, read_manifest, too_large
from contentcache.delivery.origin_authorization import Decision
from contentcache.delivery.other_workers import OtherWorkers, Owners
from contentcache.delivery.passthrough import (
    PassthroughBody,
    RunningDigest,
    continue_from_stored,
    continue_from_upstream,
)
from contentcache.delivery.possession import Possession
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.responses import ContentHead, ContentResponse, Outcome
from contentcache.delivery.running_downloads import RunningDownloads
from contentcache.delivery.shared_download import (
    AuthorizationNeeded,
    DownloadKey,
    LoopPossible,
    NotShareable,
    SharedDownload,
    StoredMeanwhile,
    UndecidedError,
)
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import BlobFile, BlobRecord, Index, Room, Store
from contentcache.telemetry.metrics import Meter

_ATTEMPTS: Final = 50
#: Of so many contents that parts are asked of the size is remembered.
_MOST_SIZES: Final = 10_000


class BlobService:
    """
    All contents that are named by a digest.

    Downloads reserve their bytes in the ``room`` of the store; ``random(n)`` is a number from 0 to
    ``n - 1``; ``manifest_limit`` is in bytes,
    ``fill_after`` the share of a content from which on the rest of it is fetched too; ``small`` is how many
    small blobs are kept open for those who find them in :attr:`hot_blobs`. Where there are ``other_workers``,
    each has the fetches of some contents, and its clients read along here.
    """

    _log = Logger()

    def __init__(
        self,
        authorization: Authorization,
        store: Store,
        index: Index,
        *,
        run: Run,
        clock: Timer,
        wall: Clock,
        downloads: FairSemaphore[bytes],
        meter: Meter,
        room: Room,
        random: Callable[[int], int],
        manifest_limit: int,
        fill_after: float,
        small: int = 0,
        other_workers: OtherWorkers | None = None,
    ) -> None:
        self._authorization = authorization
        #: What the disk refused last, until it takes something again.
        self.disk_fault: str | None = None
        self._indexed_store = IndexedStore(store, index, wall)
        self._run = run
        self._clock = clock
        self._semaphore = downloads
        self._meter = meter
        self._reservations = Reservations(room, self.flush)
        self._manifest_limit = manifest_limit
        self._fill_after = fill_after
        self._other_workers = other_workers or OtherWorkers()
        self._running = RunningDownloads()
        self._sizes: dict[DownloadKey, int] = {}
        self._manifests = StoredManifests(run, manifest_limit)
        self._usage = BlobUsage(index, run, wall, self._other_workers.on_use)
        self._possession = Possession(authorization, store, index, run=run, clock=clock, random=random)
        self.hot_blobs = HotBlobs(authorization, self._usage, run, small)
        self._negative_cache = NegativeCache()
        self._context = DownloadContext(
            store=store,
            run=run,
            clock=clock,
            meter=meter,
            request_time=authorization.request_time,
            is_known_target=authorization.origin.is_known_target,
            record_allowed=self.record_allowed,
            record_denied=self.record_denied,
            reservations=self._reservations,
            commit=self._indexed_store.commit,
            report_disk=self._report_disk,
        )

    # For the evictor and for who watches.

    def in_use(self, digest: Digest) -> bool:
        """Whether a reader or a fetch has this content, or a pull of it is not in the index yet."""
        return digest in self._running or digest in self._usage

    @property
    def running_downloads(self) -> int:
        """How many fetches of ours are running."""
        return sum(isinstance(download, Download) for download in self._running)

    def lost_index(self) -> None:
        """The index is made anew: what it knew is not believed any more."""
        self.hot_blobs.close()
        self._possession.clear()
        self._authorization.lost_index()

    async def flush(self) -> None:
        """Write the last pulls into the index."""
        self.hot_blobs.drop_deleted()
        await self._usage.flush()

    # For the web.

    async def describe(self, request: ContentRequest) -> ContentHead:
        """
        Answer a ``HEAD``: what is here is told from here, if the client may have it; else the origin tells.

        :raises CacheError: as :meth:`get` does.
        """
        digest = request.content.digest
        self._check_negative_cache(request)
        decision = await self._authorization.cached_decision(request)
        record = await self._run(self._indexed_store.verified, digest)
        if request.content.kind == "manifests":
            if record is None:
                decision = await self._authorization.ask_origin(request, with_body=False)
            size = None if record is None else record.size
            decision = decision or await self._authorization.authorize(request, with_body=False, size=size)
            return await self.describe_manifest(request, decision)
        if record is not None:
            decision = decision or await self._authorization.authorize(
                request, with_body=False, size=record.size
            )
            await self._possession.require(request)
            outcome = _hit(decision)
            return ContentHead(digest, record.size, None, outcome, decision.stale, decision.notices)
        download = self._running.get(_key(request))
        if (
            decision is not None
            and download is not None
            and download.size is not None
            and not download.in_place
        ):
            return ContentHead(digest, download.size, None, Outcome.COALESCED)
        decision = await self._authorization.ask_origin_for_size(request)
        # A cache before this one asks so before it asks for a part.
        self._note_size(_key(request), decision.size)
        return ContentHead(digest, decision.size, None, Outcome.DESCRIBED, notices=decision.notices)

    async def describe_manifest(self, request: ContentRequest, decision: Decision) -> ContentHead:
        """Answer a ``HEAD`` of a manifest that this client may have: what is stored beats what ``HEAD`` says."""
        digest = request.content.digest
        stored = await self._possessed_manifest(request)
        if stored is not None:
            outcome = _hit(decision)
            media_type = await self._media_type(request, stored.checked, decision)
            return ContentHead(digest, stored.size, media_type, outcome, decision.stale, decision.notices)
        if (decision.size or 0) > self._manifest_limit:
            raise too_large(decision.size, self._manifest_limit)
        if decision.size is not None:
            media_type = decision.media_type or decision.head_type
            return ContentHead(
                digest, decision.size, media_type, Outcome.DESCRIBED, decision.stale, decision.notices
            )
        # Only the manifest itself tells its length, and whoever asks for that comes for the manifest next.
        with await self.get(request, decision) as response:
            return response.head

    async def _possessed_manifest(self, request: ContentRequest) -> StoredManifest | None:
        """
        The same as :meth:`stored_manifest` where the origin that is asked has it.

        :raises NotPossessed: it has not.
        """
        stored = await self.stored_manifest(request.content.digest)
        if stored is None:
            return None
        try:
            await self._possession.require(request)
        except UndecidedError:
            return None  # it was stored
        return stored

    async def stored_manifest(self, digest: Digest) -> StoredManifest | None:
        """A content as a manifest, if it is stored, or was, verified and checked; ``None`` if it is none."""
        known = self._manifests.known(digest)
        if known is not None:
            return known
        _, file = await shielded(self._run(self._indexed_store.look_up, digest), _close)
        if file is None:
            return None
        try:
            return await self._manifests.check(digest, file)
        except (ManifestInvalid, ManifestTooLarge, OSError):
            return None
        finally:
            file.close()

    async def _media_type(
        self, request: ContentRequest, checked: CheckedManifest, decision: Decision
    ) -> str | None:
        """What to serve a manifest as: what is stored and what ``GET`` said beat what ``HEAD`` says."""
        said = None
        if checked.declared is None:
            said = decision.media_type or await self._authorization.media_type(request)
        return checked.media_type(get=said, head=decision.head_type)

    async def get(
        self, request: ContentRequest, decision: Decision | None = None, *, whole: bool = True
    ) -> ContentResponse:
        """
        A body that this client may have; ``decision`` if there is one already. Of a content that only parts
        are wanted of (not ``whole``), only those are fetched.

        :raises OriginRefused: the origin does not let it.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: the origin cannot be asked, or the
            content cannot be had.
        :raises Overloaded: too many fetches at once.
        """
        for _ in range(_ATTEMPTS):
            self._check_negative_cache(request)
            try:
                return await self._get(
                    request, decision or await self._authorization.cached_decision(request), whole=whole
                )
            except AuthorizationNeeded:
                decision = await self._authorization.authorize(request, with_body=True)
            except NotShareable:
                return await self._pass_through(request)
            except UndecidedError:
                continue
            except DiskFailed as error:
                self._report_disk(error.message)
                return await self._pass_through(request)
        raise UpstreamUnavailable("this content comes and goes; try again")

    async def store(self, key: DownloadKey, content: bytes) -> None:
        """Store a small content that has come whole and verified from ``origin``."""
        owners = self._remote_owners(key.digest)
        if owners is not None:
            await owners.store(key, content)
            return
        if key.digest in self._running:
            return
        reserved = self._reservations.begin(key)
        try:
            await reserved.grow(len(content))
            await self._run(self._indexed_store.store, key.digest, key.origin, content)
        except DiskFailed:
            return
        except OSError as error:
            self._report_disk(f"a manifest cannot be stored: {error}")
        finally:
            reserved.release()

    # For other workers.

    async def subscribe(
        self, subscriber: Subscriber, *, in_place: bool, total: int | None
    ) -> tuple[Download, bool]:
        """
        Let a client of another worker join the fetch of a content of ours, which begins if there is none;
        ``in_place`` and ``total`` are as in :class:`contentcache.delivery.download.Download`. Answers whether
        there was one, too.

        :raises UndecidedError: the content is here by now.
        :raises AuthorizationNeeded: the download runs in the names of others, and this client is not authorized.
        :raises DiskFailed: there is no room for it.
        """
        key = _key(subscriber.request)
        digest = key.digest
        self._check_negative_cache(subscriber.request)
        await self._until_closed(key, in_place=in_place)
        if self._running.get(key) is None:
            record, file = await shielded(self._run(self._indexed_store.look_up, digest), _close)
            if file is not None:
                file.close()
            if file is not None or (record is not None) is not in_place:
                raise UndecidedError("it is in the store by now")
            if not in_place and not await self._reservations.has_room(key):
                raise DiskFailed("there is no room in the store")
        # What the origin has told this worker of the client counts here, and nowhere else.
        subscriber.authorized = (
            subscriber.authorized or await self._authorization.cached_decision(subscriber.request) is not None
        )
        download = self._running.get(key)
        if download is None:
            self._check_negative_cache(subscriber.request)
            return self._start_own(subscriber, in_place=in_place, total=total), False
        if not isinstance(download, Download) or download.is_ending or download.in_place is not in_place:
            raise UndecidedError("another fetch has begun or ended meanwhile")
        if not subscriber.authorized and not (
            download.awaits_decision and download.has_subscriber(subscriber.key)
        ):
            raise AuthorizationNeeded("the origin has not been asked")
        self._check_loop(download, subscriber.request, asked=subscriber.authorized)
        download.subscribe(subscriber)
        return download, True

    # How it is done.

    async def _get(
        self, request: ContentRequest, decision: Decision | None, *, whole: bool
    ) -> ContentResponse:
        key = _key(request)
        digest = key.digest
        await self._until_closed(key)
        if self._running.get(key) is None:
            record, file = await shielded(self._run(self._indexed_store.look_up, digest), _close)
            if file is not None:
                with ExitStack() as held:
                    held.callback(file.close)
                    return await self._serve_stored(request, file, decision, held)
            if record is not None and self._running.get(key) is None:
                # It lies in the store, but nobody has ever verified it.
                decision = decision or await self._authorization.authorize(
                    request, with_body=True, size=record.size
                )
                await self._verify_stored(request)
                return await self._get(request, decision, whole=whole)
        download = self._running.get(key)
        if decision is None and download is not None and not self._is_in_question(download, request):
            # The fetch may have had its answer, a decision for this client too, since we looked.
            decision = await self._authorization.cached_decision(request)
            decision = decision or await self._authorization.authorize(
                request, with_body=True, size=download.size
            )
            if self._running.get(key) is not download:
                # It has ended meanwhile: what it has stored is not fetched again.
                return await self._get(request, decision, whole=whole)
        if download is None and not whole:
            # To answer for a part one must know the size of the whole.
            decision = await self._sized(request, decision)
        return await self._join(request, decision, whole=whole)

    async def _sized(self, request: ContentRequest, decision: Decision | None) -> Decision:
        """A decision that knows the size of the whole."""
        key = _key(request)
        known = self._sizes.get(key)
        if decision is not None and known is not None:
            return evolve(decision, size=known)
        decision = await self._authorization.ask_origin_for_size(request, with_body=True)
        self._note_size(key, decision.size)
        return decision

    def _note_size(self, key: DownloadKey, size: int | None) -> None:
        if size is not None:
            self._sizes[key] = size
            if len(self._sizes) > _MOST_SIZES:
                del self._sizes[next(iter(self._sizes))]

    async def _until_closed(self, key: DownloadKey, *, in_place: bool = False) -> None:
        # One that ends without the content takes nobody aboard; the next one goes on from its partial file.
        # Stored bytes that are being verified are served to nobody before that is done.
        while (download := self._running.get(key)) is not None and (
            download.is_ending or download.in_place is not in_place
        ):
            await download.progress.wait()

    async def _verify_stored(self, request: ContentRequest) -> None:
        """
        Hash a stored blob that nobody has verified yet, in the place where it is.

        :raises UndecidedError: it was something else, and is gone.
        """
        await self._until_closed(_key(request), in_place=True)
        subscriber = Subscriber(request, self._authorization.request_key(request), authorized=True)
        download = self._running.get(_key(request))
        if download is None:
            download = self._start(subscriber, in_place=True, total=None)
        else:
            download.subscribe(subscriber)
        try:
            await subscriber.ready
        finally:
            download.unsubscribe(subscriber)

    async def _serve_stored(
        self, request: ContentRequest, file: BlobFile, decision: Decision | None, held: ExitStack
    ) -> ContentResponse:
        """Serve ``file``, which ``held`` closes unless it is handed over, with the body, by the last statements."""
        digest = request.content.digest
        self._usage.acquire(digest)
        held.callback(self._usage.release, digest)
        body = StoredBody(file, self._run, partial(self._usage.release, digest))
        held.pop_all()
        held.callback(body.close)
        media_type = None
        decision = decision or await self._authorization.authorize(request, with_body=True, size=body.size)
        await self._possession.require(request)
        if request.content.kind == "manifests":
            stored = await self._manifests.check(digest, file)
            media_type = await self._media_type(request, stored.checked, decision)
        self._usage.record_pull(digest)
        if request.content.kind == "blobs":
            self.hot_blobs.add(digest, file, request.registry.upstream.origin)
        outcome = _hit(decision)
        served = ContentResponse(digest, body, media_type, outcome, decision.stale, decision.notices)
        held.pop_all()
        return served

    async def _join(
        self, request: ContentRequest, decision: Decision | None, *, whole: bool
    ) -> ContentResponse:
        key = _key(request)
        digest = key.digest
        download = self._running.get(key)
        outcome = Outcome.COALESCED
        if download is None and self._remote_owners(digest) is None:
            if not await self._reservations.has_room(key):
                raise DiskFailed("there is no room in the store")
            download = self._running.get(key)
        total = None if whole or decision is None else decision.size
        whole = whole or (download is None and total is None)
        subscriber = Subscriber(
            request, self._authorization.request_key(request), authorized=decision is not None, whole=whole
        )
        # Detached unless it is handed over, with the body, by the last two statements.
        with ExitStack() as held:
            if download is None:
                self._check_negative_cache(request)  # by a fetch that has ended since we looked
                download = self._start(subscriber, in_place=False, total=total)
                held.callback(download.unsubscribe, subscriber)
                outcome = Outcome.STORED if whole else Outcome.PARTIAL
            elif (
                download.is_ending
                or download.in_place
                or not (decision or self._is_in_question(download, request))
            ):
                raise UndecidedError("another fetch has begun or ended meanwhile")
            else:
                self._check_loop(download, request, asked=decision is not None)
                outcome = Outcome.HIT if download.verified else outcome
                held.callback(download.unsubscribe, subscriber)
                download.subscribe(subscriber)
            await subscriber.ready
            if subscriber.coalesced:
                outcome = Outcome.COALESCED
            # It reads from the file as long as its client takes, perhaps long after the download has ended.
            self._usage.acquire(digest)
            held.callback(self._usage.release, digest)
            body = GrowingBody(
                download,
                self._run,
                partial(self._carry_on, request, download),
                partial(self._left, download, subscriber),
            )
            held.pop_all()
            held.callback(body.close)
            if body.size == 0 or request.content.kind == "manifests":
                await self._until_verified(body, download)
            if request.content.kind == "manifests":
                in_background(self._authorization.record_media_type(request, download.media_type))
            stale, notices = (False, {}) if decision is None else (decision.stale, decision.notices)
            served = ContentResponse(
                digest, body, download.media_type, outcome, stale, {**notices, **subscriber.notices}
            )
            held.pop_all()
            return served

    async def _until_verified(self, body: GrowingBody, download: SharedDownload) -> None:
        # A head alone would complete an empty content; and a wrong manifest had better be an error. Where the
        # disk takes no more, or the content is in the store by now, get() knows another way.
        try:
            await body.until_verified()
        except ShortError as error:
            if isinstance(download.failure, ManifestTooLarge | ManifestInvalid | NotShareable):
                raise download.failure from error
            raise UpstreamBroken(str(error)) from error

    def _left(self, download: SharedDownload, subscriber: Subscriber) -> None:
        try:
            download.unsubscribe(subscriber)
        finally:
            self._usage.release(download.key.digest)

    def _remote_owners(self, digest: Digest) -> Owners | None:
        """The owners, if another worker is the owner of ``digest``."""
        owners = self._other_workers.owners
        return None if owners is None or owners.is_own(digest) else owners

    def _is_in_question(self, download: SharedDownload, request: ContentRequest) -> bool:
        """Whether the fetch's own first request goes out in this client's name, and its answer is the verdict."""
        return download.awaits_decision and download.has_subscriber(self._authorization.request_key(request))

    def _check_loop(self, download: SharedDownload, request: ContentRequest, *, asked: bool) -> None:
        """
        Let a request that came through a cache wait for a running download only if the download cannot be
        waiting for that request: caches that name each other would wait until their timeouts.

        :raises AuthorizationNeeded: nobody knows yet which caches are behind the upstream; its answer will tell.
        :raises LoopPossible: it may be.
        """
        # Of another worker's download only that worker knows whom it asks: it looks, too.
        if (
            not isinstance(download, Download)
            or download.verified
            or download.has_subscriber(self._authorization.request_key(request))
        ):
            return
        if request.registry.may_lead_back(request.via, download.stream.host):
            raise (LoopPossible if asked else AuthorizationNeeded)(
                "this download may be waiting for this very request"
            )

    def _start(self, subscriber: Subscriber, *, in_place: bool, total: int | None) -> SharedDownload:
        key = _key(subscriber.request)
        owners = self._remote_owners(key.digest)
        if owners is None:
            return self._start_own(subscriber, in_place=in_place, total=total)
        download = owners.join(key, self, in_place=in_place, total=total)
        self._begin(download, subscriber, needs_turn=False)
        return download

    def _start_own(self, subscriber: Subscriber, *, in_place: bool, total: int | None) -> Download:
        is_manifest = subscriber.request.content.kind == "manifests"
        options = DownloadOptions(
            in_place, self._manifest_limit if is_manifest else None, total, self._fill_after
        )
        download = Download(_key(subscriber.request), self._context, options)
        self._begin(download, subscriber, needs_turn=not in_place)
        return download

    def _begin(self, download: SharedDownload, subscriber: Subscriber, *, needs_turn: bool) -> None:
        identity = subscriber.request.subject.identity
        with ExitStack() as held:
            held.callback(self._running.remove, download)
            self._running.add(download)
            self._other_workers.on_use(download.key.digest)
            download.subscribe(subscriber)
            held.pop_all()
        in_background(self._run_download(download, identity, needs_turn=needs_turn))

    async def _run_download(self, download: SharedDownload, key: bytes, *, needs_turn: bool) -> None:
        release = None
        try:
            if needs_turn:
                try:
                    release = await self._semaphore.acquire(key)
                except CacheError as error:
                    self._meter.limited("fetches")
                    await download.abort(error)
                    return
            await download.run()
        finally:
            if release is not None:
                release()
            try:
                self._learn(download)
            finally:
                self._running.remove(download)
                download.progress.notify_all(download.prefix)
            if isinstance(download, Download) and download.storage.is_stored:
                for other in self._running.others(download.key):
                    if isinstance(other, Download):
                        in_background(self._supersede(other))

    def _learn(self, download: SharedDownload) -> None:
        origin = download.key.origin
        if isinstance(download.failure, ContentWrong):
            self._add_negative_entry(download)
        elif download.verified and not download.in_place:
            self._negative_cache.remove(origin, download.key.digest)
            if download.target is not None:
                self._authorization.origin.learn_target(origin, download.target)

    async def _supersede(self, download: Download) -> None:
        """Another origin's download has stored the blob: who is attached goes on from the store."""
        if await download.supersede():
            self._running.remove(download)
            download.progress.notify_all(download.prefix)

    async def _pass_through(self, request: ContentRequest) -> ContentResponse:
        asked = self._authorization.request_time()
        answer = await request.registry.ask(request.upstream_request("GET"))
        media_type = answer.header("Content-Type")
        digest = request.content.digest
        if not (answer.moved or answer.is_page):
            in_background(self._authorization.record_allowed(request, media_type, asked=asked))
        body: Body
        if request.content.kind == "manifests" or answer.length == 0:
            content = await read_manifest(answer, self._manifest_limit)
            if digest not in manifest_digests(content, media_type, digest.algorithm):
                raise ContentWrong("what upstream delivers is not what the digest says")
            body = MemoryBody(content)
        else:
            body = PassthroughBody(request, answer, self._meter)
        if request.content.kind == "manifests":
            media_type = media_type or check_manifest(content).media_type(get=None)
        return ContentResponse(digest, body, media_type, Outcome.UNCACHED, notices=answer.notices())

    async def _carry_on(
        self,
        request: ContentRequest,
        download: SharedDownload,
        sink: ClientSink,
        rest: Remainder,
        release: Callable[[], None],
    ) -> None:
        if isinstance(download.failure, StoredMeanwhile):
            _record, stored = await shielded(
                self._run(self._indexed_store.look_up, download.key.digest), _close
            )
            await continue_from_stored(
                download, stored, sink, rest, release, authorize=partial(self.get, request), run=self._run
            )
            return
        check = None
        if rest.of_whole:
            check = RunningDigest(download.key.digest, download.key.digest.hasher())
            await hash_prefix(download.file, rest.start, check.hasher, self._run)
        release()
        await continue_from_upstream(request, sink, rest, check, self._meter)

    # What fetches report.

    def _report_disk(self, fault: str | None) -> None:
        if fault is not None:
            self._meter.store_write_error()
            if self.disk_fault != fault:
                self._log.error("store not writable, pulls pass through uncached", reason=fault)
        elif self.disk_fault is not None:
            self._log.info("store writable again")
        if fault != self.disk_fault:
            self._other_workers.on_disk_fault(fault)
        self.disk_fault = fault

    def record_allowed(self, subscriber: Subscriber, media_type: str | None, asked: float) -> None:
        """The origin has said decision to a client's question, asked at ``asked``."""
        if subscriber.reporter is not None:
            subscriber.reporter.report_allowed(media_type, asked)
        else:
            in_background(self._authorization.record_allowed(subscriber.request, media_type, asked=asked))

    def record_denied(self, subscriber: Subscriber, refusal: OriginRefused, asked: float) -> None:
        """The origin has said no to a client's question, asked at ``asked``."""
        if subscriber.reporter is not None:
            subscriber.reporter.report_denied(refusal, asked)
        else:
            in_background(self._authorization.record_denied(subscriber.request, refusal, asked=asked))

    def _add_negative_entry(self, download: SharedDownload) -> None:
        # Where another worker has made it, that one knows in whose names.
        origin, digest, now = download.key.origin, download.key.digest, self._clock.seconds()
        for request in download.stream.requests if isinstance(download, Download) else ():
            self._negative_cache.add(origin, digest, self._client(request), now)

    def _client(self, request: ContentRequest) -> bytes:
        # The origin itself speaks by signed URLs, of which each is good for one request.
        return b"signed" if request.credential.signed is not None else request.subject.identity

    def _check_negative_cache(self, request: ContentRequest) -> None:
        digest, client = request.content.digest, self._client(request)
        if self._negative_cache.has(request.registry.upstream.origin, digest, client, self._clock.seconds()):
            raise ContentWrong(f"no upstream delivers the content that {digest} names")


def download_semaphore(limit: int, timeout: float, timer: Timer) -> FairSemaphore[bytes]:
    """At most ``limit`` downloads at once, fair between credentials; further ones wait ``timeout`` seconds."""
    return FairSemaphore(
        limit,
        timer=timer,
        timeout=timeout,
        refusal=lambda: Overloaded(
            "too many downloads at once; try again soon", headers={"Retry-After": "5"}
        ),
    )


def _hit(decision: Decision) -> Outcome:
    return Outcome.AFFIRMED if decision.revalidated else Outcome.HIT


def _key(request: ContentRequest) -> DownloadKey:
    return DownloadKey(request.registry.upstream.origin, request.content.digest)


def _close(looked: tuple[BlobRecord | None, BlobFile | None]) -> None:
    file = looked[1]
    if file is not None:
        file.close()
