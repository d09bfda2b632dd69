"""The one place where a cache is built from a configuration: upstreams, then delivery, then the server."""

from __future__ import annotations

from typing import Final

from attrs import frozen
from twisted.logger import Logger

from contentcache.app.gauges import watch_requests, watch_store
from contentcache.app.live_options import delivery_options_of, retention_of
from contentcache.app.maintenance import make_scrubber
from contentcache.app.role import Platform
from contentcache.app.upstreams import Upstreams, build_signed_urls, build_upstreams
from contentcache.auth.interfaces import LocalAuthenticator
from contentcache.config.model import Configuration, Downstream, HtpasswdAuth, TokenAuth
from contentcache.core.digest import Digest
from contentcache.core.grants import Grants
from contentcache.core.list_queries import ListQueries
from contentcache.core.live import Live
from contentcache.core.ports import Clock, Run, Timer
from contentcache.core.request_order import RequestClock
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.blob_service import BlobService
from contentcache.delivery.download_context import DeliveryPorts
from contentcache.delivery.downloads import download_semaphore
from contentcache.delivery.links import Links
from contentcache.delivery.origin_authorization import OriginAuthorization
from contentcache.delivery.origin_queries import OriginQueries
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.delivery.tags import TagService
from contentcache.registry.admission import Admission
from contentcache.registry.api import RegistryApi, RegistryDependencies
from contentcache.registry.fast_path import BlobFastPath
from contentcache.registry.fast_path_requests import TargetCache
from contentcache.registry.origin_selection import OriginSelector
from contentcache.registry.responses import ContentResponder
from contentcache.registry.setup_page import SetupPage
from contentcache.server.access_log import AccessLog
from contentcache.server.dispatcher import RequestDispatcher
from contentcache.server.exchange import Exchange
from contentcache.server.factory import ServerFactory
from contentcache.server.public_name import PublicName
from contentcache.server.request import RequestResponder
from contentcache.storage.evictor import Evictor
from contentcache.storage.figures import StoreFigures
from contentcache.storage.interfaces import BlobNames
from contentcache.storage.opening import Storage, own_file, read_or_make_secret
from contentcache.storage.scrub import Scrubber
from contentcache.telemetry.metrics import Meter

_log = Logger(namespace="contentcache")

#: Links cached in memory, and small blobs kept open.
_LINKS: Final = 10_000
_SMALL_BLOBS: Final = 512


@frozen
class CacheServices:
    """What the daemon starts, stops, reloads and checks."""

    storage: Storage
    upstreams: Upstreams
    authorization: Authorization
    links: Links
    blob_service: BlobService
    tags: TagService
    origin_queries: OriginQueries
    evictor: Evictor
    scrubber: Scrubber | None
    factory: ServerFactory


@frozen
class CacheContext:
    """What every part of a cache is built from."""

    live: Live[Configuration]
    platform: Platform
    storage: Storage
    meter: Meter
    other_workers: OtherWorkers

    @property
    def configuration(self) -> Configuration:
        """The configuration at the start."""
        return self.live.now

    @property
    def options(self) -> Downstream:
        """The options of the middleware ``downstream`` at the start."""
        return self.configuration.downstream


@frozen
class _Delivery:
    """What authorizes, downloads and stores."""

    grants: Grants
    links: Links
    authorization: Authorization
    evictor: Evictor
    blob_service: BlobService
    tags: TagService
    origin_queries: OriginQueries


