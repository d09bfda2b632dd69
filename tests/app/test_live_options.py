"""Every key that takes effect without a restart does so, in what is built from it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from attrs import evolve, frozen
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.threads import at_once
from contentcache.app import gateway_assembly
from contentcache.app.role import Platform
from contentcache.config.model import (
    Account,
    Address,
    Configuration,
    Downstream,
    Gateway,
    Http,
    Limits,
    Log,
    ServerTLS,
    Upstream,
)
from contentcache.config.schema.options import described
from contentcache.core.errors import OriginUnknown
from contentcache.core.live import Live
from contentcache.core.routes import Content
from contentcache.gateway.authentication import AccountPolicy, Authenticator
from contentcache.telemetry.logging import log_observer
from contentcache.telemetry.metrics import Meter
from contentcache.tls.server import ServerContext
from contentcache.upstream import agent
from tests.delivery.in_memory import LARGE, ORIGIN, REPOSITORY, InMemoryCache, InMemoryCacheTestCase
from tests.tls.certificates import make

Probe = Callable[[InMemoryCache], Any]


@frozen
class Effect:
    """A new value of a key, where it is seen, and what is seen there then."""

    value: Any
    probe: Probe
    seen: Any = None

    @property
    def expected(self) -> Any:
        """What is seen once it has taken effect."""
        return self.value if self.seen is None else self.seen


def _delivery(name: str) -> Probe:
    return lambda cache: getattr(cache.blob_service._options.now, name)


def _limit(name: str) -> Probe:
    return lambda cache: getattr(cache.services.factory.limits, name)


def _retention(name: str) -> Probe:
    return lambda cache: getattr(cache.services.evictor._retention.now, name)


def _upstream(name: str) -> Probe:
    return lambda cache: getattr(cache.registries[0].upstream, name)


def _semaphore(cache: InMemoryCache) -> Any:
    return cache.blob_service.downloads._semaphore


def _selected(cache: InMemoryCache, *, name: str | None, host: str) -> bool:
    """Whether the second origin is selected."""
    route = Content(REPOSITORY, "blobs", cache.origin.put_blob(REPOSITORY, LARGE))
    origins = cache.services.factory.fast_path._targets._origins  # type: ignore[union-attr]
    try:
        return origins.select(route, name, host).registry is cache.registries[1]
    except OriginUnknown:
        return False


def _base(cache: InMemoryCache) -> str:
    name = cast("Any", cache.services.factory._address_key).__self__
    return str(name.caller("192.0.2.1", "asked.example").base)


LIMITS: Final[dict[str, Effect]] = {
    "manifest": Effect(77, _delivery("manifest_limit")),
    "token": Effect(77, lambda cache: cache.registries[0].client._limits.now.token_limit),
    "headers": Effect(77, _limit("headers")),
    "connections": Effect(77, _limit("connections")),
    "connectionsperaddress": Effect(77, _limit("connectionsperaddress")),
    "headsperaddress": Effect(77, _limit("headsperaddress")),
    "fetches": Effect(77, lambda cache: _semaphore(cache)._limit),
    "fetchwait": Effect(77.0, lambda cache: _semaphore(cache)._timeout),
    "grants": Effect(77, lambda cache: cache.authorization._grants._grants.capacity),
    "clientstall": Effect(77.0, lambda cache: cache.services.factory.fast_path._stall_timeout),  # type: ignore[union-attr]
    "headertime": Effect(77.0, _limit("headertime")),
    "idle": Effect(77.0, _limit("idle")),
}
OPTIONS: Final[dict[str, Effect]] = {
    "blobttl": Effect(77.0, _retention("blobttl")),
    "maxsize": Effect(77, _retention("maxsize")),
    "minfree": Effect(77, _retention("minfree"), 0),  # in memory there is no disk
    "sweepinterval": Effect(77.0, _retention("sweepinterval")),
    "authttl": Effect(77.0, lambda cache: cache.authorization._grants._ttl),
    "affirmttl": Effect(77.0, lambda cache: cache.authorization._affirm_ttl),
    "keepdeleted": Effect(True, _delivery("keep_deleted")),
    "staleiferror": Effect(77.0, lambda cache: cache.tags._options.now.stale_if_error),
    "fillafter": Effect(0.77, _delivery("fill_after")),
    "stalltimeout": Effect(77.0, lambda cache: cache.registries[0].client._limits.now.stall_timeout),
    "connecttimeout": Effect(77.0, lambda cache: cast("Any", cache).connect_timeout.now),
    "retryfor": Effect(77.0, _delivery("retry_for")),
    "fetchesperhost": Effect(77, lambda cache: cache.registries[0]._per_host._limit),
}
UPSTREAM: Final[dict[str, Effect]] = {
    "names": Effect(frozenset({"x.example"}), lambda c: _selected(c, name="x.example", host=""), True),
    "served": Effect(frozenset({"x.example"}), lambda c: _selected(c, name=None, host="x.example"), True),
    "account": Effect(Account("x", "y"), lambda c: cast("Any", c.registries[1].client._account)._fixed),
    "realms": Effect(("x.example",), lambda c: cast("Any", c.registries[1].client._account)._realms),
    "allow": Effect(("x/**",), lambda c: c.registries[1].upstream.allow),
    "deny": Effect(("x/**",), lambda c: c.registries[1].upstream.deny),
    "immutabletags": Effect("v*", lambda c: c.registries[1].upstream.immutabletags),
}
HTTP: Final[dict[str, Effect]] = {
    "host": Effect("x.example", _base, "http://x.example"),
    "trustedproxies": Effect(("192.0.2.0/24",), lambda c: c.services.factory._address_key("192.0.2.9"), ""),
    "headers": Effect({"X-A": ("b",)}, lambda c: c.services.factory.extra),
}


def live_fields(model: type[Any]) -> set[str]:
    """The fields whose keys are all live."""
    live = {each.field for each in described(model) if each.option.effect == "reload"}
    return live - {each.field for each in described(model) if each.option.effect != "reload"}


class CacheOptionsTests(InMemoryCacheTestCase):
    """An assembled cache whose configuration is replaced."""

    def setUp(self) -> None:
        """Two origins."""
        second = Upstream("https://two.example", ("https://two.example",), public=True)
        self.cache = self.make_cache(Upstream(ORIGIN, (ORIGIN,)), second)
        original = self.cache._transport_to

        def remembering(url: str, **options: Any) -> Any:
            cast("Any", self.cache).connect_timeout = options["connect_timeout"]
            return original(url, **options)

        self.cache._transport_to = remembering
        self.cache.furnish()

    def check(
        self, effects: dict[str, Effect], model: type[Any], change: Callable[[str, Any], Configuration]
    ) -> None:
        """Each live key of ``model`` is seen where it is used, and not before."""
        self.assertEqual(set(effects), live_fields(model))
        for name, effect in effects.items():
            with self.subTest(key=name):
                before = effect.probe(self.cache)
                self.cache.live.replace(change(name, effect.value))
                self.assertEqual(effect.probe(self.cache), effect.expected, name)
                if name != "minfree":
                    self.assertNotEqual(before, effect.expected, name)

    @property
    def now(self) -> Configuration:
        """The configuration now."""
        return self.cache.live.now

    def with_options(self, **changes: Any) -> Configuration:
        """The configuration with other options."""
        return evolve(self.now, middleware=evolve(self.now.downstream, **changes))

    def test_options(self) -> None:
        """Every live option of a cache."""
        self.check(OPTIONS, Downstream, lambda name, value: self.with_options(**{name: value}))

    def test_limits(self) -> None:
        """Every limit."""
        self.check(
            LIMITS,
            Limits,
            lambda name, value: self.with_options(limits=evolve(self.now.downstream.limits, **{name: value})),
        )

    def test_upstreams(self) -> None:
        """Every live key of an upstream."""

        def change(name: str, value: Any) -> Configuration:
            first, second = self.now.downstream.upstreams
            return self.with_options(upstreams=(first, evolve(second, **{name: value})))

        self.check(UPSTREAM, Upstream, change)

    def test_http(self) -> None:
        """Every live key of the section ``http``; the daemon itself reads ``draintimeout``, when it ends."""
        effects = {**HTTP, "draintimeout": Effect(7.0, lambda cache: cache.live.now.http.draintimeout)}
        self.check(
            effects, Http, lambda name, value: evolve(self.now, http=evolve(self.now.http, **{name: value}))
        )

    def test_more_downloads(self) -> None:
        """Downloads that wait for a permit begin as soon as there are more."""
        self.cache.live.replace(self.with_options(limits=Limits(fetches=1)))
        digests = [self.cache.origin.put_blob(REPOSITORY, LARGE[number:]) for number in range(3)]
        self.cache.origin.misbehave("slow", seconds=5.0, method="GET")
        clients = [self.cache.pull(digest) for digest in digests]
        self.assertEqual(_semaphore(self.cache).waiting, 2)
        self.cache.live.replace(self.with_options(limits=Limits(fetches=3)))
        self.assertEqual(_semaphore(self.cache).waiting, 0)
        self.cache.later(5)
        self.assertEqual({client.outcome for client in clients}, {"whole"})

    def test_fewer_grants(self) -> None:
        """A shorter ``authttl`` holds for grants that are there."""
        digest = self.cache.origin.put_blob(REPOSITORY, LARGE)
        self.assertWhole(self.cache.pull(digest), LARGE)
        self.cache.later(30)
        asked = self.cache.origin.count()
        self.assertWhole(self.cache.pull(digest), LARGE)
        self.assertEqual(self.cache.origin.count(), asked)
        self.cache.live.replace(self.with_options(authttl=10.0))
        self.assertWhole(self.cache.pull(digest), LARGE)
        self.assertGreater(self.cache.origin.count(), asked)

    def test_running_pull(self) -> None:
        """A pull that runs is not disturbed, whatever changes."""
        digest = self.cache.origin.put_blob(REPOSITORY, LARGE)
        self.cache.origin.misbehave("stall", at=len(LARGE) // 2, method="GET", times=1)
        client = self.cache.pull(digest)
        self.cache.live.replace(
            self.with_options(
                limits=Limits(fetches=1, manifest=1, grants=1, connections=1),
                maxsize=1,
                authttl=0.0,
                stalltimeout=3.0,
                upstreams=tuple(
                    evolve(each, deny=("**",), names=frozenset()) for each in self.now.downstream.upstreams
                ),
            )
        )
        self.cache.later(40)
        self.assertWhole(client, LARGE)


class LogOptionsTests(SynchronousTestCase):
    """The log of a daemon whose section ``log`` is replaced."""

    def test_every_key(self) -> None:
        """Level, form and fields of lines change with the next line."""
        self.assertLessEqual({"level", "formatter", "fields", "accesslog"}, live_fields(Log))
        stream, settings = io.StringIO(), Live(Log(level="warn"))
        log = Logger(namespace="contentcache.x", observer=log_observer(stream, settings))

        def written() -> str:
            stream.seek(0)
            stream.truncate()
            log.info("blob evicted", digest="d")
            return stream.getvalue()

        self.assertEqual(written(), "")
        settings.replace(Log(level="info"))
        self.assertIn("info  blob evicted digest=d", written())
        settings.replace(Log(level="info", formatter="json", fields={"site": "us"}))
        self.assertIn('"site": "us"', written())
        settings.replace(Log(level="error", formatter="json"))
        self.assertEqual(written(), "")


class TLSOptionsTests(SynchronousTestCase):
    """The certificates and settings of the port."""

    def test_every_key(self) -> None:
        """New settings, of other files too, are for new connections."""
        self.assertEqual(
            live_fields(ServerTLS),
            {"certificate", "key", "clientcas", "clientauth", "minimumtls", "ciphersuites"},
        )
        folder = self.mktemp()
        Path(folder).mkdir(parents=True)
        first, second = (make(name).write(folder, name) for name in ("first", "second"))
        context = ServerContext(ServerTLS(*first))
        old = context.context
        changed = ServerTLS(*second, clientcas=(first[0],), minimumtls="tls1.3")
        use = context.read(changed)
        self.assertIs(context.context, old)
        use()
        self.assertIsNot(context.context, old)
        self.assertIn("second", context.identity.chain[0].subject.rfc4514_string())
        self.assertEqual(len(context._authorities), 1)


class GatewayOptionsTests(SynchronousTestCase):
    """An assembled gateway whose configuration is replaced."""

    def test_every_key(self) -> None:
        """Every live option of a gateway, and the limits that it has."""
        self.patch(agent, "EarlyResponseReactor", lambda reactor: reactor)  # it connects real sockets
        reactor: Any = MemoryReactorClock()
        options = Gateway(
            "http://192.0.2.80:5000",
            "https://registry.example",
            signingkey=self.mktemp(),
            database=self.mktemp(),
        )
        platform = evolve(Platform.of_process({}, reactor, at_once), wall=lambda: 1e9, random_bytes=bytes)
        live = Live(Configuration(Http(Address("127.0.0.1", 0)), options))
        policies: list[Live[AccountPolicy]] = []

        def authenticator(login: Any, store: Any, policy: Live[AccountPolicy], **more: Any) -> Authenticator:
            policies.append(policy)
            return Authenticator(login, store, policy, **more)

        self.patch(gateway_assembly, "Authenticator", authenticator)
        services = gateway_assembly.assemble(live, platform, meter=Meter())
        self.addCleanup(services.store.close)
        self.assertEqual(live_fields(Gateway), {"minimumsize", "admins", "admingroup", "networks", "authttl"})
        router = cast("Any", services.factory.responder.dispatch).__self__._answer.__self__
        routes = router._routes
        live.replace(
            evolve(
                live.now,
                middleware=evolve(
                    options,
                    minimumsize=7,
                    admins=("ann",),
                    admingroup="ops",
                    networks={"192.0.2.0/24": "near"},
                    authttl=7.0,
                    limits=Limits(connections=7, clientstall=7.0),
                ),
            )
        )
        self.assertEqual(routes.redirector._options.now.minimum_size, 7)
        self.assertEqual(policies[0].now.admins, ("ann",))
        self.assertEqual((policies[0].now.admin_group, policies[0].now.ttl), ("ops", 7.0))
        self.assertEqual(routes.redirector._directory._networks.now.default("192.0.2.1"), "near")
        self.assertEqual(services.factory.limits.connections, 7)
