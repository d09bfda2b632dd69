"""How far readers have been told that they may go."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred

from contentcache.aio.condition import Condition
from contentcache.core.ports import DelayedCall, Timer

#: Readers hear of so many new bytes at once, of fewer after so many seconds.
_MUCH: Final = 1 << 20
_SOON: Final = 0.01


class Progress:
    """
    Wakes the readers of a growing content, but not for every few bytes: each of them costs a turn.

    ``told`` is how many bytes from the start they know of.
    """

    def __init__(self, clock: Timer) -> None:
        self.announced = 0
        self._clock = clock
        self._condition = Condition()
        self._prefix = 0
        self._later: DelayedCall | None = None

    def wait(self) -> Deferred[None]:
        """Fires with the next news."""
        return self._condition.wait()

    def notify_soon(self, prefix: int) -> None:
        """``prefix`` bytes are there."""
        self._prefix = prefix
        if self.announced == 0 or prefix - self.announced >= _MUCH:
            self.notify_all(prefix)
        elif self._later is None:
            self._later = self._clock.callLater(_SOON, self._notify_all)

    def notify_all(self, prefix: int) -> None:
        """``prefix`` bytes are there, or something else has changed: wake them now."""
        self._prefix = prefix
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._notify_all()

    def _notify_all(self) -> None:
        self._later = None
        self.announced = self._prefix
        self._condition.notify_all()
