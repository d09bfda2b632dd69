"""A whole configuration."""

from __future__ import annotations

from attrs import NOTHING, frozen

from contentcache.config.schema.auth import HtpasswdAuth, TokenAuth
from contentcache.config.schema.downstream import Downstream
from contentcache.config.schema.gateway import Gateway
from contentcache.config.schema.http import Http
from contentcache.config.schema.kinds import MAPPING, PROCESSES, one_of
from contentcache.config.schema.options import Option, by_hand
from contentcache.config.schema.sections import Log, StorageSettings


@frozen
class Configuration:
    """
    A whole file that has no faults. The middleware makes the daemon what it is; ``workers`` is how many
    processes serve clients.
    """

    http: Http = by_hand(
        NOTHING,
        Option("version", one_of("0.1"), "version of the format", "required"),
        Option("http", MAPPING, "see `http`_", "required"),
    )
    middleware: Downstream | Gateway = by_hand(
        NOTHING, Option("middleware", MAPPING, "see `middleware`_", "required")
    )
    log: Log = by_hand(
        Log(),
        Option("log", MAPPING, "see `log`_", ""),
        Option(
            "loglevel",
            one_of("error", "warn", "info", "debug"),
            "deprecated: used where ``log.level`` is not given",
            "",
        ),
    )
    storage: StorageSettings = by_hand(
        StorageSettings(), Option("storage", MAPPING, "see `storage`_", "required")
    )
    auth: TokenAuth | HtpasswdAuth | None = by_hand(
        None, Option("auth", MAPPING, "see `auth`_; without it the origin authorizes its clients")
    )
    workers: int = by_hand(
        1,
        Option(
            "workers",
            PROCESSES,
            "processes that serve clients, at most 64; ``auto`` is one on each core. More than one need "
            "``storage.filesystem``; a gateway has one. See `operating <operating.rst#workers>`_",
        ),
    )

    @property
    def downstream(self) -> Downstream:
        """The options of a cache. Raises ``TypeError`` where the daemon is a gateway."""
        if not isinstance(self.middleware, Downstream):
            raise TypeError("this is a gateway's configuration")
        return self.middleware