def assemble(
    live: Live[Configuration],
    platform: Platform,
    *,
    storage: Storage,
    meter: Meter,
    other_workers: OtherWorkers,
) -> CacheServices:
    """
    Build everything that serves clients, or maintains the store.

    :raises ProxyFault: a proxy variable of the environment makes no sense.
    :raises AuthFault: a file of the section ``auth``, or that of ``signing.jwks``, cannot be used.
    :raises TLSConfigurationError: a certificate has become unreadable since the configuration was checked.
    """
    context = CacheContext(live, platform, storage, meter, other_workers)
    upstreams = build_upstreams(
        live.derive(lambda now: now.downstream), platform, secret=other_workers.secret, meter=meter
    )
    delivery = _delivery(context)
    factory = make_server(
        context,
        delivery.blob_service,
        delivery.tags,
        delivery.origin_queries,
        origins=OriginSelector(upstreams.registries),
        signed_urls=build_signed_urls(
            context.options,
            platform,
            upstreams.registries,
            pseudonym=other_workers.pseudonym,
            secret=other_workers.secret,
        ),
        authenticator=local_authenticator(
            context.configuration.auth,
            run=platform.run,
            wall=platform.wall,
            timer=platform.reactor,
            secret=other_workers.secret,
        ),
    )
    if other_workers.maintains_store:
        figures = StoreFigures(storage.store, storage.index, platform.run, platform.reactor)
        watch_store(meter, figures, lambda: live.now.downstream.maxsize)
    watch_requests(meter, factory, delivery.grants, delivery.blob_service.downloads, upstreams.registries)
    in_use = other_workers.in_use or delivery.blob_service.in_use
    return CacheServices(
        storage,
        upstreams,
        delivery.authorization,
        delivery.links,
        delivery.blob_service,
        delivery.tags,
        delivery.origin_queries,
        delivery.evictor,
        make_scrubber(live.now, platform, storage, in_use=in_use, checked=meter.store_verified),
        factory,
    )


def _delivery(context: CacheContext) -> _Delivery:
    options, platform, storage = context.options, context.platform, context.storage
    other_workers, limits = context.other_workers, options.limits
    delivery_options = context.live.derive(delivery_options_of)
    grants = Grants(ttl=0.0)
    semaphore = download_semaphore(limits.fetches, limits.fetchwait, platform.reactor)

    def use_limits(configuration: Configuration) -> None:
        options, limits = configuration.downstream, configuration.downstream.limits
        grants.configure(ttl=options.authttl, stale=options.staleiferror, capacity=limits.grants)
        semaphore.resize(limits.fetches, limits.fetchwait)

    context.live.follow(use_limits)
    links = Links(storage.index, platform.run, most=_LINKS if options.fastpath else 0)
    authorization = Authorization(
        grants,
        links,
        OriginAuthorization(platform.reactor, delivery_options),
        delivery_options,
        clock=platform.reactor,
        wall=platform.wall,
        request_time=RequestClock(platform.reactor.seconds),
        publish=other_workers.on_revoked,
    )
    evictor = Evictor(
        storage.store,
        storage.index,
        context.live.derive(retention_of),
        in_use=other_workers.in_use or (lambda digest: blob_service.in_use(digest)),  # noqa: PLW0108  # each needs the other
        run=platform.run,
        wall=platform.wall,
        monotonic=platform.reactor.seconds,
        evicted=lambda *blob: evicted(*blob),  # noqa: PLW0108  # each needs the other
    )
    blob_service = BlobService(
        authorization,
        storage.store,
        storage.index,
        room=other_workers.room or evictor,
        semaphore=semaphore,
        ports=DeliveryPorts(
            platform.run, platform.reactor, platform.wall, platform.random_below, context.meter
        ),
        options=delivery_options,
        most_hot_blobs=_SMALL_BLOBS if options.fastpath else 0,
        other_workers=other_workers,
    )

    def evicted(digest: Digest, size: int, reason: str, names: BlobNames) -> None:
        blob_service.hot_blobs.drop(digest)
        other_workers.on_evicted(digest)
        context.meter.evicted(size, reason)
        _log.info(
            "blob evicted",
            digest=digest,
            repository=names.repositories,
            tag=names.tags,
            bytes=size,
            reason=reason,
        )

    tags = TagService(
        authorization,
        blob_service,
        links,
        wall=platform.wall,
        options=delivery_options,
    )
    origin_queries = OriginQueries(authorization, platform.reactor, delivery_options)
    return _Delivery(grants, links, authorization, evictor, blob_service, tags, origin_queries)


