"""The status page: what is on it, who sees names, and that nothing is put into it unescaped."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, cast

import attrs
from attrs import evolve
from prometheus_client import CollectorRegistry
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.api import Operations
from contentcache.admin.status import CacheSummary, GatewayStatus, ReloadStatus, Savings, Status, Traffic
from contentcache.admin.status_page import attention_of, chart_of, render
from contentcache.aio.threads import at_once
from contentcache.app.operator_access import OperatorAccess
from contentcache.config.model import (
    Address,
    Configuration,
    Debug,
    Downstream,
    Http,
    Log,
    StorageSettings,
    Upstream,
)
from contentcache.server.debug_site import HealthCheck
from tests.admin import samples
from tests.registry.harness import Client, Reply

_HOSTILE = "\"><script>alert('1')</script>{{ 7 * 7 }}"
#: Fields whose values are a few words.
_WORDS = frozenset({"role", "health", "state", "level"})
_VOID = frozenset({"meta", "link", "br"})
_GATEWAY = GatewayStatus(
    "https://registry.example.com",
    "https://gateway.example.com",
    12,
    340,
    (CacheSummary("asia", "https://asia.example.com", False, 1.0, "refused", users=3, redirects=9),),
)


class Balance(HTMLParser):
    """Checks that each element ends where it should, and that no id is there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<path/>`` of SVG."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def read(status: Status, *, names: bool = True, refresh: int | None = None) -> str:
    """The text of the page, which is checked to be well formed."""
    body, _headers = render(status, names=names, refresh=refresh, address="cache.example:5000", metrics=None)
    page = Balance()
    page.feed(body.decode())
    page.close()
    assert not page.open, page.open
    assert len(page.ids) == len(set(page.ids)), page.ids
    return " ".join(page.text.split())


def hostile(value: Any) -> Any:
    """A document in which each text that is not one of a few words is what an attacker would like it to be."""
    if attrs.has(type(value)):
        changes = {field.name: hostile(getattr(value, field.name)) for field in attrs.fields(type(value))}
        return evolve(value, **{name: each for name, each in changes.items() if name not in _WORDS})
    if isinstance(value, tuple):
        return tuple(map(hostile, value))
    return _HOSTILE if isinstance(value, str) else value


class PageTests(SynchronousTestCase):
    """Documents, and what is to be read of them."""

    def test_busy(self) -> None:
        """Everything that the document has is on the page, in numbers with units and in words."""
        text = read(samples.busy())
        for words in (
            "Needs attention",
            "2 of 2 workers serve",
            "Hit ratio90.3 %",
            "https://mirror.example.com is unhealthy: no answer within 10 s.",
            "platform/postgres",
            "412 MB of 655 MB, 62.9 %",
            "21 s left",
            "3 clients wait",
            "round trip 83 ms",
            "431 GB of 500 GB, 86.2 %",
            "team/old-notebook",
            "6 d ago",
            "Largest",
            "Most pulled in 30 days",
            "expires 31 Jan 2027",
            "Response ended short",
            "connection closed mid-body",
        ):
            self.assertIn(words, text)

    def test_new(self) -> None:
        """Where nothing was pulled the page says what to do."""
        text = read(samples.new())
        self.assertIn("Nothing pulled yet. Try it: docker pull cache.example:5000/library/alpine", text)
        self.assertIn("None: clients are served over plain HTTP.", text)
        self.assertIn("None since the start.", text)
        self.assertIn("Nothing is stored that could be evicted.", text)
        self.assertNotIn("Bytes sent each day", text)

    def test_gateway(self) -> None:
        """A gateway shows its caches, and nothing of a store."""
        gateway = evolve(
            samples.new(),
            role="gateway",
            savings=None,
            store=None,
            images=None,
            upstreams=(),
            gateway=_GATEWAY,
        )
        text = read(gateway)
        self.assertIn("The cache asia is unhealthy: refused.", text)
        self.assertIn("12 users · 340 redirects", text)
        self.assertNotIn("In flight", text)

    def test_escaped(self) -> None:
        """Whatever a name, a reason or an error contains, it stays text."""
        reload = ReloadStatus(1.0, ok=False, errors=("no",))
        status = hostile(evolve(samples.busy(), gateway=_GATEWAY, reload=reload))
        body, headers = render(status, names=True, refresh=None, address=_HOSTILE, metrics=None)
        self.assertNotIn(b"<script", body)
        self.assertIn(b"&lt;script&gt;", body)
        self.assertNotIn(b"49", body.partition(b"Last errors")[2])
        self.assertIn("default-src 'none'", headers["Content-Security-Policy"])
        read(status)

    def test_attention(self) -> None:
        """What is wrong now is said in sentences, nothing where all is well."""
        self.assertEqual(attention_of(samples.new()), [])
        store = samples.new().store
        assert store is not None
        status = evolve(
            samples.new(),
            store=evolve(store, fault="the disk is full"),
            workers=evolve(samples.new().workers, serving=0),
            reload=ReloadStatus(1.0, ok=False, errors=("config.yml:3: no such key",)),
        )
        self.assertEqual(
            attention_of(status),
            [
                "Only 0 of 1 workers serve clients.",
                "The store needs attention: the disk is full.",
                "The configuration was not reloaded: config.yml:3: no such key",
            ],
        )

    def test_chart(self) -> None:
        """Bars are as high as what was sent; what was received beyond that does not leave the chart."""
        days = [
            Savings.of(0.0, [Traffic("a", 200, 50, 2, 1)]),
            Savings.of(0.0, []),
            Savings.of(0.0, [Traffic("a", 100, 900, 1, 0)]),
        ]
        chart = chart_of(days)
        self.assertEqual(chart.most, 200)
        heights = [(bar.saved_height, bar.received_height) for bar in chart.bars]
        self.assertEqual(heights, [(75, 25), (0, 0), (0, 50)])
        for bar in chart.bars:
            self.assertEqual(bar.saved_y + bar.saved_height, bar.received_y)
            self.assertEqual(bar.received_y + bar.received_height, 100)
        self.assertEqual([bar.received_height for bar in chart_of([days[1]]).bars], [0])


