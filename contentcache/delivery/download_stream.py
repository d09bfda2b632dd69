"""
The stream of a download: the bytes that are missing from its contiguous prefix on, one request after the other,
and what upstream's answers say of the content.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Final

from contentcache.core.errors import (
    CacheError,
    LoopDetected,
    ManifestTooLarge,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.manifests import SCHEMA_1_TYPES, essence
from contentcache.core.outage import repeatable_after
from contentcache.core.ranges import OK, RANGE_NOT_SATISFIABLE, parse_body_start, parse_unsatisfied_size
from contentcache.delivery.body_writer import BodyTooLong
from contentcache.delivery.manifests import too_large
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.shared_download import SignedManifest
from contentcache.delivery.subscribers import Subscriber
from contentcache.delivery.upstream_wait import UpstreamWait
from contentcache.telemetry.request_ids import TRACE
from contentcache.upstream.answers import Answer

if TYPE_CHECKING:
    from contentcache.delivery.download import Download

#: A download that is past its first part is finished even if no subscriber is left.
FIRST_PART: Final = 64 << 10
#: Fewer bytes that are there already are skipped in a running answer; for more another request is sent.
_WORTH_ANOTHER_REQUEST: Final = 1 << 20


class DownloadStream:
    """
    Requests what is missing, in the name of a subscriber: the first answer decides whether that client, and
    who shares its question, may have the content.

    ``requests`` are those that a body came in answer to, ``error`` is why the last one failed, ``looped`` are
    the ``Via`` headers that led upstream in a circle, ``media_type`` is what the last answer said.
    """

    def __init__(self, download: Download) -> None:
        self._download = download
        #: The host that is asked now or sends the body.
        self.host: str | None = None
        self.requests: set[ContentRequest] = set()
        self.media_type: str | None = None
        self.error: CacheError = UpstreamUnavailable("no upstream was asked")
        self.looped: set[str] = set()
        self.is_authorized = False
        self.wait = UpstreamWait(download.key, download.context.clock, download.options.retry_for)
        #: Bytes of an earlier download are here, and what came then could be anything: all wait for the digest.
        self.is_doubtful = False
        self.has_page = False
        #: The hosts that the origin redirected to, ``None`` where it sent the bytes itself.
        self._targets: set[str | None] = set()
        #: Answers that count once the content is verified.
        self._unverified_decisions: list[tuple[Subscriber, str | None, float]] = []

    @property
    def target(self) -> str | None:
        """The host that the origin has redirected to, if all bytes are from there."""
        return next(iter(self._targets)) if len(self._targets) == 1 else None

    @property
    def repositories(self) -> Set[str]:
        """The repositories that it was downloaded from."""
        return {request.content.repository for request in self.requests}

    def record_verified(self) -> None:
        """The content is verified: record what answers of other hosts allowed."""
        decisions, self._unverified_decisions = self._unverified_decisions, []
        for decision in decisions:
            self._download.context.record_allowed(*decision)

    async def request_range(self, subscriber: Subscriber, host: str, offset: int) -> None:
        """
        Ask ``host`` in the name of ``subscriber`` for what is missing from ``offset`` on, and write its body.

        :raises ManifestTooLarge, SignedManifest, DiskFailed: the download cannot go on.
        """
        self.host = host
        self._download.trace(subscriber.request_id)
        try:
            await self._request_range(subscriber, host, offset)
        finally:
            self.host = None

    async def _request_range(self, subscriber: Subscriber, host: str, offset: int) -> None:
        download, request = self._download, subscriber.request
        stop = download.gap_end(offset)
        asked = download.context.request_time()
        range_ = f"bytes={offset}-{'' if stop is None else stop - 1}" if offset or stop else None
        try:
            answer = await self._ask(request, host, range_)
        except CacheError as error:
            if not await self._was_complete(host, offset):
                self._fail(subscriber, host, error, asked)
            return
        if download.is_superseded or not download.is_wanted:
            answer.abandon()
            return
        if answer.status == RANGE_NOT_SATISFIABLE:
            answer.abandon()
            if not await self._was_complete(host, offset):
                download.planner.has_no_more(host, parse_unsatisfied_size(answer.header("Content-Range")))
            return
        try:
            is_origins_word = self._check(answer, request.registry.upstream.origin)
            start = self._open(host, answer, offset)
        except ManifestTooLarge:
            answer.abandon()
            raise
        except UpstreamBroken as error:
            # Of two hosts that disagree about the size nobody knows yet which is wrong: neither is ejected.
            self.error = error
            download.planner.broke(host)
            answer.abandon()
            return
        self._allow(subscriber, answer, asked, is_origins_word=is_origins_word)
        await self._receive(subscriber, host, answer, start, (offset, stop))

    async def _ask(self, request: ContentRequest, host: str, range_: str | None) -> Answer:
        download = self._download
        try:
            return await request.registry.ask_host(host, request.upstream_request("GET", range_=range_))
        finally:
            trace = TRACE.get()
            if trace is not None and trace.answered_by != "-" and not download.is_open:
                download.provenance.served_by = trace.answered_by

    def _fail(self, subscriber: Subscriber, host: str, error: CacheError, asked: float) -> None:
        download = self._download
        retry_after = repeatable_after(error)
        if isinstance(error, OriginRefused):
            download.context.record_denied(subscriber, error, asked)
            if retry_after is None or not download.is_open:
                download.subscribers.deny(subscriber.key, error)
                return
            if download.subscribers.limit(subscriber.key):
                return
        self.error = error
        if isinstance(error, LoopDetected):
            # That is about the way of this client's request, and no fault of the host.
            self.looped.add(subscriber.request.via)
        download.planner.broke(
            host, repeatable=isinstance(error, UpstreamBroken), retry_after=retry_after or 0.0
        )

    async def _was_complete(self, host: str, offset: int) -> bool:
        """
        Whether an earlier run has left every byte, and no time to say so: ``host`` was asked for what follows
        on the last one, and its answer says nothing of the content. Whether a client may have it then takes a
        question of its own.

        :raises DiskFailed: they cannot be read.
        """
        download, planner = self._download, self._download.planner
        if not offset or planner.total is not None or planner.held.end() != offset or download.segments.busy:
            return False
        if not await download.download_file.matches_digest(offset):
            return False
        planner.has_no_more(host, offset)
        return True

    def _check(self, answer: Answer, origin: str) -> bool:
        """
        Whether an answer is the registry's own word. A redirect to a host that has delivered nothing yet, or
        a page for people, is not: what it brings is sent to whoever asked, and makes a grant and a link once
        it is verified. Where it could be anything, and bytes of an earlier download are here already, no byte
        is sent before all are verified.

        :raises SignedManifest: its digest is not that of its bytes.
        """
        download = self._download
        if download.options.is_manifest and essence(answer.header("Content-Type")) in SCHEMA_1_TYPES:
            answer.abandon()
            raise SignedManifest(f"{download.key.digest} is a signed manifest")
        self._targets.add(answer.target)
        self.has_page = self.has_page or answer.is_page
        if not (answer.moved or answer.is_page):
            return True
        if download.context.is_known_target(origin, answer.target):
            return True
        if download.planner.held.total() and answer.status == OK and download.planner.total is None:
            self.is_doubtful = True
        return False

    def _open(self, host: str, answer: Answer, offset: int) -> int:
        """The byte that the body of ``answer`` starts with."""
        opening = parse_body_start(answer.status, answer.length, answer.header("Content-Range"), offset)
        if not self._download.planner.opened(host, opening.total):
            raise UpstreamBroken(f"{host} says another size than others did")
        largest = self._download.options.largest
        if largest is not None and (opening.total or 0) > largest:
            raise too_large(opening.total, largest)
        return opening.start

    def _allow(self, subscriber: Subscriber, answer: Answer, asked: float, *, is_origins_word: bool) -> None:
        download, media_type = self._download, answer.header("Content-Type")
        # The type of a manifest is learned with its body, once that is checked.
        learned = None if download.options.is_manifest else media_type
        if is_origins_word:
            download.context.record_allowed(subscriber, learned, asked)
        else:
            self._unverified_decisions.append((subscriber, learned, asked))
        subscriber.notices = answer.notices()
        self.requests.add(subscriber.request)
        download.provenance.served_by = answer.host
        self.is_authorized = True
        download.subscribers.allow(subscriber.key, asked if is_origins_word else None)
        self.media_type = media_type
        if not download.options.is_manifest:
            download.media_type = media_type

    async def _receive(
        self, subscriber: Subscriber, host: str, answer: Answer, start: int, gap: tuple[int, int | None]
    ) -> None:
        download, planner = self._download, self._download.planner
        offset, stop = gap
        total = planner.total
        await download.reserve(answer)
        self.wait.end(self.repositories, planner.prefix)
        download.open_responses()

        def arrived(begin: int, end: int) -> bool:
            download.arrived(host, begin, end)
            if download.disk_error is not None:
                raise download.disk_error
            # What a segment has got, or is about to get, is not downloaded twice.
            ahead = planner.held.reach(end) - end
            return download.is_superseded or ahead > _WORTH_ANOTHER_REQUEST or download.segments.covers(end)

        async def reserve(until: int) -> int | None:
            return await download.storage.reserve_until(planner.total, until)

        largest = download.options.largest
        try:
            # What a 200 sends beyond the gap is there already.
            limit = total if total is not None else largest
            if await download.download_file.receive(answer, start, offset, limit, arrived, reserve):
                planner.ended(host, stop)
        except BodyTooLong as error:
            if total is None and largest is not None:
                raise too_large(None, largest) from error
            planner.too_long(host)
            self.error = error
        except (UpstreamBroken, UpstreamTimeout) as error:
            if download.is_wanted or planner.prefix >= FIRST_PART:
                self.error = error
                subscriber.request.host_failed(host, error.message)
                planner.broke(host)