def make_server(
    context: CacheContext,
    blob_service: BlobService,
    tags: TagService,
    origin_queries: OriginQueries,
    *,
    origins: OriginSelector,
    signed_urls: SignedUrls,
    authenticator: LocalAuthenticator | None,
) -> ServerFactory:
    """The registry API and its HTTP server over what delivers content."""
    configuration, options, platform = context.configuration, context.options, context.platform
    reactor, http = platform.reactor, configuration.http
    admission = Admission(
        origins, signed_urls, authenticator, authorizes=isinstance(configuration.auth, TokenAuth)
    )
    name = PublicName(http.host, "http" if http.tls is None else "https", http.trustedproxies)
    dependencies = RegistryDependencies(
        blob_service,
        tags,
        origin_queries,
        origins,
        signed_urls,
        admission,
        ContentResponder(lambda: platform.random_bytes(16).hex(), context.meter),
        ListQueries(_list_secret(configuration, platform)),
        name,
        SetupPage(platform.run, http.prefix.rstrip("/"), options.upstreams),
    )
    api = RegistryApi(
        dependencies,
        pseudonym=context.other_workers.pseudonym,
        prefix=http.prefix,
        meter=context.meter,
    )
    dispatcher = RequestDispatcher(
        api.answer, Exchange, timer=reactor, stall_timeout=options.limits.clientstall, program="cache"
    )
    access_log = AccessLog(
        context.meter,
        reactor,
        platform.wall,
        lines=configuration.log.accesslog,
        probes=configuration.log.accesslog_probes,
    )
    fast_path = None
    if options.fastpath:
        fast_path = BlobFastPath(
            blob_service.hot_blobs,
            TargetCache(origins, signed_urls, http.prefix),
            admission,
            access_log=access_log,
            timer=reactor,
            wall=platform.wall,
        )
    factory = ServerFactory(
        RequestResponder(dispatcher.dispatch, access_log),
        limits=options.limits,
        address_key=name.address_key,
        reactor=reactor,
        meter=context.meter,
        fast_path=fast_path,
        extra=http.headers,
    )
    context.meter.update_by(lambda: access_log.count_running(factory.running()))

    def use_options(configuration: Configuration) -> None:
        http, limits = configuration.http, configuration.downstream.limits
        origins.refresh()
        name.configure(http.host, http.trustedproxies)
        factory.configure(limits, http.headers)
        dispatcher.stall_timeout = limits.clientstall
        access_log.lines = configuration.log.accesslog
        access_log.probes = configuration.log.accesslog_probes
        if fast_path is not None:
            fast_path.configure(http.headers, limits.clientstall)

    context.live.follow(use_options)
    return factory


def _list_secret(configuration: Configuration, platform: Platform) -> bytes:
    """The key that authenticates queries of next pages, after a restart and in all workers too."""
    if configuration.storage.driver != "filesystem":
        return platform.random_bytes(32)
    return read_or_make_secret(own_file(configuration.storage, "lists.key"))


def local_authenticator(
    settings: TokenAuth | HtpasswdAuth | None, *, run: Run, wall: Clock, timer: Timer, secret: bytes
) -> LocalAuthenticator | None:
    """
    Build what the section ``auth`` asks for. Its files are read now, and from then on through ``run``.

    :raises AuthFault: they cannot be used.
    """
    # Imported here: without the section nothing of it is loaded. The daemon does so early.
    if isinstance(settings, HtpasswdAuth):
        from contentcache.auth.htpasswd import HtpasswdAuthenticator  # noqa: PLC0415

        return HtpasswdAuthenticator(settings, run=run, timer=timer, secret=secret)
    if isinstance(settings, TokenAuth):
        from contentcache.auth.tokens import TokenAuthenticator  # noqa: PLC0415

        return TokenAuthenticator(settings, run=run, wall=wall, timer=timer, secret=secret)
    return None
