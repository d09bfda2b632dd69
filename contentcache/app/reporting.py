"""Makes the status document from what the parts of the daemon know."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from contentcache import __version__
from contentcache.admin.status import (
    CertificateStatus,
    ProcessStatus,
    ReloadStatus,
    Sample,
    Status,
    Workers,
)
from contentcache.app.role import Role, RoleReport
from contentcache.config.model import Configuration, Gateway
from contentcache.server.debug_site import HealthCheck
from contentcache.tls.files import names_of
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext

if TYPE_CHECKING:
    from contentcache.app.issuance import Issuance

#: Seconds before its end in which a certificate of a file is warned of.
_SOON: Final = 7 * 86400.0
_ORDER: Final = ("ok", "warn", "fail")


class StatusReporter:
    """Knows what does not change: the configuration, and when the daemon started; and the last reload."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._started = time.time()
        self.last_reload: ReloadStatus | None = None

    async def report(
        self,
        role: Role | None,
        samples: Sequence[Sample],
        *,
        process: ProcessStatus,
        health: Mapping[str, HealthCheck],
        workers: Workers,
        certificates: tuple[CertificateStatus, ...],
    ) -> Status:
        """The document; ``process`` is what all processes together know."""
        now, started = time.time(), self._started
        more = RoleReport() if role is None else await role.report(samples, started)
        return Status(
            version=__version__,
            role="gateway" if isinstance(self._configuration.middleware, Gateway) else "cache",
            health=max((check.state for check in health.values()), key=_ORDER.index, default="ok"),
            pid=os.getpid(),
            time=now,
            started=started,
            uptime_seconds=round(now - started, 1),
            workers=workers,
            savings=more.savings,
            downloads=process.downloads,
            upstreams=process.upstreams,
            store=more.store,
            certificates=certificates,
            errors=process.errors,
            reload=self.last_reload,
            gateway=more.gateway,
            images=more.images,
        )


def certificates_of(
    context: ServerContext | HostContexts | None, issuance: Issuance | None
) -> tuple[CertificateStatus, ...]:
    """The certificates that clients are shown."""
    if issuance is not None:
        return tuple(_issued(issuance))
    return tuple(_of_file(context)) if isinstance(context, ServerContext) else ()


def _issued(issuance: Issuance) -> Iterator[CertificateStatus]:
    loop = issuance.renewal_loop
    for host, state in loop.states.items():
        health, detail = loop.health(state)
        expires = None if state.validity is None else state.validity.ends
        yield CertificateStatus(host, expires, health, detail)


def _of_file(context: ServerContext) -> Iterator[CertificateStatus]:
    leaf = context.identity.chain[0]
    ends = leaf.not_valid_after_utc.timestamp()
    left = ends - time.time()
    detail = "expired" if left <= 0 else "expires soon" if left <= _SOON else "valid"
    for host in names_of(leaf) or ["-"]:
        yield CertificateStatus(host, ends, "ok" if left > _SOON else "warn", detail)
