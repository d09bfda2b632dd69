"""A whole configuration, with the sections ``log``, ``storage`` and ``auth``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal

from attrs import NOTHING, Factory, frozen

from contentcache.config.schema.downstream import Downstream
from contentcache.config.schema.gateway import Gateway
from contentcache.config.schema.http import Http
from contentcache.config.schema.kinds import (
    ALGORITHM,
    BOOLEAN,
    CERTIFICATES,
    COUNT_OR_ZERO,
    FIELDS,
    MAPPING,
    PATH,
    PROCESSES,
    QUOTABLE,
    REALM,
    TEXT,
    TOKEN_KEYS,
    URL_PATH,
    USERS_FILE,
    list_of,
    one_of,
)
from contentcache.config.schema.options import Option, by_hand, option, required

#: Under the store, or beside the database of a gateway.
ADMIN_SOCKET: Final = "run/admin.sock"

Level = Literal["error", "warn", "info", "debug"]


@frozen
class Log:
    """Section ``log``. ``accesslog`` says whether requests get lines, ``accesslog_probes`` whether probes do."""

    level: Level = by_hand(
        "info",
        Option(
            "level", one_of("error", "warn", "info", "debug"), "least level that is written", effect="reload"
        ),
    )
    formatter: Literal["text", "json"] = by_hand(
        "text",
        Option(
            "formatter",
            one_of("text", "json"),
            "``logstash`` is taken as ``json``, with a warning",
            effect="reload",
        ),
    )
    fields: Mapping[str, object] = by_hand(
        Factory(dict),
        Option("fields", FIELDS, "names and single values that are added to every line", effect="reload"),
    )
    accesslog: bool = by_hand(
        True, Option("accesslog.disabled", BOOLEAN, "no line for each request", "``false``", effect="reload")
    )
    accesslog_probes: bool = by_hand(
        False,
        Option(
            "accesslog.probes", BOOLEAN, "lines for health probes that were answered, too", effect="reload"
        ),
    )


@frozen
class StorageSettings:
    """Section ``storage``: one driver, and whether blobs may be deleted."""

    driver: Literal["filesystem", "inmemory"] = by_hand(
        "filesystem", Option("inmemory", MAPPING, "keep blobs in memory, for trying out", "off")
    )
    rootdirectory: str = option(
        PATH,
        "/var/lib/registry",
        "where everything is kept; a relative path starts at the folder in which the daemon starts",
        key="filesystem.rootdirectory",
    )
    maxthreads: int = option(
        COUNT_OR_ZERO, 100, "file operations that run at once, at least 25", key="filesystem.maxthreads"
    )
    delete: bool = option(
        BOOLEAN, False, "blobs may be deleted: ``blobttl`` needs it", key="delete.enabled", effect="reload"
    )


@frozen
class TokenAuth:
    """
    Section ``auth.token``: clients bring tokens of a registry's token server, which are verified here.

    With ``autoredirect`` the realm is ``autoredirectpath`` at the host that the client has asked.
    """

    realm: str = by_hand(
        NOTHING,
        Option(
            "realm",
            REALM,
            "where clients get their tokens, given to them as it is written",
            example="https://auth.example.com/token",
        ),
    )
    service: str = required(QUOTABLE, "registry.example.com", "who the tokens are for (``aud``)")
    issuer: str = required(TEXT, "auth.example.com", "who makes them (``iss``)")
    rootcertbundle: str | None = option(
        CERTIFICATES,
        None,
        "PEM: certificates of those who sign tokens, or of their authorities; this, ``jwks`` or both",
    )
    jwks: str | None = option(TOKEN_KEYS, None, "JWK set of keys that sign tokens")
    signingalgorithms: tuple[str, ...] = option(
        list_of(ALGORITHM),
        (),
        "``EdDSA``; ``ES``, ``RS`` or ``PS`` with ``256``, ``384`` or ``512``",
        shown="all",
    )
    autoredirect: bool = option(BOOLEAN, False, "the realm is a path at the host that the client has asked")
    autoredirectpath: str = option(URL_PATH, "/auth/token/", "that path")


@frozen
class HtpasswdAuth:
    """Section ``auth.htpasswd``: a file of users and bcrypt hashes."""

    realm: str = required(QUOTABLE, "Content Cache", "what clients are told that they log in to")
    path: str = required(
        USERS_FILE,
        "/auth/htpasswd; make it with htpasswd -Bc FILE USER",
        "users and their bcrypt hashes, as ``htpasswd -B`` writes them",
    )


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
    def admin_socket(self) -> str | None:
        """The path of the socket of the admin API, ``None`` where there is none."""
        if self.http.admin is not None:
            return self.http.admin
        if isinstance(self.middleware, Gateway):
            return os.path.join(os.path.dirname(self.middleware.database), ADMIN_SOCKET)
        in_memory = self.storage.driver == "inmemory"
        return None if in_memory else os.path.join(self.storage.rootdirectory, ADMIN_SOCKET)

    @property
    def downstream(self) -> Downstream:
        """The options of a cache. Raises ``TypeError`` where the daemon is a gateway."""
        if not isinstance(self.middleware, Downstream):
            raise TypeError("this is a gateway's configuration")
        return self.middleware
