"""Everything that makes a gateway, built from a configuration, once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.config.model import Configuration, Gateway, Upstream
from contentcache.core.ports import Run
from contentcache.core.via import FAMILY
from contentcache.gateway.authority import Authority
from contentcache.gateway.blob_authorization import BlobAuthorization
from contentcache.gateway.channel import GatewayFactory
from contentcache.gateway.connections import Connections
from contentcache.gateway.fields import Rewriting
from contentcache.gateway.filling import Filling
from contentcache.gateway.front import Front, Halves
from contentcache.gateway.keys import KeyFiles
from contentcache.gateway.passing import Passing
from contentcache.gateway.probe_blob import SignedProbe
from contentcache.gateway.reception import Reception, open_reception
from contentcache.gateway.redirect_target import FollowedTarget
from contentcache.gateway.redirecting import Redirecting
from contentcache.meter import Meter
from contentcache.role import Reloading
from contentcache.server.access_log import AccessLog
from contentcache.server.public_name import PublicName
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamTransport, way_to
from contentcache.upstream.proxies import Proxies
from contentcache.upstream.registry import Registry, UpstreamLimits


@frozen
class Parts:
    """What the daemon starts, stops and watches."""

    keys: KeyFiles
    connections: Connections
    transport: UpstreamTransport
    reception: Reception
    reloading: tuple[Reloading, ...]
    factory: GatewayFactory


def assemble(
    configuration: Configuration,
    options: Gateway,
    environ: Mapping[str, str],
    reactor: Any,
    *,
    run: Run,
    meter: Meter,
) -> Parts:
    """
    Build everything that serves clients.

    :raises ProxyFault: a proxy variable of the environment makes no sense.
    :raises DatabaseUnusable: the file of the database is something else.
    :raises OSError: it cannot be had.
    :raises TLSFault: a certificate has become unreadable since the configuration was checked.
    """
    limits, http = options.limits, configuration.http
    proxies = Proxies.from_environment(environ)
    trust = UpstreamTrust(options.cas, options.certificate, options.key)
    strangers = trust if options.certificate is None else UpstreamTrust(options.cas)
    pseudonym = FAMILY + secrets.token_hex(4)
    rewriting = Rewriting(options.registry, http_base(configuration, options), http.prefix.rstrip("/"))
    connections = Connections(
        options.registry,
        way_to(
            options.registry,
            reactor=reactor,
            trust=trust,
            proxies=proxies,
            connect_timeout=options.connecttimeout,
        ),
        timer=reactor,
        stall_timeout=options.stalltimeout,
        write_timeout=options.writetimeout,
        meter=meter,
    )
    transport = UpstreamTransport.to(
        options.registry,
        reactor=reactor,
        trust=trust,
        strangers=strangers,
        proxies=proxies,
        connect_timeout=options.connecttimeout,
        redirects=options.redirects,
        nat64=options.nat64prefixes,
    )
    keys = KeyFiles(options.signingkey, life=options.keylifetime, url_life=options.urlttl, wall=time.time)
    passing = Passing(connections, rewriting, pseudonym=pseudonym, timer=reactor)
    reception = open_reception(
        options,
        reactor,
        transport=transport,
        trust=strangers,
        probe=SignedProbe(keys.signer, issuer=options.issuer, wall=time.time),
        secure=rewriting.public.startswith("https:"),
        run=run,
        wall=time.time,
    )
    target = FollowedTarget(transport, options.registry, reactor, timeout=options.stalltimeout)
    redirecting = Redirecting(
        passing,
        BlobAuthorization(passing, target, rewriting),
        reception.desk.roster,
        keys.signer,
        issuer=options.issuer,
        url_ttl=options.urlttl,
        minimum_size=options.minimumsize,
        wall=time.time,
    )
    filling = Filling(
        _filler(options, transport, reactor, meter),
        keys.key_set,
        issuer=options.issuer,
        pseudonym=pseudonym,
        wall=time.time,
    )
    authority = Authority(http.tls)
    name = PublicName(http.host, rewriting.public.partition("://")[0], http.trustedproxies)
    front = Front(
        Halves(
            passing,
            redirecting,
            filling,
            keys,
            reception.desk.resource,
            lambda: authority.pem,
        ),
        prefix=http.prefix,
        paths=options.paths,
        timer=reactor,
        patience=limits.clientstall,
        registry=options.registry,
        name=name,
    )
    access_log = AccessLog(meter, reactor, time.time, lines=configuration.log.accesslog)
    factory = GatewayFactory(
        front.begin,
        access_log,
        limits=limits,
        counted=name.counted,
        reactor=reactor,
        meter=meter,
        extra=http.headers,
    )
    meter.watch("contentcache_connections", "Open connections", lambda: factory.connections)
    states = reception.liveness
    meter.watch("contentcache_gateway_caches", "Caches that were asked", lambda: len(states.states))
    meter.watch(
        "contentcache_gateway_caches_alive",
        "Those of them that clients can be sent to",
        lambda: sum(state.alive for state in states.states.values()),
    )
    meter.watch_upstream(options.registry, lambda: connections.fault is None)
    return Parts(keys, connections, transport, reception, (*{trust, strangers}, authority), factory)


def http_base(configuration: Configuration, options: Gateway) -> str:
    """The URL by which clients know the gateway: ``http.host``, else the issuer."""
    host = configuration.http.host or options.issuer
    if "://" in host:
        return host
    return f"{'http' if configuration.http.tls is None else 'https'}://{host}"


def _filler(options: Gateway, transport: UpstreamTransport, reactor: Any, meter: Meter) -> Registry:
    """The registry as the gateway's own account sees it."""
    upstream = Upstream(
        options.registry,
        (options.registry,),
        account=options.account,
        public=True,
        realms=options.realms,
        redirects=options.redirects,
    )
    return Registry(
        upstream,
        {options.registry: transport},
        reactor=reactor,
        wall=time.time,
        secret=secrets.token_bytes(64),
        limits=UpstreamLimits(options.stalltimeout, options.limits.token, SemaphorePerKey(None)),
        meter=meter,
    )
