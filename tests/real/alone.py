"""The harness of real programs without a test around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Place:
    """What the harness of real programs needs of a test: a folder, and an end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._cleanups: list[Callable[[], object]] = []

    def mktemp(self) -> str:
        """A path that is not there yet."""
        self._number += 1
        return str(self._folder / str(self._number))

    def addCleanup(self, f: Callable[[], object], /) -> None:
        """To be done at the end, the last one first."""
        self._cleanups.append(f)

    def close(self) -> None:
        """The end."""
        while self._cleanups:
            self._cleanups.pop()()
