"""
When a failed attempt is repeated.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

_LONGEST_PAUSE: Final = 6 * 3600.0
_MOST_DOUBLINGS: Final = 20


@frozen
class Pace:
    """
    How soon a failure is followed by another attempt: after ``first`` seconds, and then ever later; never
    after less than ``least``, however near the end of the old certificate is.
    """

    first: float
    least: float


#: Nothing came of it that a server counts.
AFTER_SILENCE: Final = Pace(10.0, 10.0)
#: The server has said no, and counts such failures.
AFTER_NO: Final = Pace(60.0, 60.0)
#: A certificate was made, one of the few in a week that a server gives, and is of no use.
AFTER_WASTE: Final = Pace(3600.0, 10.0)


def pause_after(failures: int, share: float, pace: Pace, *, asked: float | None, left: float | None) -> float:
    """
    Seconds until the next attempt, after so many failures in a row.

    ``share`` from 0 to 1 spreads them. ``asked`` is what the server wants, and is kept to. ``left`` is how
    long the certificate that is shown is good for: the nearer its end, the sooner.

    >>> [pause_after(n, 0.0, AFTER_SILENCE, asked=None, left=None) for n in (1, 2, 3, 99)]
    [10.0, 20.0, 40.0, 21600.0]
    >>> pause_after(1, 0.0, AFTER_NO, asked=3600.0, left=None)
    3600.0
    """
    pause = min(_LONGEST_PAUSE, pace.first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    if left is not None and left > 0:
        pause = min(pause, max(pace.least, left / 8))
    return max(pause * (1 + share / 5), asked or 0.0)
