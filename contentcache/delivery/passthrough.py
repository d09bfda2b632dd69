"""
What is sent to one client without a download of this origin: an answer of upstream that is passed through, and
the rest of a body whose download cannot go on.

A whole content is hashed on its way, and its held-back tail waits for the digest, as it does everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from attrs import frozen

from contentcache.aio.condition import sleep
from contentcache.aio.tasks import in_background
from contentcache.core.digest import Digest, Hasher
from contentcache.core.errors import CacheError, ContentWrong
from contentcache.core.live import Live
from contentcache.core.manifests import check_manifest, manifest_digests
from contentcache.core.outage import Outage, repeatable_after
from contentcache.core.ports import Run, Timer
from contentcache.core.ranges import parse_body_start
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.bodies import (
    PIECE,
    Body,
    ClientSink,
    DiskReadError,
    MemoryBody,
    Remainder,
    ShortError,
    hash_prefix,
)
from contentcache.delivery.manifests import read_manifest
from contentcache.delivery.options import DeliveryOptions
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.responses import ContentResponse, Outcome
from contentcache.delivery.shared_download import HELD_BACK, DownloadKey, SharedDownload
from contentcache.delivery.upstream_wait import UpstreamWait
from contentcache.storage.interfaces import BlobFile
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.answers import Answer
from contentcache.upstream.inflow_queue import InflowQueue

_COMPARED_AT_ONCE: Final = 1 << 20


@frozen
class RunningDigest:
    """The digest of a whole content, and the hash of what has been sent of it."""

    digest: Digest
    hasher: Hasher


@frozen
class PassthroughContext:
    """The dependencies of what passes through."""

    run: Run
    clock: Timer
    meter: Meter
    options: Live[DeliveryOptions]


class PassthroughBody:
    """
    A content that comes from upstream for this client alone. ``answer`` is the answer to a request for the
    whole of it; parts are requested on their own.
    """

    is_stored = False

    def __init__(self, request: ContentRequest, answer: Answer, context: PassthroughContext) -> None:
        self._request = request
        self._answer: Answer | None = answer
        self._context = context
        opening = parse_body_start(answer.status, answer.length, answer.header("Content-Range"), 0)
        self._size = opening.total

    @property
    def size(self) -> int | None:
        """Its length in bytes, if upstream has said it."""
        return self._size

    async def send(self, sink: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        """Send a part; see :class:`contentcache.delivery.bodies.Body`."""
        whole = start == 0 and stop in {None, self._size}
        answer, self._answer = self._answer, None
        if not whole:
            if answer is not None:
                answer.abandon()
            await _Transfer(self._request, sink, (start, stop), None, self._context).run()
            return
        if answer is None:
            raise ShortError("the answer has been sent already")
        digest = self._request.content.digest
        check = RunningDigest(digest, digest.hasher())
        await _Transfer(self._request, sink, (0, stop), check, self._context).run(answer)

    def close(self) -> None:
        """Abandon what was not sent."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.abandon()


async def pass_through(
    request: ContentRequest, authorization: Authorization, context: PassthroughContext
) -> ContentResponse:
    """
    A response that is not stored: upstream's answer to this client's own request.

    :raises OriginRefused, UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: there is none.
    :raises ContentWrong: it is small, and has a digest mismatch.
    """
    asked = authorization.request_time()
    answer = await request.registry.ask(request.upstream_request("GET"))
    media_type = answer.header("Content-Type")
    digest = request.content.digest
    if not (answer.moved or answer.is_page):
        in_background(authorization.record_allowed(request, media_type, asked=asked))
    body: Body
    if request.content.kind == "manifests" or answer.length == 0:
        content = await read_manifest(answer, context.options.now.manifest_limit)
        if digest not in manifest_digests(content, media_type, digest.algorithm):
            raise ContentWrong("what upstream delivers is not what the digest says")
        body = MemoryBody(content)
    else:
        body = PassthroughBody(request, answer, context)
    if request.content.kind == "manifests":
        media_type = media_type or check_manifest(content).media_type(get=None)
    return ContentResponse(digest, body, media_type, Outcome.UNCACHED, notices=answer.notices())


async def continue_from_upstream(
    request: ContentRequest,
    download: SharedDownload,
    sink: ClientSink,
    rest: Remainder,
    release: Callable[[], None],
    *,
    context: PassthroughContext,
) -> None:
    """
    Send the rest of a content whose download cannot go on: its file takes no more, or its worker does not
    answer. Of a whole content, what this client has got from the download's file is hashed first; then
    ``release`` closes that.

    :raises CacheError: the rest cannot be had, or the whole has a digest mismatch.
    """
    check = None
    if rest.of_whole:
        check = RunningDigest(download.key.digest, download.key.digest.hasher())
        await hash_prefix(download.file, rest.start, check.hasher, context.run)
    release()
    await _Transfer(request, sink, (rest.start, rest.stop), check, context).run()


