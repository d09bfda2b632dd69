"""The key ``workers``: how many processes serve clients, and the share of the limits that each has."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from contentcache.config.model import Configuration, Downstream, Gateway, ServerTLS, StorageSettings
from contentcache.config.reading import read_key
from contentcache.config.tables import Table

_MIN_THREADS: Final = 25


def read_workers(root: Table, storage: StorageSettings, middleware: Downstream | Gateway) -> int:
    """Read ``workers``: a number, or ``auto`` for one on each core."""
    workers: int = read_key(root, Configuration, "workers", 1)
    if workers > 1 and isinstance(middleware, Gateway):
        root.fault("workers", f"a gateway is one process and cannot be {workers}; leave it out, or write 1")
    elif workers > 1 and storage.driver == "inmemory":
        root.fault(
            "workers",
            f"{workers} processes cannot share what one has in memory; use storage: {{filesystem: ...}}, "
            "or write 1",
        )
    return workers


def worker_share(configuration: Configuration) -> Configuration:
    """
    The configuration of each worker: limits of the whole machine are divided among the workers, and no share is
    less than one. Addresses besides the clients' are the supervisor's.
    """
    workers, options, storage = configuration.workers, configuration.downstream, configuration.storage
    limits, per_host = options.limits, options.fetchesperhost

    def divided(most: int) -> int:
        return max(1, most // workers)

    per_address = limits.connectionsperaddress
    shares = evolve(
        limits,
        connections=divided(limits.connections),
        connectionsperaddress=None if per_address is None else divided(per_address),
        headsperaddress=divided(limits.headsperaddress),
        fetches=divided(limits.fetches),
        grants=divided(limits.grants),
    )
    per_host = None if per_host is None else divided(per_host)
    return evolve(
        configuration,
        http=evolve(configuration.http, debug=None, tls=_only_front(configuration.http.tls)),
        middleware=evolve(options, limits=shares, fetchesperhost=per_host),
        storage=evolve(storage, maxthreads=max(_MIN_THREADS, storage.maxthreads // workers)),
    )


def _only_front(tls: ServerTLS | None) -> ServerTLS | None:
    if tls is None or tls.letsencrypt is None:
        return tls
    return evolve(tls, letsencrypt=evolve(tls.letsencrypt, http=None))
