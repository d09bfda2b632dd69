"""Files whose content is read again when they change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from twisted.logger import Logger

from contentcache.aio.single_flight import SingleFlight
from contentcache.core.ports import Run, Timer
from contentcache.persist.atomic_file import UnusableFileError

Content = TypeVar("Content")
_log = Logger()

#: Seconds after which files are checked again.
CHECK_INTERVAL: Final = 1.0

#: Differs between two contents of a file, without reading it; ``None`` where there is no file.
_Fingerprint = tuple[int, int, int, int, int] | None


class WatchedFiles(Generic[Content]):
    """
    What ``read`` makes of some files: called by the constructor, and in a thread when one of them changed.

    Nothing is checked while nobody asks. Where ``read`` raises :class:`UnusableFileError` later on, the log
    says so once, and each further check reads again. The content is then ``fallback`` of the error, without
    ``fallback`` what was read before.

    :param meanwhile: what that means, for the log.
    :raises UnusableFileError: by the constructor: the files cannot be used now.
    """

    def __init__(
        self,
        paths: Sequence[str],
        read: Callable[[], Content],
        *,
        run: Run,
        timer: Timer,
        fallback: Callable[[UnusableFileError], Content] | None = None,
        meanwhile: str = "old content stays in use",
    ) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._run = run
        self._timer = timer
        self._fallback = fallback
        self._meanwhile = meanwhile
        self._checks: SingleFlight[None, None] = SingleFlight()
        self._logged: str | None = None
        # Taken before it is read: what changes in between is seen at the next check.
        self._seen: list[_Fingerprint] | None = _fingerprints(self._paths)
        self.latest = read()
        self._checked = timer.seconds()

    async def current(self) -> Content:
        """
        The content, checked less than :data:`CHECK_INTERVAL` seconds ago.

        :raises Exception: what ``read`` raises that is no :class:`UnusableFileError`.
        """
        if self._timer.seconds() - self._checked >= CHECK_INTERVAL:
            await self._checks.run(None, self._check)
        return self.latest

    def at_hand(self) -> Content | None:
        """The same without a check, ``None`` where one is due."""
        return self.latest if self._timer.seconds() - self._checked < CHECK_INTERVAL else None

    async def _check(self) -> None:
        started = self._timer.seconds()
        found = await self._run(_fingerprints, self._paths)
        if found != self._seen:
            await self._read_again(found)
        self._checked = started

    async def _read_again(self, found: list[_Fingerprint]) -> None:
        try:
            self.latest = await self._run(self._read)
        except UnusableFileError as error:
            self._seen = None
            if self._fallback is not None:
                self.latest = self._fallback(error)
            self._log_once(error)
            return
        self._seen = found
        self._logged = None
        _log.info("file changed, read again", paths=self._paths)

    def _log_once(self, error: UnusableFileError) -> None:
        if error.message == self._logged:
            return
        self._logged = error.message
        _log.error("changed file unusable", paths=self._paths, reason=error.message, effect=self._meanwhile)


def _fingerprints(paths: Sequence[str]) -> list[_Fingerprint]:
    return [_fingerprint(path) for path in paths]


def _fingerprint(path: str) -> _Fingerprint:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
