"""The options of the middleware ``redirect``, which makes the daemon a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import NOTHING, Factory, frozen

from contentcache.config.schema.downstream import Limits
from contentcache.config.schema.kinds import (
    ABSOLUTE_CERTIFICATES,
    BASE_URL,
    DURATION,
    DURATION_OR_ZERO,
    KEY_LIFETIME,
    MAPPING,
    NAT64_PREFIX,
    NETWORKS,
    PAIRED_FILE,
    PATH,
    PRIVATE_KEY,
    REDIRECT_TARGET,
    REGISTRY_PATH,
    SIZE_OR_ZERO,
    TEXT,
    URL_LIFETIME,
    URL_OR_HOST,
    USER_NAME,
    list_of,
)
from contentcache.config.schema.options import Option, by_hand, option, required
from contentcache.config.schema.upstream import Account

#: Keys of ``limits`` that are about what a cache does: a gateway accepts them with a warning.
CACHE_ONLY_LIMITS: Final = ("manifest", "fetches", "fetchwait", "grants")


@frozen
class Gateway:
    """
    The options of the middleware ``redirect``.

    ``registry`` is the base URL of the registry behind, ``issuer`` the gateway's own, as clients and caches
    know it. ``account`` is what fills caches, ``None`` for a registry that is open to everybody. ``paths``
    are passed besides the registry's API. ``networks`` has the name of a cache for each network of clients.
    """

    registry: str = required(BASE_URL, "https://internal-registry:5000", "the registry behind")
    issuer: str = by_hand(
        NOTHING, Option("issuer", BASE_URL, "the gateway itself, as caches know it", "``http.host``")
    )
    signingkey: str = required(
        PRIVATE_KEY,
        "/etc/contentcache/signing.pem",
        "key that signs URLs, ES256 in PEM; created if missing",
    )
    database: str = required(
        PATH, "/var/lib/contentcache/gateway.sqlite3", "SQLite: caches, and who has chosen which"
    )
    keylifetime: float = option(KEY_LIFETIME, 2_592_000.0, "then there is a new key; at least ``2h``")
    urlttl: float = option(URL_LIFETIME, 1200.0, "how long a signed URL is good; at most ``1h``")
    minimumsize: int = option(
        SIZE_OR_ZERO, 64 << 10, "smaller blobs come straight from the registry", effect="reload"
    )
    admins: tuple[str, ...] = option(
        list_of(USER_NAME, "names"),
        (),
        "accounts that may add and remove caches",
        effect="reload",
    )
    admingroup: str | None = option(
        TEXT, None, "group whose accounts may, where tokens tell groups", effect="reload"
    )
    account: Account | None = by_hand(
        None,
        Option(
            "account",
            MAPPING,
            "``username`` with ``password`` or ``passwordfile``: with what caches' misses are filled",
        ),
    )
    networks: Mapping[str, str] = by_hand(
        Factory(dict),
        Option(
            "networks",
            NETWORKS,
            "network of clients to name of cache, for those who have chosen nothing: ``10.2.0.0/16: "
            "region-us``",
            effect="reload",
        ),
    )
    paths: tuple[str, ...] = option(
        list_of(REGISTRY_PATH), (), "passed to the registry besides ``/v2/``, with all below"
    )
    cas: tuple[str, ...] = option(
        list_of(ABSOLUTE_CERTIFICATES),
        (),
        "authorities of the registry and of the caches, besides the system's",
    )
    certificate: str | None = by_hand(
        None, Option("certificate", PAIRED_FILE, "client certificate for the registry, with ``key``")
    )
    key: str | None = by_hand(None, Option("key", PAIRED_FILE, "its key"))
    realms: tuple[str, ...] = option(
        list_of(URL_OR_HOST, "URLs, hosts"),
        (),
        "where the account's password may be sent for tokens",
        shown="own host, own site",
    )
    redirects: tuple[str, ...] = option(
        list_of(REDIRECT_TARGET, "hosts, networks"),
        (),
        "hosts and networks to which the registry may redirect though they are private; with its scheme "
        "(``http://s3.internal:9000``) a place to which an ``https`` registry may redirect in plain HTTP",
    )
    authttl: float = option(
        DURATION_OR_ZERO, 60.0, "how long the registry's word on who somebody is counts", effect="reload"
    )
    checkinterval: float = option(DURATION, 10.0, "between two probes of a cache")
    writetimeout: float = option(DURATION, 900.0, "how long the registry may take to answer a write")
    stalltimeout: float = option(DURATION, 30.0, "how long it may send or read nothing")
    connecttimeout: float = option(DURATION, 10.0, "how long it may take to accept a connection")
    nat64prefixes: tuple[str, ...] = option(
        list_of(NAT64_PREFIX, "networks"),
        (),
        "IPv6 prefixes by which this network reaches IPv4: addresses in them are private to redirects and "
        "realms",
    )
    limits: Limits = by_hand(Limits(), Option("limits", MAPPING, "see `Limits`_", ""))
