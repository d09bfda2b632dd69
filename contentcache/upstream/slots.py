"""
At most so many bodies of blobs from a host at once.

Many connections to one registry or cache make each of them slower, and some registries punish them. Who
finds no slot waits, first come, first served, and does not fail for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred


class Slots:
    """
    ``most`` slots for each host, ``None`` for as many as are asked for.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._queues: dict[str, _Queue] = {}

    async def take(self, host: str) -> Callable[[], None]:
        """
        Wait for a slot; what is returned gives it back, and may be called twice.
        """
        if self._most is None:
            return lambda: None
        queue = self._queues.setdefault(host, _Queue(self._most))
        await queue.take()
        held = True

        def give_back() -> None:
            nonlocal held
            if held:
                held = False
                queue.give_back()

        return give_back


class _Queue:
    """
    The slots of one host, and who waits for them.
    """

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: deque[Deferred[None]] = deque()
        self._serving = False

    async def take(self) -> None:
        if self._free > 0 and not self._waiting:
            self._free -= 1
            return
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        await waiting

    def give_back(self) -> None:
        self._free += 1
        if self._serving:
            return  # whoever was served has done already: the loop below goes on, and not deeper
        self._serving = True
        while self._free > 0 and self._waiting:
            self._free -= 1
            self._waiting.popleft().callback(None)
        self._serving = False
