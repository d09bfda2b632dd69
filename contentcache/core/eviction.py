"""What is evicted when room is needed, decided from numbers alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import frozen

from contentcache.core.digest import Digest

#: Seconds by which wall and monotonic time may drift apart between two sweeps: time servers slew the clock.
CLOCK_TOLERANCE: Final = 300.0

#: Seconds, at most, from the start to the first sweep: clients have to pull again what is in use.
LONGEST_FIRST_WAIT: Final = 600.0


@frozen
class Retention:
    """
    What the operator wants retained. Times are seconds, sizes bytes.

    ``blobttl`` counts from the last pull, ``maxsize`` bounds blobs and partial files together, ``minfree`` stays
    free on the disk; ``purge_after`` is the age at which links and tags are deleted; ``sweepinterval`` is the
    time between two sweeps.
    """

    blobttl: float | None
    maxsize: int | None
    minfree: int
    purge_after: float
    sweepinterval: float

    def first_sweep(self) -> float:
        """
        Seconds from the start to the first sweep.

        >>> Retention(3.0, None, 0, 86400.0, 1.0).first_sweep()
        3.0
        """
        return self.sweepinterval if self.blobttl is None else min(self.blobttl, LONGEST_FIRST_WAIT)


@frozen
class Shortfall:
    """Bytes to evict: for ``maxsize``, and for ``minfree``."""

    size: int
    space: int

    @property
    def worst(self) -> int:
        """Bytes that are enough for both."""
        return max(self.size, self.space)

    def lacking(self, evicted: int) -> str | None:
        """
        Why there is no room with ``evicted`` bytes less, in words.

        >>> Shortfall(10, 0).lacking(10) is None
        True
        >>> Shortfall(0, 10).lacking(9)
        'there is no room in the store: the disk is full but for minfree'
        """
        if evicted >= self.worst:
            return None
        if self.size > evicted and self.size >= self.space:
            return "there is no room in the store: running downloads and clients need all of maxsize"
        return "there is no room in the store: the disk is full but for minfree"


@frozen
class Candidate:
    """
    A file that may be evicted. ``since`` is its last pull, for a partial file its last write; ``tag`` is then
    that of its origin.
    """

    digest: Digest
    size: int
    since: float
    partial: bool
    tag: str = ""


def clock_jump(previous_wall: float, previous_mono: float, wall: float, mono: float) -> float:
    """
    Seconds by which the wall clock was set since the previous sweep, 0 if it was not.

    >>> clock_jump(1000.0, 50.0, 1060.0, 110.0)
    0.0
    >>> clock_jump(1000.0, 50.0, 4660.0, 110.0)
    3600.0
    """
    jump = (wall - previous_wall) - (mono - previous_mono)
    return jump if abs(jump) > CLOCK_TOLERANCE else 0.0


def shortfall(retention: Retention, stored: int, free: int | None) -> Shortfall:
    """
    The bytes to evict where there are ``stored`` bytes, and ``free`` on the disk.

    >>> shortfall(Retention(None, 100, 10, 0.0, 1.0), stored=110, free=-5)
    Shortfall(size=10, space=15)
    """
    over = 0 if retention.maxsize is None else stored - retention.maxsize
    missing = 0 if free is None else retention.minfree - free
    return Shortfall(max(0, over), max(0, missing))


def oldest_first(candidates: Iterable[Candidate], need: int) -> list[Candidate] | None:
    """
    The oldest files that have ``need`` bytes together; ``None`` if all of them have fewer.

    Empty files are never chosen.

    >>> old = Candidate(Digest.of(b"old"), 3, since=1.0, partial=False)
    >>> new = Candidate(Digest.of(b"new"), 3, since=2.0, partial=True)
    >>> oldest_first([new, old], 2) == [old]
    True
    >>> oldest_first([new, old], 7) is None
    True
    """
    chosen = []
    for candidate in sorted(candidates, key=lambda one: one.since):
        if need <= 0:
            break
        if candidate.size > 0:
            chosen.append(candidate)
            need -= candidate.size
    return None if need > 0 else chosen
