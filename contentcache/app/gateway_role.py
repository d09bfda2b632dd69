"""The daemon as a gateway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.admin.status import (
    CacheSummary,
    GatewayStatus,
    ProcessStatus,
    Sample,
    UpstreamStatus,
)
from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.tasks import in_background
from contentcache.app.gateway_assembly import assemble
from contentcache.app.role import Platform, Repeat, RoleReport, StartupError
from contentcache.config.model import Configuration, Gateway
from contentcache.core.live import Live
from contentcache.core.ports import Run
from contentcache.gateway.database import DatabaseUnusableError
from contentcache.gateway.keys import ROTATE_INTERVAL, SigningKeyError
from contentcache.server.debug_site import HealthCheck
from contentcache.server.factory import ServerFactory
from contentcache.telemetry.metrics import Meter, registry_name
from contentcache.tls.files import Reloadable, TLSConfigurationError
from contentcache.upstream.proxies import ProxyFault


class GatewayRole:
    """
    A :class:`contentcache.app.role.Role`. The registry behind is not contacted in order to start.

    :raises StartupError: something cannot be built from the configuration.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        live: Live[Configuration],
        environ: Mapping[str, str],
        reactor: DaemonReactor,
        *,
        threads: Run,
        meter: Meter,
    ) -> None:
        options = live.now.middleware
        assert isinstance(options, Gateway)  # noqa: S101  # else it is a cache
        self._options = options
        self._threads = threads
        self._key_fault: str | None = None
        self._stopping = False
        try:
            platform = Platform.of_process(environ, reactor, threads)
            self._services = assemble(live, platform, meter=meter)
        except (ProxyFault, TLSConfigurationError, DatabaseUnusableError) as error:
            raise StartupError(str(error)) from error
        except OSError as error:
            raise StartupError(f"the database {options.database} cannot be opened: {error}") from error

    @property
    def factory(self) -> ServerFactory:
        """Makes the protocol of each connection."""
        return self._services.factory

    @property
    def reloading(self) -> Sequence[Reloadable]:
        """What has certificates."""
        return self._services.reloading

    def start(self, repeat: Repeat) -> None:
        """Load or generate the keys in a thread; until then, blobs are not redirected."""
        # Probes are signed, so they start when there is a key.
        self._rotate().addCallback(lambda _none: self._start_probing())
        repeat(ROTATE_INTERVAL, self._rotate)

    async def stop(self) -> None:
        """Stop probing caches, and close idle connections."""
        self._stopping = True
        self._services.liveness.stop()
        self._services.connections.close()
        await self._services.transport.close()

    def close(self) -> None:
        """Close the database."""
        self._services.store.close()

    def health(self) -> Mapping[str, HealthCheck]:
        """The registry behind, the keys, the database, and each cache by its name."""
        registry = self._services.connections.health
        keys = self._key_fault
        read_only = self._services.store.read_only
        return {
            f"registry {self._options.registry}": HealthCheck("ok", "answers", [registry])
            if registry.reason is None
            else HealthCheck("warn", registry.reason, [registry]),
            "keys": HealthCheck("ok", "sign") if keys is None else HealthCheck("warn", keys),
            "database": HealthCheck("ok", "open")
            if read_only is None
            else HealthCheck("warn", f"can only be read: {read_only}"),
            **{
                f"cache {name}": HealthCheck("ok", "clients are sent there", [host])
                if host.healthy
                else HealthCheck("warn", host.reason or "its probes have not succeeded twice yet", [host])
                for name, host in self._services.liveness.hosts().items()
            },
        }

    def process_status(self) -> ProcessStatus:
        """The registry behind."""
        name = registry_name(self._options.registry)
        return ProcessStatus(upstreams=(UpstreamStatus.of(name, self._services.connections.health),))

    async def report(self, samples: Sequence[Sample], _started: float) -> RoleReport:
        """The caches that clients are sent to, and how many."""
        services = self._services
        accounts, choices = await self._threads(services.store.count_accounts)
        caches, states = services.liveness.listed, services.liveness.states
        redirects = {
            labels.get("cache", ""): int(value)
            for name, labels, value in samples
            if name == "contentcache_gateway_redirects_total"
        }
        summaries = []
        for cache in caches:
            state = states.get(cache.id)
            alive, since, reason = (
                (False, None, "not probed yet") if state is None else (state.alive, state.since, state.why)
            )
            summaries.append(
                CacheSummary(
                    cache.name,
                    cache.host,
                    alive,
                    since,
                    reason,
                    choices.get(cache.id, 0),
                    redirects.get(cache.name, 0),
                )
            )
        gateway = GatewayStatus(
            self._options.registry,
            self._options.issuer,
            accounts,
            sum(redirects.values()),
            tuple(summaries),
        )
        return RoleReport(gateway=gateway)

    def startup_fields(self) -> Mapping[str, object]:
        """The registry behind this gateway, and the gateway's name in tokens."""
        return {"registry": self._options.registry, "issuer": self._options.issuer, "role": "gateway"}

    def _start_probing(self) -> None:
        if not self._stopping:
            self._services.liveness.start()

    def _rotate(self) -> Deferred[None]:
        return in_background(self._rotate_keys())

    async def _rotate_keys(self) -> None:
        keys = self._services.keys
        try:
            changed = await self._threads(keys.rotate)
        except SigningKeyError as fault:
            if self._key_fault is None:
                self._log.error("signing keys not updated, old ones stay in use", reason=fault)
            self._key_fault = str(fault)
            return
        self._key_fault = None
        if changed:
            self._log.info("signing key replaced")
