"""Parts of the daemon that are imported only where the configuration needs them: they take memory and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.threads import Threads
from contentcache.app.cache_role import CacheRole
from contentcache.app.role import Role, exit_with
from contentcache.config.model import Configuration, Gateway, Http, ServerTLS
from contentcache.core.live import Live
from contentcache.core.ports import Run
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import TLSConfigurationError
from contentcache.tls.server import ServerContext
from contentcache.upstream.proxies import ProxyFault

if TYPE_CHECKING:
    from contentcache.app.issuance import Issuance


def load_modules(configuration: Configuration) -> None:
    """Import what the configuration needs, before the account changes or an update replaces files."""
    if isinstance(configuration.middleware, Gateway):
        import contentcache.app.gateway_role  # noqa: PLC0415
    if configuration.auth is not None:
        import contentcache.auth.htpasswd  # noqa: PLC0415
        import contentcache.auth.tokens  # noqa: PLC0415
    tls = configuration.http.tls
    if tls is not None and tls.letsencrypt is not None:
        import contentcache.app.issuance  # noqa: F401, PLC0415


def context_of_files(tls: ServerTLS | None) -> ServerContext | None:
    """What makes TLS contexts of the certificate files, if there are any; the process ends over bad ones."""
    if tls is None or tls.letsencrypt is not None:
        return None
    try:
        return ServerContext(tls)
    except TLSConfigurationError as error:
        exit_with(str(error))


def build_role(
    live: Live[Configuration],
    environ: Mapping[str, str],
    reactor: DaemonReactor,
    *,
    threads: Threads,
    meter: Meter,
) -> Role:
    """
    Build a cache or a gateway.

    :raises StartupError: it cannot be built.
    """
    if isinstance(live.now.middleware, Gateway):
        from contentcache.app.gateway_role import GatewayRole  # noqa: PLC0415

        return GatewayRole(live, environ, reactor, threads=threads, meter=meter)
    return CacheRole(live, environ, reactor, threads, meter)


def build_issuance(
    http: Http, environ: Mapping[str, str], *, run: Run, reactor: DaemonReactor, meter: Meter
) -> Issuance | None:
    """What obtains certificates, if any are to be obtained; where it cannot be built, the process ends."""
    tls = http.tls
    if tls is None or tls.letsencrypt is None:
        return None
    from contentcache.acme.errors import CertificateStoreInUseError  # noqa: PLC0415
    from contentcache.app.issuance import Issuance  # noqa: PLC0415

    try:
        return Issuance(tls, tls.letsencrypt, http.addr, environ, run=run, reactor=reactor, meter=meter)
    except (CertificateStoreInUseError, TLSConfigurationError, ProxyFault) as error:
        exit_with(str(error))
