"""
A sleep that can be ended.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from contentcache.core.ports import Timer


class Alarm:
    """
    Wakes the one who sleeps by it.
    """

    def __init__(self, timer: Timer) -> None:
        self._timer = timer
        self._sleeping: Deferred[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """
        BackoffRecord, or until somebody rings.
        """
        self._sleeping = Deferred()
        call = self._timer.callLater(seconds, self.ring)
        try:
            await self._sleeping
        finally:
            self._sleeping = None
            if call.active():
                call.cancel()

    def ring(self) -> None:
        """
        End the sleep, if there is one.
        """
        sleeping, self._sleeping = self._sleeping, None
        if sleeping is not None:
            sleeping.callback(None)
