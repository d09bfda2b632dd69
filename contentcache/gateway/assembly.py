"""Builds everything that makes a gateway from a configuration, once."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from attrs import frozen
from twisted.logger import Logger

from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.aio.reactor import DaemonReactor
from contentcache.config.model import Configuration, Gateway, Upstream
from contentcache.core.ports import Run
from contentcache.core.via import FAMILY
from contentcache.gateway.admin.page_frame import PageFrame
from contentcache.gateway.admin.sessions import Sessions
from contentcache.gateway.admin.site import AdminSite
from contentcache.gateway.authentication import Authenticator
from contentcache.gateway.blob_authorization import BlobAuthorization, RedirectTarget
from contentcache.gateway.blob_redirector import BlobRedirector
from contentcache.gateway.cache_directory import CacheDirectory, NetworkDefaults
from contentcache.gateway.channel import GatewayExchange, GatewayFactory
from contentcache.gateway.connection_pool import ConnectionPool
from contentcache.gateway.header_rewriting import HeaderRewriter
from contentcache.gateway.keys import KeyFiles
from contentcache.gateway.liveness import Liveness
from contentcache.gateway.probe import HttpProbe, ProbeSigner
from contentcache.gateway.registry_login import BoundedGet, RegistryLogin
from contentcache.gateway.reverse_proxy import ReverseProxy
from contentcache.gateway.router import CACertificate, Router, Routes
from contentcache.gateway.signed_blobs import SignedBlobs
from contentcache.gateway.sqlite_directory import SqliteDirectory
from contentcache.server.access_log import AccessLog
from contentcache.server.dispatcher import RequestDispatcher
from contentcache.server.public_name import PublicName
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import Reloadable
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamTransport, endpoint_of
from contentcache.upstream.proxies import Proxies
from contentcache.upstream.registry import Registry, UpstreamLimits

_SECRET_BYTES: Final = 64
_log = Logger()


@frozen
class GatewayServices:
    """What the daemon starts, stops and watches."""

    keys: KeyFiles
    connections: ConnectionPool
    transport: UpstreamTransport
    store: SqliteDirectory
    liveness: Liveness
    reloading: tuple[Reloadable, ...]
    factory: GatewayFactory


@frozen
class _Context:
    """What most parts are built from."""

    options: Gateway
    reactor: DaemonReactor
    run: Run
    meter: Meter

    def connections(self, proxies: Proxies, trust: UpstreamTrust) -> ConnectionPool:
        """The connections of the reverse proxy."""
        options = self.options
        endpoint = endpoint_of(
            options.registry,
            reactor=self.reactor,
            trust=trust,
            proxies=proxies,
            connect_timeout=options.connecttimeout,
        )
        return ConnectionPool(
            options.registry,
            endpoint,
            timer=self.reactor,
            stall_timeout=options.stalltimeout,
            write_timeout=options.writetimeout,
            meter=self.meter,
        )

    def store(self) -> SqliteDirectory:
        """The opened database of the cache directory."""
        store = SqliteDirectory(self.options.database)
        if store.read_only is not None:
            _log.warn("gateway database read-only", path=self.options.database, reason=store.read_only)
        return store

    def liveness(self, store: SqliteDirectory, keys: KeyFiles, trust: UpstreamTrust) -> Liveness:
        """The probes of the caches."""
        signer = ProbeSigner(keys.signer, issuer=self.options.issuer, wall=time.time)
        policy: Any = trust  # IPolicyForHTTPS, as zope knows and mypy does not
        return Liveness(
            store,
            HttpProbe(self.reactor, policy, signer.target),
            run=self.run,
            timer=self.reactor,
            wall=time.time,
            interval=self.options.checkinterval,
        )

    def own_registry(self, transport: UpstreamTransport) -> Registry:
        """The registry by the gateway's own account."""
        options = self.options
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
            reactor=self.reactor,
            wall=time.time,
            secret=secrets.token_bytes(_SECRET_BYTES),
            limits=UpstreamLimits(options.stalltimeout, options.limits.token, SemaphorePerKey(None)),
            meter=self.meter,
        )

    def admin_site(
        self, store: SqliteDirectory, directory: CacheDirectory, transport: UpstreamTransport, *, secure: bool
    ) -> AdminSite:
        """The admin site; ``secure`` says that browsers come over TLS."""
        options, seconds = self.options, self.reactor.seconds
        secret = secrets.token_bytes(_SECRET_BYTES)
        limit = options.limits.token
        get = BoundedGet(transport.agent, self.reactor, timeout=options.stalltimeout, limit=limit)
        authenticator = Authenticator(
            RegistryLogin(options.registry, get, self.reactor, realms=options.realms),
            store,
            run=self.run,
            monotonic=seconds,
            wall=time.time,
            secret=secret,
            admins=options.admins,
            admin_group=options.admingroup,
            ttl=options.authttl,
        )
        sessions = Sessions(secret=secret, randomness=os.urandom)
        return AdminSite(authenticator, directory, PageFrame.load(sessions, seconds, secure=secure))