class AddressTests(SynchronousTestCase):
    """The page at the debug address."""

    def ask(self, target: str, *fields: str, address: str = "127.0.0.1", names: bool = False) -> Reply:
        """One request from a client at ``address``."""

        async def status() -> Status:
            return samples.busy()

        async def health() -> Mapping[str, HealthCheck]:
            return {}

        async def metrics() -> CollectorRegistry:
            return CollectorRegistry()

        debug = Debug(Address("", 5001), "/metrics", names, ("cache.example",))
        configuration = Configuration(
            Http(Address("", 5000), debug=debug),
            Downstream((Upstream("https://a.example", ("https://a.example",)),)),
            storage=StorageSettings("inmemory"),
            auth=None,
            log=Log(),
        )
        operations = Operations(status, health, cast("Any", None))
        access = OperatorAccess(configuration, operations, cast("Any", Clock()), at_once)
        return Client(access.debug_server(debug, metrics), address).ask(target, *fields)

    def test_page(self) -> None:
        """The page comes under a policy that lets it load and run nothing, and is not stored."""
        reply = self.ask("/")
        self.assertEqual((reply.status, reply.header("Content-Type")), (200, "text/html; charset=utf-8"))
        policy = reply.header("Content-Security-Policy") or ""
        self.assertTrue(policy.startswith("default-src 'none'; style-src 'sha256-"), policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(reply.header("Cache-Control"), "no-store")
        self.assertIsNone(reply.header("Refresh"))
        self.assertNotIn(b"<script", reply.body)
        self.assertIn(b'href="/metrics"', reply.body)

    def test_refresh(self) -> None:
        """Browsers load the page again where they were asked to, and there is a link to end that."""
        reply = self.ask("/?refresh=10")
        self.assertEqual(reply.header("Refresh"), "10")
        self.assertIn("Stop refreshing every 10 s", reply.body.decode())
        self.assertIsNone(self.ask("/?refresh=0x10").header("Refresh"))

    def test_names(self) -> None:
        """Names are for this machine, and for others only where the configuration says so."""
        named = (b"team/", b"library/", b"platform/", b"4b825dc642cb")
        for reply in (self.ask("/"), self.ask("/", address="192.0.2.1", names=True)):
            for name in named:
                self.assertIn(name, reply.body)
            self.assertNotIn(b"http.debug.names", reply.body)
        for hidden in (
            self.ask("/", address="192.0.2.1"),
            self.ask("/", "X-Forwarded-For: 192.0.2.1"),
        ):
            for name in named:
                self.assertNotIn(name, hidden.body)
            self.assertIn(b"http.debug.names: true", hidden.body)
            self.assertIn(b"431 GB", hidden.body)
