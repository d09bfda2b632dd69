"""
So many fetches at once and no more, and a fair turn for everybody who waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from twisted.internet.defer import Deferred

from contentcache.core.errors import Overloaded
from contentcache.core.ports import Timer

_RETRY_AFTER: Final = "5"


class Turns:
    """
    ``most`` places. Who finds none waits up to ``patience`` seconds; a place that becomes free goes round
    between those who wait (by key), so that one who asks for a thousand delays the others by one each.
    """

    def __init__(self, most: int, patience: float, clock: Timer) -> None:
        self._free = most
        self._patience = patience
        self._clock = clock
        self._waiting: OrderedDict[bytes, deque[Deferred[None]]] = OrderedDict()

    async def take(self, key: bytes) -> None:
        """
        Have a place; :meth:`give_back` is owed for it.

        :raises Overloaded: none became free in time.
        """
        if self._free > 0:
            self._free -= 1
            return
        waiting: Deferred[None] = Deferred(lambda _deferred: self._leave(key, waiting))
        self._waiting.setdefault(key, deque()).append(waiting)
        timer = self._clock.callLater(self._patience, self._tired, key, waiting)
        try:
            await waiting
        finally:
            if timer.active():
                timer.cancel()

    def give_back(self) -> None:
        """
        The place is free again.
        """
        if not self._waiting:
            self._free += 1
            return
        key, queue = self._waiting.popitem(last=False)
        first = queue.popleft()
        if queue:
            self._waiting[key] = queue  # at the end: the others come first
        first.callback(None)

    def _tired(self, key: bytes, waiting: Deferred[None]) -> None:
        self._leave(key, waiting)
        waiting.errback(
            Overloaded("too many fetches at once; try again soon", headers={"Retry-After": _RETRY_AFTER})
        )

    def _leave(self, key: bytes, waiting: Deferred[None]) -> None:
        queue = self._waiting[key]
        queue.remove(waiting)
        if not queue:
            del self._waiting[key]
