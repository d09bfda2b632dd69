"""Builds everything that makes a gateway from a configuration, once."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from attrs import frozen
from twisted.logger import Logger
from twisted.web.resource import Resource

from contentcache.app.role import Platform
from contentcache.config.model import Configuration, Gateway, Upstream
from contentcache.core.live import Live
from contentcache.core.via import FAMILY
from contentcache.gateway.admin.page_frame import PageFrame
from contentcache.gateway.admin.sessions import Sessions
from contentcache.gateway.admin.site import AdminSite
from contentcache.gateway.authentication import AccountPolicy, Authenticator
from contentcache.gateway.blob_authorization import BlobAuthorization, RedirectTarget
from contentcache.gateway.blob_redirector import BlobRedirector, RedirectOptions
from contentcache.gateway.cache_directory import CacheDirectory, NetworkDefaults
from contentcache.gateway.connection_pool import ConnectionPool
from contentcache.gateway.database import SqliteDirectory
from contentcache.gateway.exchange import (
    GatewayExchange,
    GatewayRequest,
    ProxiedBodyReader,
    check_proxied_head,
)
from contentcache.gateway.header_rewriting import HeaderRewriter
from contentcache.gateway.keys import KeyFiles
from contentcache.gateway.liveness import Liveness
from contentcache.gateway.probe import HttpProbe, ProbeSigner
from contentcache.gateway.registry_login import BoundedGet, RegistryLogin
from contentcache.gateway.reverse_proxy import ReverseProxy
from contentcache.gateway.router import CACertificate, Router, Routes
from contentcache.gateway.signed_blobs import SignedBlobs
from contentcache.server.access_log import AccessLog
from contentcache.server.dispatcher import RequestDispatcher
from contentcache.server.factory import ServerFactory
from contentcache.server.public_name import PublicName
from contentcache.server.request import RequestResponder
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import Reloadable
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamTransport, endpoint_of
from contentcache.upstream.proxies import Proxies
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import UpstreamLimits

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
    factory: ServerFactory


@frozen
class GatewayContext:
    """What every part of a gateway is built from."""

    live: Live[Configuration]
    platform: Platform
    meter: Meter

    @property
    def configuration(self) -> Configuration:
        """The configuration at the start."""
        return self.live.now

    @property
    def options(self) -> Gateway:
        """The options of the middleware ``redirect`` at the start."""
        return _gateway(self.live.now)

    @property
    def public_url(self) -> str:
        """The URL by which clients know the gateway: ``http.host``, else the issuer."""
        http = self.configuration.http
        host = http.host or self.options.issuer
        return host if "://" in host else f"{'http' if http.tls is None else 'https'}://{host}"


@frozen
class Backends:
    """What the server answers requests from."""

    connections: ConnectionPool
    own_registry: Registry
    target: RedirectTarget
    directory: CacheDirectory
    keys: KeyFiles
    admin_site: Resource
    ca: CACertificate


def assemble(live: Live[Configuration], platform: Platform, *, meter: Meter) -> GatewayServices:
    """
    Build everything that serves clients. Blocks: it opens the database and reads the pages' files.

    :raises ProxyFault: a proxy variable of the environment is invalid.
    :raises DatabaseUnusableError: the file of the database is something else.
    :raises OSError: it cannot be opened.
    :raises TLSConfigurationError: a certificate has become unreadable since the configuration was checked.
    """
    context = GatewayContext(live, platform, meter)
    options = context.options
    proxies = Proxies.from_environment(platform.environ)
    trust = UpstreamTrust(options.cas, options.certificate, options.key)
    # For caches and storages: the client certificate is for the registry only.
    public_trust = trust if options.certificate is None else UpstreamTrust(options.cas)
    connections = _connections(context, proxies, trust)
    transport = platform.transport_to(
        options.registry,
        reactor=platform.reactor,
        trust=trust,
        redirect_trust=public_trust,
        proxies=proxies,
        connect_timeout=Live(options.connecttimeout),
        redirects=options.redirects,
        nat64=options.nat64prefixes,
    )
    keys = KeyFiles(
        options.signingkey, lifetime=options.keylifetime, url_lifetime=options.urlttl, wall=platform.wall
    )
    store = _store(options)
    liveness = _liveness(context, store, keys, public_trust)
    directory = CacheDirectory(
        store,
        liveness,
        run=platform.run,
        new_id=lambda: UUID(bytes=platform.random_bytes(16), version=4),
        networks=live.derive(lambda now: NetworkDefaults.of(_gateway(now).networks)),
    )
    ca = CACertificate(live.now.http.tls)
    backends = Backends(
        connections,
        _own_registry(context, transport),
        RedirectTarget(transport, options.registry, platform.reactor, timeout=options.stalltimeout),
        directory,
        keys,
        _admin_site(context, store, directory, transport),
        ca,
    )
    factory = make_server(context, backends)
    meter.watch("connections", lambda: factory.connections)
    meter.watch_registry(options.registry)
    meter.watch_caches(liveness.health)
    meter.watch_registry(options.registry)
    meter.watch_upstream(
        options.registry,
        lambda: connections.health.healthy,
        lambda: connections.health.last_success or 0.0,
    )
    reloading: tuple[Reloadable, ...] = (*{trust, public_trust}, ca)
    return GatewayServices(keys, connections, transport, store, liveness, reloading, factory)


def make_server(context: GatewayContext, backends: Backends) -> ServerFactory:
    """Build what answers clients."""
    configuration, options, platform = context.configuration, context.options, context.platform
    http, keys = configuration.http, backends.keys
    pseudonym = FAMILY + platform.random_bytes(4).hex()
    rewriter = HeaderRewriter(options.registry, context.public_url, http.prefix.rstrip("/"))
    proxy = ReverseProxy(backends.connections, rewriter, pseudonym=pseudonym, timer=platform.reactor)
    redirector = BlobRedirector(
        proxy,
        BlobAuthorization(proxy, backends.target, rewriter),
        backends.directory,
        keys.signer,
        options=context.live.derive(_redirect_options),
        wall=platform.wall,
        meter=context.meter,
    )
    signed_blobs = SignedBlobs(
        backends.own_registry, keys.key_set, issuer=options.issuer, pseudonym=pseudonym, wall=platform.wall
    )
    name = PublicName(http.host, context.public_url.partition("://")[0], http.trustedproxies)
    router = Router(
        Routes(proxy, redirector, signed_blobs, keys, backends.admin_site, backends.ca),
        prefix=http.prefix,
        paths=options.paths,
        registry=options.registry,
        name=name,
    )
    dispatcher = RequestDispatcher(
        router.answer,
        GatewayExchange,
        timer=platform.reactor,
        stall_timeout=options.limits.clientstall,
        program="gateway",
    )
    access_log = AccessLog(
        context.meter,
        platform.reactor,
        platform.wall,
        lines=configuration.log.accesslog,
        probes=configuration.log.accesslog_probes,
    )
    factory = ServerFactory(
        RequestResponder(
            dispatcher.dispatch, access_log, GatewayRequest, check_proxied_head, ProxiedBodyReader.open
        ),
        limits=options.limits,
        address_key=name.address_key,
        reactor=platform.reactor,
        meter=context.meter,
        extra=http.headers,
    )
    context.meter.update_by(lambda: access_log.count_running(factory.running()))

    def use_options(configuration: Configuration) -> None:
        http, limits = configuration.http, configuration.middleware.limits
        name.configure(http.host, http.trustedproxies)
        factory.configure(limits, http.headers)
        dispatcher.stall_timeout = limits.clientstall
        access_log.lines = configuration.log.accesslog
        access_log.probes = configuration.log.accesslog_probes

    context.live.follow(use_options)
    return factory


def _redirect_options(configuration: Configuration) -> RedirectOptions:
    options = _gateway(configuration)
    return RedirectOptions(options.issuer, options.urlttl, options.minimumsize)


def _gateway(configuration: Configuration) -> Gateway:
    assert isinstance(configuration.middleware, Gateway)  # noqa: S101  # a reload changes no role
    return configuration.middleware


def _connections(context: GatewayContext, proxies: Proxies, trust: UpstreamTrust) -> ConnectionPool:
    options, reactor = context.options, context.platform.reactor
    endpoint = endpoint_of(
        options.registry,
        reactor=reactor,
        trust=trust,
        proxies=proxies,
        connect_timeout=Live(options.connecttimeout),
    )
    return ConnectionPool(
        options.registry,
        endpoint,
        timer=reactor,
        wall=context.platform.wall,
        stall_timeout=options.stalltimeout,
        write_timeout=options.writetimeout,
        meter=context.meter,
    )


def _store(options: Gateway) -> SqliteDirectory:
    store = SqliteDirectory(options.database)
    if store.read_only is not None:
        _log.warn("gateway database read-only", path=options.database, reason=store.read_only)
    return store


def _liveness(
    context: GatewayContext, store: SqliteDirectory, keys: KeyFiles, trust: UpstreamTrust
) -> Liveness:
    options, platform = context.options, context.platform
    signer = ProbeSigner(keys.signer, issuer=options.issuer, wall=platform.wall)
    policy: Any = trust  # IPolicyForHTTPS, as zope knows and mypy does not
    return Liveness(
        store,
        HttpProbe(platform.reactor, policy, signer.target),
        run=platform.run,
        timer=platform.reactor,
        wall=platform.wall,
        interval=options.checkinterval,
    )


def _own_registry(context: GatewayContext, transport: UpstreamTransport) -> Registry:
    """The registry by the gateway's own account."""
    options, platform = context.options, context.platform
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
        reactor=platform.reactor,
        wall=platform.wall,
        secret=platform.random_bytes(_SECRET_BYTES),
        limits=context.live.derive(
            lambda now: UpstreamLimits(_gateway(now).stalltimeout, _gateway(now).limits.token)
        ),
        meter=context.meter,
    )


def _admin_site(
    context: GatewayContext, store: SqliteDirectory, directory: CacheDirectory, transport: UpstreamTransport
) -> AdminSite:
    options, platform = context.options, context.platform
    reactor, secret = platform.reactor, platform.random_bytes(_SECRET_BYTES)
    token_limit = context.live.derive(lambda now: now.middleware.limits.token)
    get = BoundedGet(transport.agent, reactor, timeout=options.stalltimeout, limit=token_limit)
    authenticator = Authenticator(
        RegistryLogin(options.registry, get, reactor, realms=options.realms),
        store,
        context.live.derive(
            lambda now: AccountPolicy(_gateway(now).admins, _gateway(now).admingroup, _gateway(now).authttl)
        ),
        run=platform.run,
        monotonic=reactor.seconds,
        wall=platform.wall,
        secret=secret,
        randomness=platform.random_bytes,
    )
    sessions = Sessions(secret=secret, randomness=platform.random_bytes)
    is_secure = context.public_url.startswith("https:")
    return AdminSite(authenticator, directory, PageFrame.load(sessions, reactor.seconds, secure=is_secure))
