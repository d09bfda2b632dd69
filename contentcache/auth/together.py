"""
One piece of work for all who need its result at the same time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Together(Generic[T]):
    """
    Work by key. It goes on when those who wait leave: a thread cannot be called back.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[Deferred[T]]] = {}

    async def once(self, key: bytes, work: Callable[[], Awaitable[T]]) -> T:
        """
        The result of the work under way for ``key``, or of ``work``, which is then begun.

        Whatever the work raises is raised to everybody who waits.
        """
        mine: Deferred[T] = Deferred()
        under_way = self._waiting.get(key)
        if under_way is not None:
            under_way.append(mine)
        else:
            self._waiting[key] = [mine]
            Deferred.fromCoroutine(self._do(work)).addBoth(self._tell, key)
        return await mine

    async def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        return await work()

    def _tell(self, result: T | Failure, key: bytes) -> None:
        for waiting in self._waiting.pop(key):
            if not waiting.called:  # or it was cancelled: its client has left
                waiting.callback(result)  # a Failure calls the errbacks
