"""One upstream body on its way into the file of a download."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from twisted.python.failure import Failure

from contentcache.aio.condition import Condition
from contentcache.core.errors import UpstreamBroken
from contentcache.upstream.answers import Answer
from contentcache.upstream.inflow import Inflow

#: Bytes that wait to be written, beyond which upstream is paused, and below which it is resumed.
MOST_QUEUED: Final = 4 << 20
_FEW_QUEUED: Final = 1 << 20

#: Called with the bytes that are in the file by now, ``start`` and ``stop``; true if no more are wanted.
Arrived: TypeAlias = Callable[[int, int], bool | None]
#: Reserves room for the bytes before ``stop`` at least, and says before which byte all have room (``None``: all).
Reserve: TypeAlias = Callable[[int], Awaitable[int | None]]


class BodyTooLong(UpstreamBroken):
    """Upstream sends more than the content has."""


class BodyWriter:
    """
    Queues the pieces of a body that begins at byte ``start`` and hands those from byte ``wanted`` on to a
    thread. ``written`` is the byte before which all of them are in the file.

    A thread calls :meth:`next` and moves ``written``; the network thread does everything else. Neither waits
    for the other: the thread goes on while more comes in, and how far it is is looked at with the next piece.
    The queue is bounded, so that a slow disk slows upstream down and fills no memory.
    """

    def __init__(
        self, start: int, wanted: int, limit: int | None, arrived: Arrived, reserve: Reserve | None
    ) -> None:
        self.written = wanted
        self._reserve = reserve
        self._reserved: int | None = None
        self._position = start
        self._wanted = wanted
        self._limit = limit
        self._arrived = arrived
        self._queue: deque[bytes] = deque()
        self._queued_until = wanted
        self._announced = wanted
        self._is_paused = False
        self._condition = Condition()
        self._end: list[Failure | None] = []
        self._error: Exception | None = None
        self._is_enough = False
        self._inflow: Inflow | None = None
        self._abandoned = False

    def next(self) -> bytes | None:
        """
        In a thread: the next bytes to write. ``None`` if there are none, if upstream can be resumed, or if
        room must be reserved first.
        """
        if self._is_paused and self._queued_until - self.written < _FEW_QUEUED:
            return None
        try:
            if self._reserved is not None and self.written + len(self._queue[0]) > self._reserved:
                return None
            return self._queue.popleft()
        except IndexError:
            return None

    async def run(self, answer: Answer, write: Callable[[BodyWriter], Awaitable[None]]) -> bool:
        """Write the body of ``answer``; ``False`` if it was ended because no more is wanted."""
        inflow = self._inflow = answer.stream(self._received)
        inflow.ended.addBoth(self._ended)
        if self._abandoned:
            inflow.abandon()
        try:
            await self._drain(inflow, write)
        finally:
            self._queue.clear()
            inflow.abandon()
        if self._is_enough:
            return False
        if self._limit is not None and self._position > self._limit:
            raise BodyTooLong(f"upstream sends more than the {self._limit} bytes that were to come")
        if isinstance(self._end[0], Failure):
            self._end[0].raiseException()
        return True

    def abandon(self) -> None:
        """Receive no more of this body."""
        self._abandoned = True
        if self._inflow is not None:
            self._inflow.abandon()

    def _received(self, inflow: Inflow, data: bytes) -> None:
        self._position += len(data)
        if self._limit is not None and self._position > self._limit:
            inflow.abandon()
            return
        fresh = self._position - max(self._wanted, self._position - len(data))
        if fresh <= 0:
            return
        self._queue.append(data[len(data) - fresh :])
        self._queued_until += fresh
        if self._queued_until - self.written > MOST_QUEUED:
            self._is_paused = True
            inflow.pause()
        self._condition.notify_all()
        try:
            self._announce()
        except Exception as error:  # noqa: BLE001  # run() raises it
            self._error = error
        if self._is_over:
            self._queue.clear()
            inflow.abandon()

    def _ended(self, result: Failure | None) -> None:
        self._end.append(result)
        self._condition.notify_all()

    @property
    def _is_over(self) -> bool:
        return self._is_enough or self._error is not None

    def _announce(self) -> None:
        start, stop = self._announced, self.written
        if start < stop:
            self._announced = stop
            self._is_enough = bool(self._arrived(start, stop)) or self._is_enough

    async def _drain(self, inflow: Inflow, write: Callable[[BodyWriter], Awaitable[None]]) -> None:
        while not self._is_over:
            if self._queue:
                if self._reserve is not None:
                    self._reserved = await self._reserve(self.written + len(self._queue[0]))
                await write(self)
                self._announce()
                if self._is_paused and not self._is_over and self._queued_until - self.written < _FEW_QUEUED:
                    self._is_paused = False
                    inflow.resume()
            elif self._end:
                return
            else:
                await self._condition.wait()
        if self._error is not None:
            raise self._error
