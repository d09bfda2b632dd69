"""
The middleware ``downstream``, whose options make the daemon a cache.
"""

from __future__ import annotations

from typing import Any, Final

from contentcache.config.files import absolute_certificates, signing_keys
from contentcache.config.model import Downstream, Limits, Signing, Upstream
from contentcache.config.origins import Surroundings, read_upstreams
from contentcache.config.readers import (
    Reader,
    boolean,
    choice,
    duration,
    integer,
    listing,
    scalar,
    share,
    size,
)
from contentcache.config.tables import Item, Table
from contentcache.config.urls import base_url
from contentcache.core import durations

_POSITIVE = duration(zero=False)
_OR_ZERO = duration(zero=True)
_FASTPATH = choice(("auto", "off"))

#: How each field of ``limits`` is written.
LIMITS: Final[dict[str, Reader[int] | Reader[float]]] = {
    "manifest": size(zero=False),
    "token": size(zero=False),
    "headers": size(zero=False),
    "connections": integer(1),
    "connectionsperaddress": integer(1),
    "fetches": integer(1),
    "grants": integer(1),
    "fetchwait": _POSITIVE,
    "clientstall": _POSITIVE,
    "headertime": _POSITIVE,
    "idle": _POSITIVE,
}

#: Bounds of ``sweepinterval`` where it follows from ``blobttl``, in seconds.
SHORTEST_SWEEP: Final = 1.0
LONGEST_SWEEP: Final = 60.0


def read_options(item: Item, *, delete: bool, judging: bool) -> Downstream:
    """
    Read what stands beside the name.

    ``delete`` is ``storage.delete.enabled``, without which nothing may expire; ``judging`` says that there is
    a section ``auth``, so that clients are judged here.
    """
    entry = item.table()
    with entry.section("options") as options:
        blobttl = options.read("blobttl", _POSITIVE, None)
        _judge_blobttl(options, blobttl, delete=delete)
        signing = _read_signing(options)
        around = Surroundings(
            options.read("fallbacktoorigin", boolean, default=False), signing.issuer, judging=judging
        )
        upstreams = read_upstreams(options, around)
        _notice_surroundings(options, around, upstreams)
        _notice_plain_http(options, upstreams)
        return Downstream(
            upstreams=upstreams,
            blobttl=blobttl,
            cas=options.read("cas", listing(absolute_certificates), ()),
            authttl=options.read("authttl", _OR_ZERO, 60.0),
            affirmttl=options.read("affirmttl", _OR_ZERO, 86400.0),
            keepdeleted=options.read("keepdeleted", boolean, default=False),
            maxsize=options.read("maxsize", size(zero=False), None),
            sweepinterval=options.read("sweepinterval", _POSITIVE, _sweepinterval(blobttl)),
            minfree=options.read("minfree", size(zero=True), 1 << 30),
            staleiferror=options.read("staleiferror", _OR_ZERO, 0.0),
            stalltimeout=options.read("stalltimeout", _POSITIVE, 30.0),
            connecttimeout=options.read("connecttimeout", _POSITIVE, 10.0),
            fillafter=options.read("fillafter", share, 0.3),
            fetchesperhost=options.read("fetchesperhost", integer(1), None),
            scrub=options.read("scrub", _POSITIVE, None),
            signing=signing,
            fastpath=options.read("fastpath", _FASTPATH, "auto") == "auto",
            limits=read_limits(options),
        )


def _judge_blobttl(options: Table, blobttl: float | None, *, delete: bool) -> None:
    item = options.take("blobttl")
    if item is None:
        return
    if not delete:
        item.fault("needs storage.delete.enabled: true, since blobs are deleted when it is over")
    if blobttl is not None and blobttl < 1 and durations.is_bare(scalar(item).text):
        item.report.warn(item.place, f"{item.shown()} without a unit is nanoseconds; write e.g. 24h")


def _sweepinterval(blobttl: float | None) -> float:
    return LONGEST_SWEEP if blobttl is None else min(LONGEST_SWEEP, max(SHORTEST_SWEEP, blobttl / 4))


def _read_signing(options: Table) -> Signing:
    with options.section("signing") as signing:
        return Signing(signing.read("jwks", signing_keys, None), signing.read("issuer", base_url, None))


def _notice_surroundings(options: Table, around: Surroundings, upstreams: tuple[Upstream, ...]) -> None:
    if around.fallback and upstreams and not any(upstream.fallback for upstream in upstreams):
        options.warn(
            "fallbacktoorigin", "has no effect without upstreamhosts; a plain list needs signing.issuer"
        )
    if around.issuer and upstreams and around.issuer not in {upstream.issuer for upstream in upstreams}:
        options.section("signing").warn("issuer", "has no effect: originhost says who signs")


def _notice_plain_http(options: Table, upstreams: tuple[Upstream, ...]) -> None:
    urls = [url for each in upstreams for url in (*each.origin.split(), *each.hosts, each.fallback or "")]
    plain = list(dict.fromkeys(url for url in urls if url.startswith("http://")))
    if plain:
        options.warn(
            "upstreams", f"{', '.join(plain)}: over http anyone on the line reads what passes, tokens too"
        )
    for each in upstreams:
        hosts = (*each.hosts, each.fallback or "http:")
        secure = (each.issuer or "").startswith("https:")
        if (
            secure
            and not options.section("signing").has("jwks")
            and all(h.startswith("http:") for h in hosts)
        ):
            options.warn(
                "upstreams",
                f"signed URLs of {each.issuer} will be refused: its keys are not asked for over plain HTTP; "
                "give https URLs as upstreamhosts, or signing.jwks",
            )


def read_limits(options: Table) -> Limits:
    """
    Read the mapping ``limits``.
    """
    defaults = Limits()
    with options.section("limits") as table:
        given: dict[str, Any] = {
            name: table.read(name, reader, getattr(defaults, name)) for name, reader in LIMITS.items()
        }
    return Limits(**given)
