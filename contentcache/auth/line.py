"""
Turns at something slow, fair between those who come from different places.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from twisted.internet.defer import Deferred

from contentcache.core.errors import Overloaded

_RETRY_AFTER = {"Retry-After": "2"}


class Line:
    """
    ``at_once`` may work; ``longest`` wait in all, ``of_one`` of them from one address. Addresses take turns.
    """

    def __init__(self, at_once: int, longest: int, of_one: int) -> None:
        self._free = at_once
        self._longest = longest
        self._of_one = of_one
        self._waiting: OrderedDict[str, deque[Deferred[None]]] = OrderedDict()

    async def take(self, address: str) -> None:
        """
        Wait for a turn, which :meth:`give_back` ends.

        :raises Overloaded: too many wait, or too many of this address do. While the line is full, an address
            that has nobody in it takes the last place of the one that has most.
        """
        if self._free > 0:
            self._free -= 1
            return
        own = self._waiting.get(address)
        if own is not None and len(own) >= self._of_one:
            raise _too_many()
        if sum(map(len, self._waiting.values())) >= self._longest:
            most = max(self._waiting.values(), key=len)
            if own is not None or len(most) <= 1:
                raise _too_many()
            last = most.pop()
            if not last.called:  # or its client has left
                last.errback(_too_many())
        mine: Deferred[None] = Deferred()
        self._waiting.setdefault(address, deque()).append(mine)
        await mine

    def give_back(self) -> None:
        """
        The turn is over: the next address has one.
        """
        while self._waiting:
            address, line = self._waiting.popitem(last=False)
            while line and line[0].called:  # who waited has left
                line.popleft()
            if not line:
                continue
            following = line.popleft()
            if line:
                self._waiting[address] = line  # at the end of the round
            following.callback(None)
            return
        self._free += 1


def _too_many() -> Overloaded:
    return Overloaded("too many passwords are being checked; try again soon", headers=_RETRY_AFTER)
