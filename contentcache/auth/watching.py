"""
A file whose content is kept, and read again when it has changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from twisted.logger import Logger

from contentcache.aio.single_flight import SingleFlight
from contentcache.auth.interfaces import AuthFault
from contentcache.core.ports import Run, Timer

T = TypeVar("T")
_log = Logger()

#: Seconds for which a look at the files is good.
FRESH: Final = 1.0

#: What tells one content of a file from the next without reading it; ``None`` where there is no file.
_Mark = tuple[int, int, int, int, int] | None

#: The largest file that is read: a mistaken path may lead to anything.
LARGEST: Final = 8 << 20


class Watched(Generic[T]):
    """
    What ``read`` makes of some files; the first time at once, later in threads.

    Files are looked at no more than once in :data:`FRESH` seconds, and whoever asks then waits for that look:
    so what is older is never believed, however long nobody has asked. Where ``read`` raises ``AuthFault``
    later on, one line is logged, and ``lost`` counts instead, or without it what was there before; it is
    tried again at each look.

    :raises AuthFault: the files cannot be used now.
    """

    def __init__(
        self,
        paths: Sequence[str],
        read: Callable[[], T],
        *,
        run: Run,
        timer: Timer,
        lost: Callable[[AuthFault], T] | None = None,
    ) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._run = run
        self._timer = timer
        self._lost = lost
        self._looks: SingleFlight[None, None] = SingleFlight()
        self._complaint: str | None = None
        # Marked before it is read: what changes in between is seen at the next look.
        self._seen: list[_Mark] | None = _marks(self._paths)
        self.latest = read()
        self._looked = timer.seconds()

    async def current(self) -> T:
        """
        The content, not older than :data:`FRESH` seconds.
        """
        if self._timer.seconds() - self._looked >= FRESH:
            await self._looks.run(None, self._look)
        return self.latest

    def at_hand(self) -> T | None:
        """
        The same without a look at the files, ``None`` where that would be too old.
        """
        return self.latest if self._timer.seconds() - self._looked < FRESH else None

    async def _look(self) -> None:
        began = self._timer.seconds()
        marks = await self._run(_marks, self._paths)
        if marks != self._seen:
            await self._read_again(marks)
        self._looked = began

    async def _read_again(self, marks: list[_Mark]) -> None:
        try:
            self.latest = await self._run(self._read)
        except AuthFault as fault:
            self._seen = None
            if self._lost is not None:
                self.latest = self._lost(fault)
            self._complain(fault)
            return
        self._seen = marks
        self._complaint = None
        _log.info("{paths} has changed and was read again", paths=", ".join(self._paths))

    def _complain(self, fault: AuthFault) -> None:
        if fault.message == self._complaint:
            return
        self._complaint = fault.message
        meanwhile = (
            "what was read before still counts" if self._lost is None else "nobody is let in meanwhile"
        )
        _log.error("{fault}; {meanwhile}", fault=fault.message, meanwhile=meanwhile)


def read_file(path: str) -> bytes:
    """
    A whole file, within reason.

    :raises AuthFault: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AuthFault(path, f"{path} cannot be read: {reason}") from error
    if len(content) > LARGEST:
        raise AuthFault(path, f"{path} is larger than {LARGEST} bytes: is this the right file?")
    return content


def _marks(paths: Sequence[str]) -> list[_Mark]:
    return [_mark(path) for path in paths]


def _mark(path: str) -> _Mark:
    try:
        now = os.stat(path)
    except (OSError, ValueError):
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
