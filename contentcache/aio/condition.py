"""Wake-ups."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from contentcache.core.ports import Timer


class Condition:
    """Something that changes, and those who wait for it to change."""

    def __init__(self) -> None:
        self._waiters: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """Fires at the next :meth:`notify_all`. May be cancelled."""
        waiter: Deferred[None] = Deferred(self.remove)
        self._waiters.append(waiter)
        return waiter

    def notify_all(self) -> None:
        """Wake all who wait now; who waits again is not woken twice."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)

    def remove(self, waiter: Deferred[None]) -> None:
        """Remove a waiter, which is not woken any more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)


def sleep(timer: Timer, seconds: float) -> Deferred[None]:
    """Wait without blocking. May be cancelled."""
    waiter: Deferred[None] = Deferred(lambda _cancelled: call.cancel())
    call = timer.callLater(seconds, waiter.callback, None)
    return waiter


async def wait_at_most(timer: Timer, seconds: float, condition: Condition) -> bool:
    """
    Wait for the next :meth:`Condition.notify_all`, but no longer than ``seconds``; whether it came.

    May be cancelled. Neither a waiter nor a delayed call is left behind.
    """

    def expire() -> None:
        condition.remove(waiter)
        waiter.callback(None)

    waiter = condition.wait()
    call = timer.callLater(seconds, expire)
    try:
        await waiter
    finally:
        notified = call.active()
        if notified:
            call.cancel()
    return notified
