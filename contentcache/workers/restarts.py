"""When a worker that has died is started again."""

from __future__ import annotations

from typing import Final

#: Who has lived for so many seconds has not died of its start.
GROWN_UP: Final = 10.0
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 30.0


class Restarts:
    """
    The pauses of one worker: none after the first death, then a quarter of a second, doubling to 30 s, for
    those that die one after the other as soon as they have started.

    >>> restarts = Restarts()
    >>> [restarts.pause_after(lived) for lived in (3600, 0.1, 0.1, 0.1, 3600)]
    [0.0, 0.25, 0.5, 1.0, 0.0]
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    def pause_after(self, lived: float) -> float:
        """How many seconds to wait now that it has died, having ``lived`` for so many."""
        self._in_a_row = 1 if lived >= GROWN_UP else self._in_a_row + 1
        if self._in_a_row == 1:
            return 0.0
        return min(_FIRST_PAUSE * 2.0 ** min(self._in_a_row - 2, 10), _LONGEST_PAUSE)
