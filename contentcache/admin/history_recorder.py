"""
The history of the cache: read at the start, added to from the metrics, written once a minute and at the end.

A kill loses at most what was served since the last write.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from contentcache.admin.history import History, HistoryInvalid, day_of, growth
from contentcache.admin.status import Sample, Traffic, traffic
from contentcache.core.ports import Clock, Run
from contentcache.persist.atomic_file import read_bounded, write_atomically
from contentcache.telemetry.repository_pulls import RepositoryPulls

#: Seconds between two writes.
INTERVAL: Final = 60.0
#: Bytes of the largest history that is read: more than 400 days of 100 registries take.
_LARGEST: Final = 16 << 20


class HistoryRecorder:
    """
    Adds what the metrics count to the history in the file at ``path``; with ``None`` it ends with the process.

    ``samples()`` gives those of all workers, whose counters never decrease. The constructor reads the file.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        path: Path | None,
        samples: Callable[[], Awaitable[Iterable[Sample]]],
        pulls: RepositoryPulls,
        *,
        run: Run,
        wall: Clock,
    ) -> None:
        self._path = path
        self._samples = samples
        self._pulls = pulls
        self._run = run
        self._wall = wall
        self._lock = DeferredLock()
        self._counted: tuple[Traffic, ...] = ()
        self._is_written = True
        self._is_failing = False
        self._history = History() if path is None else self._read(path)

    async def update(self) -> History:
        """The history up to now."""
        await self._lock.acquire()
        try:
            return await self._update()
        finally:
            self._lock.release()

    async def record(self) -> None:
        """Write the history up to now. What cannot be written is written the next time."""
        await self._lock.acquire()
        try:
            history = await self._update()
            if self._path is None or self._is_written:
                return
            await self._run(write_atomically, self._path, history.encode(), mode=0o600)
            self._is_written = True
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                self._log.warn("history not written", path=str(self._path), reason=error.strerror or error)
            self._is_failing = True
        finally:
            self._lock.release()

    async def _update(self) -> History:
        counted = traffic(await self._samples())
        added, self._counted = growth(counted, self._counted), counted
        if self._history.add(day_of(self._wall()), added, self._pulls.drain()):
            self._is_written = False
        return self._history

    def _read(self, path: Path) -> History:
        try:
            return History.decode(read_bounded(path, _LARGEST))
        except FileNotFoundError:
            return History()
        except (OSError, HistoryInvalid) as error:
            aside = path.with_name(f"{path.name}.damaged")
            with suppress(OSError):
                os.replace(path, aside)
            self._log.warn("history damaged, begun anew", path=str(path), kept=str(aside), reason=error)
            return History()
