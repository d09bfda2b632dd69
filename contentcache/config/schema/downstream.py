"""The options of the middleware ``downstream``, which makes the daemon a cache."""

from __future__ import annotations

from attrs import NOTHING, frozen

from contentcache.config.schema.kinds import (
    ABSOLUTE_CERTIFICATES,
    BOOLEAN,
    COUNT,
    DURATION,
    DURATION_OR_ZERO,
    LIST,
    MAPPING,
    NAT64_PREFIX,
    SHARE,
    SIZE,
    SIZE_OR_ZERO,
    list_of,
    one_of,
)
from contentcache.config.schema.options import Option, by_hand, option
from contentcache.config.schema.upstream import Signing, Upstream

MIB = 1 << 20
GIB = 1 << 30


@frozen
class Limits:
    """Bounds on everything that an unknown client can make grow (option ``limits``)."""

    manifest: int = option(SIZE, 4 * MIB, "a manifest", effect="reload")
    token: int = option(SIZE, 64 << 10, "the answer of a token service", effect="reload")
    headers: int = option(SIZE, 16 << 10, "request line and headers", effect="reload")
    connections: int = option(COUNT, 4096, "connections of clients", effect="reload")
    connectionsperaddress: int | None = option(COUNT, None, "the same for one address", effect="reload")
    headsperaddress: int = option(
        COUNT,
        256,
        "request heads of an address that have begun and are not complete",
        effect="reload",
    )
    fetches: int = option(COUNT, 256, "downloads from upstreams at once", effect="reload")
    fetchwait: float = option(DURATION, 10.0, "how long a further one waits", effect="reload")
    grants: int = option(COUNT, 100_000, "remembered answers about credentials", effect="reload")
    clientstall: float = option(
        DURATION, 60.0, "a client that reads nothing for so long is disconnected", effect="reload"
    )
    headertime: float = option(DURATION, 30.0, "time for the headers of a request", effect="reload")
    idle: float = option(DURATION, 120.0, "a connection without a request", effect="reload")


@frozen
class Downstream:
    """The options of the middleware ``downstream``."""

    upstreams: tuple[Upstream, ...] = by_hand(
        NOTHING,
        Option("upstreams", LIST, "see `Upstreams`_", "required"),
        Option(
            "fallbacktoorigin",
            BOOLEAN,
            "default of the key in `Upstreams`_; for a plain list only with ``signing.issuer``",
            "``false``",
        ),
    )
    blobttl: float | None = option(
        DURATION,
        None,
        "a blob is evicted when nobody has pulled it for so long; needs ``storage.delete.enabled: true``; "
        "without it nothing is evicted by age",
        effect="reload",
    )
    cas: tuple[str, ...] = option(
        list_of(ABSOLUTE_CERTIFICATES),
        (),
        "trusted for upstreams besides the system's authorities, by absolute paths; a leaf is an anchor too",
    )
    authttl: float = option(
        DURATION_OR_ZERO,
        60.0,
        "how long an *allowed* answer of the origin to a credential in a repository is remembered; ``0`` "
        "asks every time",
        effect="reload",
    )
    affirmttl: float = option(
        DURATION_OR_ZERO,
        86400.0,
        "how long the origin's statement is trusted that a digest belongs to a repository",
        effect="reload",
    )
    keepdeleted: bool = option(
        BOOLEAN,
        False,
        "serve, to those who are allowed, what the origin no longer has",
        effect="reload",
    )
    maxsize: int | None = option(
        SIZE,
        None,
        "bytes of blobs and partial files, running downloads counted whole; beyond it the least recently"
        " pulled are evicted, and what finds no room passes through uncached",
        effect="reload",
    )
    sweepinterval: float = by_hand(
        60.0,
        Option(
            "sweepinterval",
            DURATION,
            "time between eviction sweeps: a quarter of ``blobttl`` between ``1s`` and ``1m``, else ``1m``",
            "see right",
            effect="reload",
        ),
    )
    minfree: int = option(
        SIZE_OR_ZERO,
        GIB,
        "free disk that is left when all running downloads are complete; below it blobs are evicted, or pass"
        " through uncached",
        effect="reload",
    )
    staleiferror: float = option(
        DURATION_OR_ZERO,
        0.0,
        "how long a known tag is answered while the origin cannot",
        effect="reload",
    )
    fillafter: float = option(
        SHARE,
        0.3,
        "of a blob of which only parts are requested, the rest is downloaded too once this share of it is "
        "there",
        effect="reload",
    )
    stalltimeout: float = option(
        DURATION,
        30.0,
        "an upstream that sends nothing for so long is abandoned for the next",
        effect="reload",
    )
    connecttimeout: float = option(DURATION, 10.0, "the same for one that does not answer", effect="reload")
    retryfor: float = option(
        DURATION_OR_ZERO,
        20.0,
        "how long a transfer whose response has begun waits for upstreams that are not available (connections "
        "refused or cut, timeouts, 5xx, 429) and goes on where it stopped; with ``0`` each is asked once more",
        effect="reload",
    )
    nat64prefixes: tuple[str, ...] = option(
        list_of(NAT64_PREFIX, "networks"),
        (),
        "IPv6 prefixes by which this network reaches IPv4, besides ``64:ff9b::/96``: addresses in them are "
        "private to redirects and realms, as nobody can tell where they lead",
    )
    fetchesperhost: int | None = option(
        COUNT,
        None,
        "downloads of blobs at once from one upstream host; further ones wait. ``limits.fetches`` bounds "
        "all hosts together",
        effect="reload",
    )
    scrub: float | None = option(
        DURATION,
        None,
        "each stored blob is hashed again about once in this time, ``720h`` for instance; a corrupt one is "
        "deleted and downloaded again",
        shown="off",
    )
    signing: Signing = Signing()
    fastpath: bool = by_hand(
        True,
        Option(
            "fastpath",
            one_of("auto", "off"),
            "with ``off`` everything is sent by stock Twisted: slower, and the same to see; to find out "
            "whether a fast path is at fault",
            "``auto``",
        ),
    )
    limits: Limits = by_hand(Limits(), Option("limits", MAPPING, "see `Limits`_", ""))