def assemble(
    configuration: Configuration,
    options: Gateway,
    environ: Mapping[str, str],
    reactor: DaemonReactor,
    *,
    run: Run,
    meter: Meter,
) -> GatewayServices:
    """
    Build everything that serves clients. Blocks: it opens the database and reads the pages' files.

    :raises ProxyFault: a proxy variable of the environment is invalid.
    :raises DatabaseUnusable: the file of the database is something else.
    :raises OSError: it cannot be opened.
    :raises TLSConfigurationError: a certificate has become unreadable since the configuration was checked.
    """
    http = configuration.http
    context = _Context(options, reactor, run, meter)
    proxies = Proxies.from_environment(environ)
    trust = UpstreamTrust(options.cas, options.certificate, options.key)
    # For caches and storages: the client certificate is for the registry only.
    public_trust = trust if options.certificate is None else UpstreamTrust(options.cas)
    public = public_url(configuration, options)
    pseudonym = FAMILY + secrets.token_hex(4)
    connections = context.connections(proxies, trust)
    transport = UpstreamTransport.to(
        options.registry,
        reactor=reactor,
        trust=trust,
        redirect_trust=public_trust,
        proxies=proxies,
        connect_timeout=options.connecttimeout,
        redirects=options.redirects,
        nat64=options.nat64prefixes,
    )
    keys = KeyFiles(
        options.signingkey, lifetime=options.keylifetime, url_lifetime=options.urlttl, wall=time.time
    )
    rewriter = HeaderRewriter(options.registry, public, http.prefix.rstrip("/"))
    proxy = ReverseProxy(connections, rewriter, pseudonym=pseudonym, timer=reactor)
    store = context.store()
    liveness = context.liveness(store, keys, public_trust)
    directory = CacheDirectory(
        store, liveness, run=run, new_id=uuid4, networks=NetworkDefaults.of(options.networks)
    )
    target = RedirectTarget(transport, options.registry, reactor, timeout=options.stalltimeout)
    redirector = BlobRedirector(
        proxy,
        BlobAuthorization(proxy, target, rewriter),
        directory,
        keys.signer,
        issuer=options.issuer,
        url_ttl=options.urlttl,
        minimum_size=options.minimumsize,
        wall=time.time,
    )
    signed_blobs = SignedBlobs(
        context.own_registry(transport),
        keys.key_set,
        issuer=options.issuer,
        pseudonym=pseudonym,
        wall=time.time,
    )
    admin_site = context.admin_site(store, directory, transport, secure=public.startswith("https:"))
    ca = CACertificate(http.tls)
    name = PublicName(http.host, public.partition("://")[0], http.trustedproxies)
    router = Router(
        Routes(proxy, redirector, signed_blobs, keys, admin_site, ca),
        prefix=http.prefix,
        paths=options.paths,
        registry=options.registry,
        name=name,
    )
    stall_timeout = options.limits.clientstall
    dispatcher = RequestDispatcher(
        router.answer, GatewayExchange, timer=reactor, stall_timeout=stall_timeout, program="gateway"
    )
    factory = GatewayFactory(
        dispatcher.dispatch,
        AccessLog(meter, reactor, time.time, lines=configuration.log.accesslog),
        limits=options.limits,
        address_key=name.address_key,
        reactor=reactor,
        meter=meter,
        extra=http.headers,
    )
    _register_metrics(meter, factory, liveness)
    meter.watch_upstream(options.registry, lambda: connections.fault is None)
    reloading: tuple[Reloadable, ...] = (*{trust, public_trust}, ca)
    return GatewayServices(keys, connections, transport, store, liveness, reloading, factory)


def public_url(configuration: Configuration, options: Gateway) -> str:
    """The URL by which clients know the gateway: ``http.host``, else the issuer."""
    host = configuration.http.host or options.issuer
    if "://" in host:
        return host
    return f"{'http' if configuration.http.tls is None else 'https'}://{host}"


def _register_metrics(meter: Meter, factory: GatewayFactory, liveness: Liveness) -> None:
    meter.watch("contentcache_connections", "Open connections", lambda: factory.connections)
    meter.watch_caches(liveness.health)
