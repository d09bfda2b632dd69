"""
What cannot be kept is passed through: one client, one answer of upstream, back-pressure between the two.

A whole content is hashed on its way and its last bytes wait for the digest, as they do everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from attrs import frozen

from contentcache.core.digest import Digest, Hasher
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout
from contentcache.core.ranges import read_opening
from contentcache.delivery.bodies import PIECE, ClientSink, Remainder, ShortError
from contentcache.delivery.shared_download import HELD_BACK
from contentcache.delivery.subscribers import ContentRequest
from contentcache.meter import Meter
from contentcache.upstream.answers import Answer
from contentcache.upstream.inflow_queue import InflowQueue


@frozen
class RunningDigest:
    """The digest of a whole content, and the hash of what has been sent of it."""

    digest: Digest
    hasher: Hasher


class PassthroughBody:
    """
    A content that comes from upstream for this client alone. ``answer`` is the answer to a request for the
    whole of it; parts are asked for on their own.
    """

    def __init__(self, request: ContentRequest, answer: Answer, meter: Meter) -> None:
        self._asking = request
        self._answer: Answer | None = answer
        self._meter = meter
        opening = read_opening(answer.status, answer.length, answer.header("Content-Range"), 0)
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
            await _pipe_part(self._asking, sink, (start, stop), None, self._meter)
            return
        if answer is None:
            raise ShortError("the answer has been sent already")
        digest = self._asking.content.digest
        await _pipe(
            answer, sink, RunningDigest(digest, digest.hasher()), stop, _received(self._asking, self._meter)
        )

    def close(self) -> None:
        """Let go of what was not sent."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.abandon()


async def carry_on(
    request: ContentRequest, sink: ClientSink, rest: Remainder, check: RunningDigest | None, meter: Meter
) -> None:
    """
    Send the rest of a content whose file takes no more.

    ``check`` has seen what this client got before.

    :raises ShortError: it cannot be had, or is not to be trusted.
    """
    await _pipe_part(request, sink, (rest.start, rest.stop), check, meter)


async def _pipe_part(
    request: ContentRequest,
    sink: ClientSink,
    part: tuple[int, int | None],
    check: RunningDigest | None,
    meter: Meter,
) -> None:
    """Ask for a part and move it to a client; where upstream sends the whole content, its part of that."""
    start, stop = part
    wanted = f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"
    try:
        answer = await request.registry.ask(
            request.upstream_request("GET", range_=wanted if start or stop else None)
        )
    except CacheError as error:
        raise ShortError(error.message) from error
    try:
        opening = read_opening(answer.status, answer.length, answer.header("Content-Range"), start)
    except UpstreamBroken as error:
        answer.abandon()
        raise ShortError(error.message) from error
    length = None if stop is None else stop - start
    await _pipe(answer, sink, check, length, _received(request, meter), passed_over=start - opening.start)


def _received(request: ContentRequest, meter: Meter) -> Callable[[int], None]:
    return partial(meter.received, request.registry.upstream.origin, request.content.kind)


async def _pipe(
    answer: Answer,
    sink: ClientSink,
    check: RunningDigest | None,
    length: int | None,
    received: Callable[[int], None],
    *,
    passed_over: int = 0,
) -> None:
    """
    Move one body to a client, from its byte ``passed_over`` on: at most ``length`` bytes, the last of them
    when ``check`` is content.
    """
    held = b""
    moved = 0
    try:
        with InflowQueue(answer, received) as queue:
            while (data := await queue.next()) is not None:
                if passed_over:
                    skipped = min(passed_over, len(data))
                    passed_over -= skipped
                    data = data[skipped:]
                if length is not None:
                    data = data[: length - moved]
                moved += len(data)
                if check is not None:
                    check.hasher.update(data)
                    data = held + data
                    data, held = data[:-HELD_BACK], data[-HELD_BACK:]
                await _write(sink, data)
                if check is None and moved == length:
                    break
    except (UpstreamBroken, UpstreamTimeout) as error:
        raise ShortError(error.message) from error
    if length is not None and moved < length:
        raise ShortError("upstream sent less than it said")
    if check is not None and not check.digest.is_of(check.hasher):
        raise ShortError("what upstream sent is not what the digest says")
    await _write(sink, held)


async def _write(sink: ClientSink, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        await sink.ready()
        sink.write(data[start : start + PIECE])
