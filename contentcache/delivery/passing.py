"""
What cannot be kept is passed through: one client, one answer of upstream, back-pressure between the two.

A whole content is hashed on its way and its last bytes wait for the digest, as they do everywhere else.
"""

from __future__ import annotations

from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout
from contentcache.core.opening import read_opening
from contentcache.delivery.bodies import PIECE, Flow, ShortError
from contentcache.delivery.fetch import HELD_BACK
from contentcache.delivery.inflow_queue import InflowQueue
from contentcache.delivery.wants import Asking
from contentcache.meter import Meter
from contentcache.upstream.answers import Answer


class PassedBody:
    """
    A content that comes from upstream for this client alone. ``answer`` is the answer to a request for the
    whole of it; parts are asked for on their own.
    """

    def __init__(self, asking: Asking, answer: Answer, meter: Meter) -> None:
        self._asking = asking
        self._answer: Answer | None = answer
        self._meter = meter
        opening = read_opening(answer.status, answer.length, answer.header("Content-Range"), 0)
        self._size = opening.total

    @property
    def size(self) -> int | None:
        """Its length in bytes, if upstream has said it."""
        return self._size

    async def send(self, flow: Flow, start: int, stop: int | None) -> None:
        """Send a part; see :class:`contentcache.delivery.bodies.Body`."""
        whole = start == 0 and stop in {None, self._size}
        answer, self._answer = self._answer, None
        if not whole:
            if answer is not None:
                answer.abandon()
            answer = await self._ask_part(start, stop)
        if answer is None:
            raise ShortError("the answer has been sent already")
        queue = InflowQueue(answer, self._meter.fetched)
        digest = self._asking.content.digest if whole else None
        await _pipe(queue, flow, digest, None if stop is None else stop - start)

    def close(self) -> None:
        """Let go of what was not sent."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.abandon()

    async def _ask_part(self, start: int, stop: int | None) -> Answer:
        wanted = f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"
        try:
            answer = await self._asking.registry.ask(self._asking.request("GET", range_=wanted))
            opening = read_opening(answer.status, answer.length, answer.header("Content-Range"), start)
        except CacheError as error:
            raise ShortError(error.message) from error
        if opening.start != start:
            answer.abandon()
            raise ShortError("upstream does not answer ranges")
        return answer


async def _pipe(queue: InflowQueue, flow: Flow, digest: Digest | None, length: int | None) -> None:
    """
    Move one body to a client: at most ``length`` bytes, all of them verified if there is a ``digest``.
    """
    hasher = digest.hasher() if digest is not None else None
    held = b""
    moved = 0
    try:
        while (data := await queue.next()) is not None:
            if length is not None:
                data = data[: length - moved]
            moved += len(data)
            if hasher is not None:
                hasher.update(data)
                data = held + data
                data, held = data[:-HELD_BACK], data[-HELD_BACK:]
            await _write(flow, data)
    except (UpstreamBroken, UpstreamTimeout) as error:
        raise ShortError(error.message) from error
    finally:
        queue.abandon()
    if length is not None and moved < length:
        raise ShortError("upstream sent less than it said")
    if digest is not None and hasher is not None and not digest.is_of(hasher):
        raise ShortError("what upstream sent is not what the digest says")
    await _write(flow, held)


async def _write(flow: Flow, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        await flow.ready()
        flow.write(data[start : start + PIECE])