async def continue_from_stored(
    download: SharedDownload,
    stored: BlobFile | None,
    sink: ClientSink,
    rest: Remainder,
    release: Callable[[], None],
    *,
    authorize: Callable[[], Awaitable[ContentResponse]],
    run: Run,
) -> None:
    """
    Send the rest of a blob that another origin's download has stored, once ``authorize`` has answered with the
    body that this client may have; ``release`` closes the download's file before.

    What the client got came from the download's own partial file, and was not verified: it must be the same
    as in the ``stored`` blob, else the two together would complete a blob with a digest mismatch.

    :raises CacheError: the client is refused now, or has got something else.
    """
    if stored is None:
        raise ShortError("the stored blob was deleted again")
    try:
        if download.size not in {None, stored.size}:
            raise ShortError("the stored blob has another size")
        try:
            with await authorize() as response:
                if not await run(_is_same, download, stored, rest.first, rest.start):
                    raise ShortError("what was downloaded is not what is stored")
                release()
                await response.body.send(sink, rest.start, rest.stop, small_part=rest.small_part)
        except OSError as error:
            raise DiskReadError(f"the store cannot be read: {error}") from error
    finally:
        stored.close()


def _is_same(download: SharedDownload, stored: BlobFile, start: int, stop: int) -> bool:
    """In a thread: whether both files have the same bytes from ``start`` up to ``stop``."""
    while start < stop:
        length = min(_COMPARED_AT_ONCE, stop - start)
        data = stored.read(start, length)
        if len(data) != length or data != download.file.read(start, length):
            return False
        start += length
    return True


class _Transfer:
    """
    The bytes from ``part[0]`` up to ``part[1]`` (``None``: the end) on their way from upstream to one client.
    Where upstream breaks off, they are requested from there on; where it sends the whole content, its part of that
    is sent. The held-back tail of a whole content is sent once ``check`` matches.
    """

    def __init__(
        self,
        request: ContentRequest,
        sink: ClientSink,
        part: tuple[int, int | None],
        check: RunningDigest | None,
        context: PassthroughContext,
    ) -> None:
        self._request = request
        self._sink = sink
        self._position, self._stop = part
        self._check = check
        self._context = context
        self._outage = Outage()
        self._retry_for = context.options.now.retry_for
        self._wait = UpstreamWait(DownloadKey.of(request), context.clock, self._retry_for)
        self._tail = b""
        self._total: int | None = None

    async def run(self, answer: Answer | None = None) -> None:
        """
        Send them; ``answer`` is the first one, if there is one already.

        :raises ShortError: they cannot all be had, or the whole has a digest mismatch.
        """
        is_complete = False
        while not is_complete:
            try:
                await self._receive(answer or await self._ask())
                is_complete = True
            except CacheError as error:
                answer = None
                is_complete = self._position in {self._stop, self._total}
                if not is_complete:
                    await self._wait_for_upstream(error)
        if self._check is not None and not self._check.digest.is_of(self._check.hasher):
            raise ShortError("what upstream sent has a digest mismatch")
        await _write(self._sink, self._tail)

    async def _ask(self) -> Answer:
        start, stop = self._position, self._stop
        wanted = f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"
        request = self._request.upstream_request("GET", range_=wanted if start or stop else None)
        return await self._request.registry.ask(request)

    async def _receive(self, answer: Answer) -> None:
        """Send one body. Raises :class:`CacheError` where another request may have the rest."""
        start, stop = self._position, self._stop
        try:
            opening = parse_body_start(answer.status, answer.length, answer.header("Content-Range"), start)
            self._check_total(opening.total)
        except BaseException:
            answer.abandon()
            raise
        self._wait.end([self._request.content.repository], start)
        skipped = start - opening.start
        with InflowQueue(answer) as queue:
            while (data := await queue.next()) is not None:
                passed_over = min(skipped, len(data))
                skipped -= passed_over
                data = data[passed_over:]
                if stop is not None:
                    data = data[: stop - self._position]
                if data:
                    await self._send(data)
                if self._check is None and self._position == stop:
                    break
        if stop is not None and self._position < stop:
            raise ShortError("upstream sent less than it said")

    def _check_total(self, total: int | None) -> None:
        if total is not None:
            if self._total not in {None, total}:
                raise ShortError("upstream says another size than before")
            self._total = total

    async def _send(self, data: bytes) -> None:
        self._position += len(data)
        self._outage.ended()
        if self._check is not None:
            self._check.hasher.update(data)
            data = self._tail + data
            data, self._tail = data[:-HELD_BACK], data[-HELD_BACK:]
        await _write(self._sink, data)

    async def _wait_for_upstream(self, error: CacheError) -> None:
        context, retry_after, pause = self._context, repeatable_after(error), None
        if retry_after is not None:
            pause = self._outage.next_pause(context.clock.seconds(), self._retry_for, retry_after)
        if pause is None:
            raise ShortError(error.message) from error
        self._wait.begin([self._request.content.repository], self._position, error.message)
        await sleep(context.clock, pause)


async def _write(sink: ClientSink, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        await sink.ready()
        sink.write(data[start : start + PIECE])
