"""
Blobs and manifests by digest: from the store, from a running download, or from a new one.

:meth:`BlobService.get` repeats one attempt until there is a response: authorize the client, look the digest up in
the store, else join or start a download (:mod:`contentcache.delivery.downloads`), else pass the answer of upstream
through (:mod:`contentcache.delivery.passthrough`).
"""

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
    DiskFailed,
    ManifestTooLarge,
    NoRoom,
    UpstreamBroken,
    UpstreamUnavailable,
)
from contentcache.core.live import Live
from contentcache.core.lru import LruCache
from contentcache.core.manifests import CheckedManifest, ManifestInvalid
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.blob_usage import BlobUsage
from contentcache.delivery.bodies import ClientSink, GrowingBody, Remainder, ShortError, StoredBody
from contentcache.delivery.download_context import DeliveryPorts, Reservations
from contentcache.delivery.downloads import Downloads
from contentcache.delivery.hot_blobs import HotBlobs
from contentcache.delivery.indexed_store import IndexedStore, StoreHealth, close_file
from contentcache.delivery.manifests import StoredManifest, StoredManifests, too_large
from contentcache.delivery.options import DeliveryOptions
from contentcache.delivery.origin_authorization import Decision
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.delivery.passthrough import (
    PassthroughContext,
    continue_from_stored,
    continue_from_upstream,
    pass_through,
)
from contentcache.delivery.possession import Possession
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.responses import ContentHead, ContentResponse, Outcome
from contentcache.delivery.shared_download import (
    DownloadKey,
    NextStep,
    NotShareable,
    SharedDownload,
    StoredMeanwhile,
    UndecidedError,
)
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import BlobFile, Index, Room, Store
from contentcache.telemetry.request_ids import NO_DOWNLOAD, subscribed_to

_MOST_ATTEMPTS: Final = 50
#: Number of blob sizes cached for range requests.
_MOST_SIZES: Final = 10_000


