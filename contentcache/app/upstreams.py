"""The upstream registries of a cache, with their transports, and the keys of their signed URLs."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.app.role import Platform
from contentcache.config.model import Downstream, Upstream
from contentcache.core.live import Live
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.delivery.signing_keys import OriginSigningKeys, SigningKeys, SigningKeysFile
from contentcache.telemetry.metrics import Meter
from contentcache.tls.trust import UpstreamTrusts
from contentcache.upstream.account import AccountSource
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.credential_helper import CredentialHelperAccount
from contentcache.upstream.proxies import Proxies
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import UpstreamLimits


@frozen
class Upstreams:
    """All upstream registries; what is closed at the end; what is reloaded on ``SIGHUP``."""

    registries: tuple[Registry, ...]
    transports: tuple[UpstreamTransport, ...]
    trusts: UpstreamTrusts


def build_upstreams(live: Live[Downstream], platform: Platform, *, secret: bytes, meter: Meter) -> Upstreams:
    """
    Build the registries. None of them is contacted.

    :raises ProxyFault: a proxy variable of the environment makes no sense.
    :raises TLSConfigurationError: a certificate has become unreadable since the configuration was checked.
    """
    options = live.now
    proxies = Proxies.from_environment(platform.environ)
    trusts = UpstreamTrusts(options.cas)
    limits = live.derive(lambda now: UpstreamLimits(now.stalltimeout, now.limits.token))
    per_host: SemaphorePerKey[str] = SemaphorePerKey(None)
    connect_timeout = live.derive(lambda now: now.connecttimeout)
    transports = [
        _transports(upstream, options, platform, proxies, trusts, connect_timeout=connect_timeout)
        for upstream in options.upstreams
    ]
    registries = tuple(
        Registry(
            upstream,
            by_host,
            reactor=platform.reactor,
            wall=platform.wall,
            secret=secret,
            limits=limits,
            per_host=per_host,
            meter=meter,
            source=_account_source(upstream, platform),
        )
        for upstream, by_host in zip(options.upstreams, transports, strict=True)
    )

    def use_options(options: Downstream) -> None:
        per_host.resize(options.fetchesperhost)
        for registry, upstream in zip(registries, options.upstreams, strict=True):
            registry.configure(upstream)

    live.follow(use_options)
    return Upstreams(
        registries, tuple(transport for by_host in transports for transport in by_host.values()), trusts
    )


def _transports(
    upstream: Upstream,
    options: Downstream,
    platform: Platform,
    proxies: Proxies,
    trusts: UpstreamTrusts,
    *,
    connect_timeout: Live[float],
) -> Mapping[str, UpstreamTransport]:
    """The transport to each host of one upstream."""
    trust = trusts.trust(upstream.certificate, upstream.key)
    redirect_trust = trusts.trust()
    fallback = () if upstream.fallback is None else (upstream.fallback,)
    return {
        host: platform.transport_to(
            host,
            reactor=platform.reactor,
            trust=trust,
            redirect_trust=redirect_trust,
            proxies=proxies,
            connect_timeout=connect_timeout,
            redirects=upstream.redirects,
            nat64=options.nat64prefixes,
        )
        for host in (*upstream.hosts, *fallback)
    }


def _account_source(upstream: Upstream, platform: Platform) -> AccountSource | None:
    if upstream.credential_helper is None:
        return None
    return CredentialHelperAccount(
        upstream.credential_helper, upstream.origin, platform.environ, platform.reactor
    )


def build_signed_urls(
    options: Downstream,
    platform: Platform,
    registries: tuple[Registry, ...],
    *,
    pseudonym: str,
    secret: bytes,
) -> SignedUrls:
    """
    Build the verification of signed URLs, with the keys of ``signing.jwks`` or of each origin.

    :raises AuthFault: the file of ``signing.jwks`` cannot be used.
    """
    keys: dict[str, SigningKeys]
    if options.signing.jwks is not None:
        from_file = SigningKeysFile(options.signing.jwks, run=platform.run, timer=platform.reactor)
        keys = {registry.upstream.origin: from_file for registry in registries}
    else:
        keys = {
            registry.upstream.origin: OriginSigningKeys(registry, clock=platform.reactor, pseudonym=pseudonym)
            for registry in registries
            if registry.upstream.issuer is not None
        }
    return SignedUrls(keys, wall=platform.wall, secret=secret)
