"""
The downloads that are running: at most one for each origin and digest, here or at the owner of the digest.

A failing or slow origin never affects another one's clients: each has a download, and a partial file, of its
own. The first one that is verified stores the blob for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from contentcache.aio.fair_semaphore import FairSemaphore, Permit
from contentcache.aio.tasks import in_background, shielded
from contentcache.core.digest import Digest
from contentcache.core.errors import ContentWrong, DiskFailed, OriginRefused, Overloaded
from contentcache.core.live import Live
from contentcache.core.negative_cache import NegativeCache
from contentcache.core.ports import Timer
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.download import Download
from contentcache.delivery.download_context import (
    DeliveryPorts,
    DownloadContext,
    DownloadOptions,
    Reservations,
)
from contentcache.delivery.indexed_store import IndexedStore, StoreHealth, close_file
from contentcache.delivery.options import DeliveryOptions
from contentcache.delivery.other_workers import OtherWorkers, Owners
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.shared_download import (
    AuthorizationNeeded,
    DownloadKey,
    LoopPossible,
    NextStep,
    SharedDownload,
    UndecidedError,
)
from contentcache.delivery.subscribers import Subscriber

#: Seconds for which the download of a manifest waits for unavailable upstreams.
_RETRY_MANIFEST_FOR: Final = 2.0


class Downloads:
    """
    Starts downloads, finds those that run, and learns from those that have ended. Iterating yields those that
    run; ``digest in downloads`` says whether one of this digest does, from whichever origin.
    """

    def __init__(
        self,
        authorization: Authorization,
        indexed_store: IndexedStore,
        reservations: Reservations,
        health: StoreHealth,
        *,
        semaphore: FairSemaphore[bytes],
        ports: DeliveryPorts,
        options: Live[DeliveryOptions],
        other_workers: OtherWorkers,
    ) -> None:
        self._authorization = authorization
        self._indexed_store = indexed_store
        self._health = health
        self._semaphore = semaphore
        self._ports = ports
        self._options = options
        self._other_workers = other_workers
        self._negative_cache = NegativeCache()
        self._by_digest: dict[Digest, dict[str, SharedDownload]] = {}
        self._context = DownloadContext(
            store=indexed_store.store,
            run=ports.run,
            clock=ports.clock,
            meter=ports.meter,
            request_time=authorization.request_time,
            is_known_target=authorization.origin.is_known_target,
            record_allowed=self.record_allowed,
            record_denied=self.record_denied,
            reservations=reservations,
            commit=indexed_store.commit,
            report_disk=health.report,
        )

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._by_digest

    def __iter__(self) -> Iterator[SharedDownload]:
        for of_digest in self._by_digest.values():
            yield from of_digest.values()

    @property
    def running(self) -> int:
        """How many downloads run in this worker."""
        return sum(isinstance(download, Download) for download in self)

    @property
    def queue(self) -> int:
        """How many downloads of this worker wait for a permit."""
        return self._semaphore.waiting

    @property
    def waiting(self) -> int:
        """How many of them wait for upstreams that are not available."""
        return sum(isinstance(download, Download) and download.stream.wait.is_waiting for download in self)

    def get(self, key: DownloadKey) -> SharedDownload | None:
        """The download from this origin."""
        return self._by_digest.get(key.digest, {}).get(key.origin)

    async def wait_joinable(self, key: DownloadKey, *, in_place: bool = False) -> None:
        """Wait until there is no such download, or one that subscribers can join."""
        # One that ends without the content is joined by nobody: the next one goes on from its partial file.
        # Stored bytes that are being verified are not sent before that is done.
        while (download := self.get(key)) is not None and (
            download.is_ending or download.in_place is not in_place
        ):
            await download.progress.wait()

    def is_candidate(self, download: SharedDownload, request: ContentRequest) -> bool:
        """Whether the download's first request is sent in this client's name: its answer is the decision."""
        return download.awaits_decision and download.has_subscriber(self._authorization.request_key(request))

    def instead_of_waiting(
        self, download: SharedDownload, request: ContentRequest, *, authorized: bool
    ) -> NextStep | None:
        """
        What to do instead of waiting for a running download, ``None`` if the request can wait for it.

        A request that came through a cache waits only if the download cannot be waiting for that request:
        caches that name each other would wait until their timeouts. If it may be, the request passes through;
        while nobody knows which caches are behind the upstream, the answer to a question will tell.
        """
        # Of another worker's download only that worker knows which host is asked: it checks, too.
        if (
            not isinstance(download, Download)
            or download.verified
            or download.has_subscriber(self._authorization.request_key(request))
            or not request.registry.may_lead_back(request.via, download.stream.host)
        ):
            return None
        return NextStep.PASS_THROUGH if authorized else NextStep.AUTHORIZE

    def check_negative_cache(self, request: ContentRequest) -> None:
        """
        Refuse what had a digest mismatch a moment ago.

        :raises ContentWrong: no upstream delivers this content.
        """
        origin, digest = request.registry.upstream.origin, request.content.digest
        if self._negative_cache.has(origin, digest, _client(request), self._ports.clock.seconds()):
            raise ContentWrong(f"no upstream delivers the content that {digest} names")

    async def check_room(self, key: DownloadKey) -> None:
        """
        Check that a download of this worker may begin.

        :raises DiskFailed: there is no room for it.
        """
        await self._context.reservations.check_room(key)

    def is_own(self, digest: Digest) -> bool:
        """Whether this worker runs the downloads of ``digest``."""
        return self._other_owners(digest) is None

    def start(self, subscriber: Subscriber, *, in_place: bool, total: int | None) -> SharedDownload:
        """
        Start a download for its first subscriber, here or at the owner; ``in_place`` and ``total`` are as in
        :class:`contentcache.delivery.download_context.DownloadOptions`.
        """
        key = DownloadKey.of(subscriber.request)
        owners = self._other_owners(key.digest)
        if owners is None:
            return self._start_own(subscriber, in_place=in_place, total=total)
        download = owners.join(key, self, in_place=in_place, total=total)
        self._begin(download, subscriber)
        return download

    async def subscribe(
        self, subscriber: Subscriber, *, in_place: bool, total: int | None
    ) -> tuple[Download, bool]:
        """
        Let a client of another worker join a download of this one, which begins if there is none, as in
        :meth:`start`. Answers whether there was one, too.

        :raises UndecidedError: the content is stored by now.
        :raises AuthorizationNeeded: the download runs in the names of others, and this client is not authorized.
        :raises LoopPossible: it may be waiting for this very request.
        :raises DiskFailed: there is no room for it.
        """
        request = subscriber.request
        key = DownloadKey.of(request)
        self.check_negative_cache(request)
        await self.wait_joinable(key, in_place=in_place)
        if self.get(key) is None:
            record, file = await shielded(
                self._ports.run(self._indexed_store.look_up, key.digest), close_file
            )
            if file is not None:
                file.close()
            if file is not None or (record is not None) is not in_place:
                raise UndecidedError("it is in the store by now")
            if not in_place:
                await self.check_room(key)
        # What the origin has told this worker of the client counts here, and nowhere else.
        subscriber.authorized = (
            subscriber.authorized or await self._authorization.cached_decision(request) is not None
        )
        download = self.get(key)
        if download is None:
            self.check_negative_cache(request)
            return self._start_own(subscriber, in_place=in_place, total=total), False
        if not isinstance(download, Download) or download.is_ending or download.in_place is not in_place:
            raise UndecidedError("another download has begun or ended meanwhile")
        if not subscriber.authorized and not (
            download.awaits_decision and download.has_subscriber(subscriber.key)
        ):
            raise AuthorizationNeeded("the origin has not been asked")
        instead = self.instead_of_waiting(download, request, authorized=subscriber.authorized)
        if instead is not None:
            error = LoopPossible if instead is NextStep.PASS_THROUGH else AuthorizationNeeded
            raise error("this download may be waiting for this very request")
        download.subscribe(subscriber)
        return download, True

    async def store(self, key: DownloadKey, content: bytes) -> None:
        """Store a small content that has come whole and verified from the origin of ``key``."""
        owners = self._other_owners(key.digest)
        if owners is not None:
            await owners.store(key, content)
            return
        if key.digest in self:
            return
        reservation = self._context.reservations.begin(key)
        try:
            await reservation.grow(len(content))
            await self._ports.run(self._indexed_store.store_content, key.digest, key.origin, content)
        except DiskFailed:
            return
        except OSError as error:
            self._health.report(f"a manifest cannot be stored: {error}")
        finally:
            reservation.release()

    def record_allowed(self, subscriber: Subscriber, media_type: str | None, asked: float) -> None:
        """The origin has allowed what it was asked at ``asked`` in the name of a subscriber."""
        if subscriber.reporter is not None:
            subscriber.reporter.report_allowed(media_type, asked)
        else:
            in_background(self._authorization.record_allowed(subscriber.request, media_type, asked=asked))

    def record_denied(self, subscriber: Subscriber, refusal: OriginRefused, asked: float) -> None:
        """The origin has denied what it was asked at ``asked`` in the name of a subscriber."""
        if subscriber.reporter is not None:
            subscriber.reporter.report_denied(refusal, asked)
        else:
            in_background(self._authorization.record_denied(subscriber.request, refusal, asked=asked))

    def _other_owners(self, digest: Digest) -> Owners | None:
        """The owners, if another worker is the owner of ``digest``."""
        owners = self._other_workers.owners
        return None if owners is None or owners.is_own(digest) else owners

    def _start_own(self, subscriber: Subscriber, *, in_place: bool, total: int | None) -> Download:
        request = subscriber.request
        settings = self._options.now
        largest, retry_for = None, settings.retry_for
        if request.content.kind == "manifests":
            # Its response begins once it is verified: until then an error is better than a long wait.
            largest, retry_for = settings.manifest_limit, min(retry_for, _RETRY_MANIFEST_FOR)
        options = DownloadOptions(in_place, largest, total, settings.fill_after, retry_for)
        permit = None if in_place else Permit(self._semaphore, request.subject.identity)
        download = Download(DownloadKey.of(request), self._context, options, permit)
        self._begin(download, subscriber)
        return download

    def _begin(self, download: SharedDownload, subscriber: Subscriber) -> None:
        with ExitStack() as held:
            held.callback(self._remove, download)
            self._by_digest.setdefault(download.key.digest, {})[download.key.origin] = download
            self._other_workers.on_use(download.key.digest)
            download.subscribe(subscriber)
            held.pop_all()
        in_background(self._run_download(download))

    async def _run_download(self, download: SharedDownload) -> None:
        try:
            await download.run()
        finally:
            try:
                self._learn(download)
            finally:
                self._remove(download)
                download.progress.notify_all(download.prefix)
            if isinstance(download, Download) and download.storage.is_stored:
                for other in tuple(self._by_digest.get(download.key.digest, {}).values()):
                    if isinstance(other, Download) and other.key != download.key:
                        in_background(self._supersede(other))

    def _learn(self, download: SharedDownload) -> None:
        key, now = download.key, self._ports.clock.seconds()
        if isinstance(download.failure, ContentWrong):
            # Of another worker's download only that worker knows in whose names it was.
            for request in download.stream.requests if isinstance(download, Download) else ():
                self._negative_cache.add(key.origin, key.digest, _client(request), now)
        elif download.verified and not download.in_place:
            self._negative_cache.remove(key.origin, key.digest)
            if download.target is not None:
                self._authorization.origin.learn_target(key.origin, download.target)

    async def _supersede(self, download: Download) -> None:
        """Another origin's download has stored the blob: subscribers go on from the store."""
        if await download.supersede():
            self._remove(download)
            download.progress.notify_all(download.prefix)

    def _remove(self, download: SharedDownload) -> None:
        """It is over; nothing happens if another one has its place by now."""
        of_digest = self._by_digest.get(download.key.digest, {})
        if of_digest.get(download.key.origin) is download:
            del of_digest[download.key.origin]
            if not of_digest:
                del self._by_digest[download.key.digest]


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


def _client(request: ContentRequest) -> bytes:
    # The origin itself speaks by signed URLs, of which each is good for one request.
    return b"signed" if request.credential.signed is not None else request.subject.identity
