"""Reads the configuration again while the daemon runs: all of a file takes effect, or nothing of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from contentcache.admin.status import ReloadStatus
from contentcache.aio.tasks import locked
from contentcache.app.role import Role
from contentcache.config.changes import Changes, compare
from contentcache.config.faults import ConfigurationError
from contentcache.config.loading import Loaded, load
from contentcache.config.model import Configuration, ServerTLS
from contentcache.core.ports import Clock, Run
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import TLSConfigurationError
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext

if TYPE_CHECKING:
    from contentcache.app.issuance import Issuance

#: Reads files, in a thread; what it returns uses them.
FileReader: TypeAlias = Callable[[], Callable[[], None]]


class ConfigurationReload:
    """
    Reloads the file from which ``loaded`` is, with the overrides in ``environ``.

    ``readers(configuration)`` read the files that it names; ``use(configuration)`` makes it take effect, and is
    called once all of them are read.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        loaded: Loaded,
        environ: Mapping[str, str],
        *,
        readers: Callable[[Configuration], Sequence[FileReader]],
        use: Callable[[Configuration], None],
        run: Run,
        meter: Meter,
        wall: Clock,
    ) -> None:
        self._loaded = loaded
        self._environ = environ
        self._running = loaded.configuration
        self._readers = readers
        self._use = use
        self._run = run
        self._meter = meter
        self._wall = wall
        self._warnings = loaded.warnings
        self._lock = DeferredLock()

    async def run(self) -> ReloadStatus:
        """Read everything, use it or say what is wrong with it. One that is under way is waited for."""
        async with locked(self._lock):
            return await self._reload()

    async def _reload(self) -> ReloadStatus:
        try:
            changes = await self._run(self._read)
        except ConfigurationError as error:
            return await self._refused(str(error).splitlines())
        faults = await self._reload_files(changes.configuration)
        if faults:
            return self._failed(faults)
        self._log_warnings()
        self._running = changes.configuration
        self._use(changes.configuration)
        self._meter.reloaded(self._wall(), ok=True)
        self._log.info("configuration reloaded", changed=changes.live)
        if changes.restart:
            self._log.warn("restart needed", keys=changes.restart)
        return ReloadStatus(self._wall(), True, changes.live, changes.restart)

    async def _refused(self, reasons: Sequence[str]) -> ReloadStatus:
        """The configuration cannot be used."""
        if not await self._run(self._is_forbidden):
            self._log_refusal(reasons)
            return self._failed(reasons)
        # Root's own file, which was read before the account changed: certificates are renewed all the same.
        for reason in reasons:
            self._log.error("configuration not reloaded, the old one stays in use", reason=reason)
        return self._failed([*reasons, *await self._reload_files(self._running)])

    async def _reload_files(self, configuration: Configuration) -> Sequence[str]:
        """Read the files that a configuration names, and use them; what is wrong with one, if none is used."""
        try:
            uses = [await self._run(read) for read in self._readers(configuration)]
        except TLSConfigurationError as error:
            self._log_refusal([str(error)])
            return [str(error)]
        for use in uses:
            use()
        self._log.info("certificates reloaded, shown to new connections")
        return []

    def _is_forbidden(self) -> bool:
        """In a thread: whether this account may not read the file, which is there."""
        path = self._loaded.path
        return path is not None and os.path.isfile(path) and not os.access(path, os.R_OK)

    def _read(self) -> Changes:
        """In a thread."""
        if self._loaded.path is None:
            return Changes(self._running)
        self._loaded = load(self._loaded.path, self._environ)
        return compare(self._running, self._loaded.configuration)

    def _log_warnings(self) -> None:
        for warning in self._loaded.warnings:
            if warning not in self._warnings:
                self._log.warn("configuration warning", reason=warning)
        self._warnings = self._loaded.warnings

    def _log_refusal(self, reasons: Sequence[str]) -> None:
        for reason in reasons:
            self._log.error(
                "configuration and certificates not reloaded, old ones stay in use", reason=reason
            )

    def _failed(self, reasons: Sequence[str]) -> ReloadStatus:
        self._meter.reloaded(self._wall(), ok=False)
        return ReloadStatus(self._wall(), False, errors=tuple(reasons))


def file_readers(
    role: Role | None, own: Issuance | ServerContext | HostContexts | None, tls: ServerTLS | None
) -> list[FileReader]:
    """What reads certificates again: those for upstreams, and the daemon's ``own`` with the settings ``tls``."""
    readers: list[FileReader] = [each.read for each in (role.reloading if role else ())]
    if tls is not None and own is not None:
        readers.append(partial(own.read, tls))
    return readers
