"""The middleware ``downstream``, whose options make the daemon a cache."""

from __future__ import annotations

from typing import Final

from contentcache.config.model import Downstream, Limits, Signing, TokenAuth, Upstream
from contentcache.config.origins import OriginDefaults, read_upstreams
from contentcache.config.readers import (
    boolean,
    scalar,
)
from contentcache.config.reading import read_key, read_values
from contentcache.config.sections import Auth
from contentcache.config.tables import Item, Table
from contentcache.core import durations

#: Bounds of the default of ``sweepinterval``, in seconds, which depends on ``blobttl``.
SHORTEST_SWEEP: Final = 1.0
LONGEST_SWEEP: Final = 60.0


def read_downstream(item: Item, *, delete: bool, auth: Auth | None) -> Downstream:
    """
    Read the options of a cache.

    ``delete`` is ``storage.delete.enabled``, without which nothing may expire; ``auth`` is the section that
    authenticates clients here.
    """
    entry = item.table()
    with entry.section("options") as options:
        blobttl = read_key(options, Downstream, "blobttl")
        _check_blobttl(options, blobttl, delete=delete)
        signing = _read_signing(options)
        defaults = OriginDefaults(
            options.read("fallbacktoorigin", boolean, default=False),
            signing.issuer,
            local_auth=auth is not None,
            tokens=isinstance(auth, TokenAuth),
        )
        upstreams = read_upstreams(options, defaults)
        _warn_of_unused(options, defaults, upstreams)
        _warn_of_plain_http(options, upstreams)
        return read_values(
            options,
            Downstream,
            upstreams=upstreams,
            blobttl=blobttl,
            sweepinterval=read_key(options, Downstream, "sweepinterval", _sweepinterval(blobttl)),
            signing=signing,
            fastpath=read_key(options, Downstream, "fastpath", "auto") == "auto",
            limits=_read_limits(options),
        )


def _check_blobttl(options: Table, blobttl: float | None, *, delete: bool) -> None:
    item = options.get("blobttl")
    if item is None:
        return
    if not delete:
        item.fault("needs storage.delete.enabled: true, since blobs are deleted when it is over")
    if blobttl is not None and blobttl < 1 and durations.is_bare(scalar(item).text):
        item.report.warn(item.position, f"{item.described()} without a unit is nanoseconds; write e.g. 24h")


def _sweepinterval(blobttl: float | None) -> float:
    return LONGEST_SWEEP if blobttl is None else min(LONGEST_SWEEP, max(SHORTEST_SWEEP, blobttl / 4))


def _read_signing(options: Table) -> Signing:
    with options.section("signing") as signing:
        return read_values(signing, Signing)


def _warn_of_unused(options: Table, defaults: OriginDefaults, upstreams: tuple[Upstream, ...]) -> None:
    if defaults.fallback and upstreams and not any(upstream.fallback for upstream in upstreams):
        options.warn(
            "fallbacktoorigin", "has no effect without upstreamhosts; a plain list needs signing.issuer"
        )
    if defaults.issuer and upstreams and defaults.issuer not in {upstream.issuer for upstream in upstreams}:
        options.section("signing").warn("issuer", "has no effect: originhost says who signs")


def _warn_of_plain_http(options: Table, upstreams: tuple[Upstream, ...]) -> None:
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


def _read_limits(options: Table) -> Limits:
    """Read the mapping ``limits``."""
    with options.section("limits") as table:
        return read_values(table, Limits)
