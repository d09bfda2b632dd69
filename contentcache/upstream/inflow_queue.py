"""A bounded queue between a body from upstream and its reader."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Final

from twisted.python.failure import Failure

from contentcache.aio.condition import Condition
from contentcache.upstream.answers import Answer
from contentcache.upstream.inflow import Inflow

_MOST_QUEUED: Final = 256 << 10


class InflowQueue:
    """Pauses upstream while more than a quarter of a MiB is queued. A context manager, which abandons the body."""

    def __init__(self, answer: Answer) -> None:
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._condition = Condition()
        self._outcome: list[Failure | None] = []
        self._inflow = answer.stream(self._received)
        self._inflow.ended.addBoth(self._ended)

    def __enter__(self) -> InflowQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.abandon()

    async def next(self) -> bytes | None:
        """
        The next piece, ``None`` after the last one.

        :raises UpstreamBroken: the body was cut short.
        :raises UpstreamTimeout: it stalls.
        """
        while not self._queue:
            if self._outcome:
                if isinstance(self._outcome[0], Failure):
                    self._outcome[0].raiseException()
                return None
            await self._condition.wait()
        data = self._queue.popleft()
        self._queued -= len(data)
        if self._queued < _MOST_QUEUED // 2:
            self._inflow.resume()
        return data

    def abandon(self) -> None:
        """Stop receiving; the rest is not read."""
        self._inflow.abandon()

    def _received(self, inflow: Inflow, data: bytes) -> None:
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > _MOST_QUEUED:
            inflow.pause()
        self._condition.notify_all()

    def _ended(self, result: Failure | None) -> None:
        self._outcome.append(result)
        self._condition.notify_all()
