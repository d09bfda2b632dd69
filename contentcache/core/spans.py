"""Which bytes of a partial file are present."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Spans:
    """
    A set of half-open runs of offsets, merged and in order.

    >>> held = Spans()
    >>> held.add(0, 4); held.add(8, 12); held.add(4, 6)
    >>> list(held), held.reach(0), held.reach(6)
    ([(0, 6), (8, 12)], 6, 6)
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    def add(self, start: int, stop: int) -> None:
        """Add the bytes from ``start`` up to ``stop``."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def reach(self, offset: int) -> int:
        """The end of the run that contains ``offset``; ``offset`` itself if it is missing."""
        run = bisect_right(self._starts, offset) - 1
        return max(offset, self._stops[run]) if run >= 0 else offset

    def gap(self, offset: int) -> tuple[int, int | None]:
        """
        The run of missing bytes around a missing ``offset``: its start and its end, ``None`` if it is endless.

        >>> held = Spans()
        >>> held.add(0, 4); held.add(8, 12)
        >>> held.gap(5), held.gap(20)
        ((4, 8), (12, None))
        """
        run = bisect_right(self._starts, offset)
        before = self._stops[run - 1] if run else 0
        return before, self._starts[run] if run < len(self._starts) else None

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """
        The runs of bytes that are missing between ``start`` and ``stop``.

        >>> held = Spans()
        >>> held.add(0, 4); held.add(8, 12)
        >>> held.missing(2, 20), held.missing(9, 11)
        ([(4, 8), (12, 20)], [])
        """
        missing: list[tuple[int, int]] = []
        while (start := self.reach(start)) < stop:
            end = self.gap(start)[1]
            end = stop if end is None else min(end, stop)
            missing.append((start, end))
            start = end
        return missing

    def end(self) -> int:
        """Where the last run ends."""
        return self._stops[-1] if self._stops else 0

    def total(self) -> int:
        """The number of bytes."""
        return sum(self._stops) - sum(self._starts)

    def clear(self) -> None:
        """Remove all bytes."""
        self._starts.clear()
        self._stops.clear()