class BlobService:
    """
    Answers requests for a digest.

    Downloads reserve their bytes in the ``room`` of the store, and ``semaphore`` bounds how many run. Where there
    are ``other_workers``, each is the owner of some digests: it runs their downloads, and clients here join them.
    ``most_hot_blobs`` is the number of small blobs that are kept open for the fast path.
    """

    _log = Logger()

    def __init__(
        self,
        authorization: Authorization,
        store: Store,
        index: Index,
        *,
        room: Room,
        semaphore: FairSemaphore[bytes],
        ports: DeliveryPorts,
        options: Live[DeliveryOptions],
        most_hot_blobs: int = 0,
        other_workers: OtherWorkers | None = None,
    ) -> None:
        others = other_workers or OtherWorkers()
        self._authorization = authorization
        self._run = ports.run
        self._passthrough = PassthroughContext(ports.run, ports.clock, ports.meter, options)
        self._options = options
        self._store = IndexedStore(store, index, ports.wall)
        self._sizes: LruCache[DownloadKey, int] = LruCache(_MOST_SIZES)
        self._manifests = StoredManifests(ports.run, options)
        self._usage = BlobUsage(index, ports.run, ports.wall, others.on_use)
        self._possession = Possession(
            authorization, store, index, run=ports.run, clock=ports.clock, random=ports.random
        )
        self.hot_blobs = HotBlobs(authorization, self._usage, ports.run, most_hot_blobs)
        self.health = StoreHealth(ports.meter, others.on_disk_fault)
        self.downloads = Downloads(
            authorization,
            self._store,
            Reservations(room, self.flush, options),
            self.health,
            semaphore=semaphore,
            ports=ports,
            options=options,
            other_workers=others,
        )

    def in_use(self, digest: Digest) -> bool:
        """Whether it is read or downloaded, or a pull of it is not in the index yet: it cannot be evicted."""
        return digest in self.downloads or digest in self._usage

    def lost_index(self) -> None:
        """The index is made anew: what it knew is not believed any more."""
        self.hot_blobs.close()
        self._possession.clear()
        self._authorization.lost_index()

    async def flush(self) -> None:
        """Write the last pulls into the index."""
        self.hot_blobs.drop_deleted()
        await self._usage.flush()

    # HEAD

    async def describe(self, request: ContentRequest) -> ContentHead:
        """
        Answer a ``HEAD``: from the store, if the client may have it; else the origin tells.

        :raises CacheError: as :meth:`get` does.
        """
        digest, key = request.content.digest, DownloadKey.of(request)
        self.downloads.check_negative_cache(request)
        decision = await self._authorization.cached_decision(request)
        record = await self._run(self._store.verified, digest)
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
            return ContentHead(digest, record.size, None, _hit(decision), decision.stale, decision.notices)
        download = self.downloads.get(key)
        size = None if download is None or download.in_place else download.size
        if decision is not None and size is not None:
            return ContentHead(digest, size, None, Outcome.COALESCED)
        decision = await self._authorization.ask_origin_for_size(request)
        # A cache before this one asks so before it asks for a part.
        self._record_size(key, decision)
        return ContentHead(digest, decision.size, None, Outcome.DESCRIBED, notices=decision.notices)

    async def describe_manifest(self, request: ContentRequest, decision: Decision) -> ContentHead:
        """Answer a ``HEAD`` of a manifest that this client may have: what is stored beats what ``HEAD`` says."""
        digest, stale, notices = request.content.digest, decision.stale, decision.notices
        stored = await self._possessed_manifest(request)
        if stored is not None:
            media_type = await self._media_type(request, stored.checked, decision)
            return ContentHead(digest, stored.size, media_type, _hit(decision), stale, notices)
        limit = self._options.now.manifest_limit
        if (decision.size or 0) > limit:
            raise too_large(decision.size, limit)
        if decision.size is not None:
            media_type = decision.media_type or decision.head_type
            return ContentHead(digest, decision.size, media_type, Outcome.DESCRIBED, stale, notices)
        # Only the manifest itself tells its length, and whoever asks for that gets the manifest next.
        with await self.get(request, decision) as response:
            return response.head

    async def stored_manifest(self, digest: Digest) -> StoredManifest | None:
        """A content as a manifest, if it is stored, or was, verified and checked; ``None`` if it is none."""
        known = self._manifests.known(digest)
        if known is not None:
            return known
        _, file = await shielded(self._run(self._store.look_up, digest), close_file)
        if file is None:
            return None
        try:
            return await self._manifests.check(digest, file)
        except (ManifestInvalid, ManifestTooLarge, OSError):
            return None
        finally:
            file.close()

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

    async def _media_type(
        self, request: ContentRequest, checked: CheckedManifest, decision: Decision
    ) -> str | None:
        """What to serve a manifest as: what is stored and what ``GET`` said beat what ``HEAD`` says."""
        said = None
        if checked.declared is None:
            said = decision.media_type or await self._authorization.media_type(request)
        return checked.media_type(get=said, head=decision.head_type)

    # GET

    async def get(
        self, request: ContentRequest, decision: Decision | None = None, *, whole: bool = True
    ) -> ContentResponse:
        """
        A body that this client may have; ``decision`` if there is one already. Of a content that only parts
        are wanted of (not ``whole``), only those are downloaded.

        :raises OriginRefused: the origin does not let it.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: the origin cannot be asked, or the
            content cannot be had.
        :raises Overloaded: too many downloads at once.
        """
        for _ in range(_MOST_ATTEMPTS):
            match await self._attempt(request, decision, whole=whole):
                case ContentResponse() as response:
                    return response
                case NextStep.AUTHORIZE:
                    decision = await self._authorization.authorize(request, with_body=True)
                case NextStep.PASS_THROUGH:
                    return await pass_through(request, self._authorization, self._passthrough)
                case NextStep.LOOK_UP_AGAIN:
                    pass
        raise UpstreamUnavailable("this content comes and goes; try again")

    async def _attempt(
        self, request: ContentRequest, decision: Decision | None, *, whole: bool
    ) -> ContentResponse | NextStep:
        self.downloads.check_negative_cache(request)
        try:
            decision = decision or await self._authorization.cached_decision(request)
            return await self._look_up(request, decision, whole=whole)
        except UndecidedError as error:
            return error.next_step
        except DiskFailed as error:
            if error.is_fault:
                self.health.report(error.message)
            self._log_uncached(request, error)
            return NextStep.PASS_THROUGH

    async def _look_up(
        self, request: ContentRequest, decision: Decision | None, *, whole: bool
    ) -> ContentResponse | NextStep:
        key, downloads = DownloadKey.of(request), self.downloads
        while True:
            await downloads.wait_joinable(key)
            if downloads.get(key) is None:
                record, file = await shielded(self._run(self._store.look_up, key.digest), close_file)
                if file is not None:
                    with ExitStack() as held:
                        held.callback(file.close)
                        return await self._serve_stored(request, file, decision, held)
                if record is not None and downloads.get(key) is None:
                    # It is stored, but was never verified.
                    decision = decision or await self._authorization.authorize(
                        request, with_body=True, size=record.size
                    )
                    await self._verify_stored(request)
                    continue
            download = downloads.get(key)
            if decision is None and download is not None and not downloads.is_candidate(download, request):
                # The download may have had its answer, a decision for this client too, since we looked.
                decision = await self._authorization.cached_decision(request)
                decision = decision or await self._authorization.authorize(
                    request, with_body=True, size=download.size
                )
                if downloads.get(key) is not download:
                    continue  # it has ended meanwhile: what it has stored is not downloaded again
            if download is None and not whole:
                # To answer for a part one must know the size of the whole.
                decision = await self._decision_with_size(request, decision)
            return await self._join(request, decision, whole=whole)

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
        response = ContentResponse(digest, body, media_type, _hit(decision), decision.stale, decision.notices)
        held.pop_all()
        return response

    async def _verify_stored(self, request: ContentRequest) -> None:
        """
        Hash a stored blob that was never verified, in its place.

        :raises UndecidedError: it was corrupt, and is deleted.
        """
        key, downloads = DownloadKey.of(request), self.downloads
        await downloads.wait_joinable(key, in_place=True)
        subscriber = Subscriber(request, self._authorization.request_key(request), authorized=True)
        download = downloads.get(key)
        if download is None:
            download = downloads.start(subscriber, in_place=True, total=None)
        else:
            download.subscribe(subscriber)
        try:
            await subscriber.ready
        finally:
            download.unsubscribe(subscriber)

    async def _join(
        self, request: ContentRequest, decision: Decision | None, *, whole: bool
    ) -> ContentResponse | NextStep:
        """Subscribe to the download that runs, or start one; the response once the client may be answered."""
        key, downloads = DownloadKey.of(request), self.downloads
        download = downloads.get(key)
        if download is None and downloads.is_own(key.digest):
            await downloads.check_room(key)
            download = downloads.get(key)
        total = None if whole or decision is None else decision.size
        whole = whole or (download is None and total is None)
        subscriber = Subscriber(
            request, self._authorization.request_key(request), authorized=decision is not None, whole=whole
        )
        # Unsubscribed unless it is handed over, with the body, by the last statements.
        with ExitStack() as held:
            if download is None:
                downloads.check_negative_cache(request)  # a download may have ended since we looked
                download = downloads.start(subscriber, in_place=False, total=total)
                held.callback(download.unsubscribe, subscriber)
                outcome = Outcome.STORED if whole else Outcome.PARTIAL
            elif (
                download.is_ending
                or download.in_place
                or (decision is None and not downloads.is_candidate(download, request))
            ):
                return NextStep.LOOK_UP_AGAIN
            else:
                instead = downloads.instead_of_waiting(download, request, authorized=decision is not None)
                if instead is not None:
                    return instead
                outcome = Outcome.HIT if download.verified else Outcome.COALESCED
                held.callback(download.unsubscribe, subscriber)
                download.subscribe(subscriber)
            subscribed_to(download.provenance)
            await subscriber.ready
            if subscriber.coalesced:
                outcome = Outcome.COALESCED
            body = self._growing_body(request, download, subscriber, held)
            if body.size == 0 or request.content.kind == "manifests":
                await _wait_verified(body, download)
            if request.content.kind == "manifests":
                in_background(self._authorization.record_media_type(request, download.media_type))
            stale, notices = (False, {}) if decision is None else (decision.stale, decision.notices)
            notices = {**notices, **subscriber.notices}
            provenance = NO_DOWNLOAD if outcome is Outcome.HIT else download.provenance
            response = ContentResponse(
                key.digest, body, download.media_type, outcome, stale, notices, provenance
            )
            held.pop_all()
            return response

    def _growing_body(
        self, request: ContentRequest, download: SharedDownload, subscriber: Subscriber, held: ExitStack
    ) -> GrowingBody:
        """The body of a subscriber, which holds, and ``held`` with it, what the subscriber held."""

        def close() -> None:
            try:
                download.unsubscribe(subscriber)
            finally:
                self._usage.release(digest)

        # It reads from the file as long as its client takes, perhaps long after the download has ended.
        digest = download.key.digest
        self._usage.acquire(digest)
        held.callback(self._usage.release, digest)
        body = GrowingBody(download, self._run, partial(self._continue, request, download), close)
        held.pop_all()
        held.callback(body.close)
        return body

    async def _continue(
        self,
        request: ContentRequest,
        download: SharedDownload,
        sink: ClientSink,
        rest: Remainder,
        release: Callable[[], None],
    ) -> None:
        """Send the rest of a body whose download cannot go on."""
        if isinstance(download.failure, StoredMeanwhile):
            _, stored = await shielded(self._run(self._store.look_up, download.key.digest), close_file)
            authorize = partial(self.get, request)
            await continue_from_stored(
                download, stored, sink, rest, release, authorize=authorize, run=self._run
            )
        else:
            self._log_uncached(request, download.failure)
            await continue_from_upstream(request, download, sink, rest, release, context=self._passthrough)

    def _log_uncached(self, request: ContentRequest, failure: CacheError | None) -> None:
        if isinstance(failure, NoRoom):
            self._log.warn(
                "no room for blob, passed through uncached",
                digest=request.content.digest,
                repository=request.content.repository,
                bytes=failure.detail,
                reason=failure.message,
            )

    async def _decision_with_size(self, request: ContentRequest, decision: Decision | None) -> Decision:
        key = DownloadKey.of(request)
        size = self._sizes.get(key)
        if decision is not None and size is not None:
            return evolve(decision, size=size)
        decision = await self._authorization.ask_origin_for_size(request, with_body=True)
        self._record_size(key, decision)
        return decision

    def _record_size(self, key: DownloadKey, decision: Decision) -> None:
        if decision.size is not None:
            self._sizes.put(key, decision.size)


async def _wait_verified(body: GrowingBody, download: SharedDownload) -> None:
    # A head alone would complete an empty content, and an error is better than a wrong manifest. Where the disk
    # takes no more, or the content is stored by now, get() knows another way.
    try:
        await body.until_verified()
    except ShortError as error:
        if isinstance(download.failure, ManifestTooLarge | ManifestInvalid | NotShareable):
            raise download.failure from error
        raise UpstreamBroken(str(error)) from error


def _hit(decision: Decision) -> Outcome:
    return Outcome.AFFIRMED if decision.revalidated else Outcome.HIT
