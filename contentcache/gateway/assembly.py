"""
Everything that makes a gateway, built from a configuration, once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from attrs import frozen

from contentcache.config.model import Configuration, Gateway, Upstream
from contentcache.core.ports import Run
from contentcache.core.via import FAMILY
from contentcache.gateway.asking import AgentGet, AskedRegistry
from contentcache.gateway.authority import Authority
from contentcache.gateway.channel import GatewayFactory
from contentcache.gateway.choosing import Networks
from contentcache.gateway.connections import Connections
from contentcache.gateway.database import SqliteDirectory
from contentcache.gateway.desk import make_desk
from contentcache.gateway.fields import Rewriting
from contentcache.gateway.filling import Filling
from contentcache.gateway.front import Front, Halves
from contentcache.gateway.keys import KeyRing
from contentcache.gateway.liveness import Liveness
from contentcache.gateway.passing import Passing
from contentcache.gateway.probe import HttpProbe
from contentcache.gateway.redirecting import Redirecting
from contentcache.gateway.roster import Roster
from contentcache.meter import Meter
from contentcache.role import Reloading
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamTransport, way_to
from contentcache.upstream.proxies import Proxies
from contentcache.upstream.registry import Registry
from contentcache.upstream.slots import Slots
from contentcache.web.access_log import AccessLog


@frozen
class Parts:
    """
    What the daemon starts, stops and watches.
    """

    keys: KeyRing
    connections: Connections
    transport: UpstreamTransport
    reloading: tuple[Reloading, ...]
    factory: GatewayFactory
    directory: SqliteDirectory
    liveness: Liveness
    roster: Roster


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
    Build everything that serves clients. Opens the database, which may block.

    :raises DatabaseUnusable: the file of caches and choices is something else.
    :raises OSError: it cannot be opened.
    :raises ProxyFault: a proxy variable of the environment makes no sense.
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
    )
    keys = KeyRing(options.signingkey, life=options.keylifetime, url_life=options.urlttl, wall=time.time)
    passing = Passing(connections, rewriting, pseudonym=pseudonym, timer=reactor)
    directory = SqliteDirectory(options.database)
    liveness = Liveness(
        directory,
        HttpProbe(reactor, strangers),
        run=run,
        timer=reactor,
        wall=time.time,
        interval=options.checkinterval,
    )
    asking = AgentGet(transport.agent, reactor, patience=options.stalltimeout, limit=limits.token)
    desk = make_desk(
        directory,
        liveness,
        AskedRegistry(options.registry, asking, reactor, realms=options.realms),
        run=run,
        monotonic=reactor.seconds,
        wall=time.time,
        randomness=secrets.token_bytes,
        secret=secrets.token_bytes(64),
        secure=http_base(configuration, options).startswith("https:"),
        new_id=uuid4,
        networks=Networks.of(options.networks),
        admins=options.admins,
        admin_group=options.admingroup,
        auth_ttl=options.authttl,
    )
    redirecting = Redirecting(
        passing,
        desk.roster,
        keys.signer,
        rewriting,
        issuer=options.issuer,
        url_ttl=options.urlttl,
        minimum_size=options.minimumsize,
        wall=time.time,
    )
    filling = Filling(
        _registry(options, transport, reactor, meter),
        keys.key_set,
        issuer=options.issuer,
        pseudonym=pseudonym,
        wall=time.time,
    )
    authority = Authority(http.tls)
    front = Front(
        Halves(
            passing,
            redirecting,
            filling,
            keys,
            desk.resource,
            lambda: authority.pem,
        ),
        prefix=http.prefix,
        paths=options.paths,
        extra=http.headers,
        timer=reactor,
        patience=limits.clientstall,
        registry=options.registry,
    )
    access_log = AccessLog(meter, reactor, time.time, lines=configuration.log.accesslog)
    factory = GatewayFactory(front.begin, access_log, limits=limits, reactor=reactor, meter=meter)
    meter.watch("contentcache_connections", "Open connections", lambda: factory.connections)
    meter.watch_upstream(options.registry, lambda: connections.fault is None)
    _watch(meter, liveness)
    reloading: tuple[Reloading, ...] = (*{trust, strangers}, authority)
    return Parts(keys, connections, transport, reloading, factory, directory, liveness, desk.roster)


def _watch(meter: Meter, liveness: Liveness) -> None:
    def alive() -> int:
        return sum(state.alive for state in liveness.states.values())

    meter.watch("contentcache_gateway_caches", "Caches that were asked", lambda: len(liveness.states))
    meter.watch("contentcache_gateway_caches_alive", "Those of them that are alive", alive)


def http_base(configuration: Configuration, options: Gateway) -> str:
    """
    The URL by which clients know the gateway: ``http.host``, else the issuer.
    """
    host = configuration.http.host or options.issuer
    if "://" in host:
        return host
    return f"{'http' if configuration.http.tls is None else 'https'}://{host}"


def _registry(options: Gateway, transport: UpstreamTransport, reactor: Any, meter: Meter) -> Registry:
    """
    The registry behind, as the gateway's own account sees it.
    """
    upstream = Upstream(
        options.registry,
        (options.registry,),
        account=options.account,
        own=True,
        realms=options.realms,
        redirects=options.redirects,
    )
    return Registry(
        upstream,
        {options.registry: transport},
        reactor=reactor,
        wall=time.time,
        secret=secrets.token_bytes(64),
        stall_timeout=options.stalltimeout,
        token_limit=options.limits.token,
        slots=Slots(None),
        meter=meter,
    )
