"""Tests for :mod:`contentcache.app.gateway_assembly`: a whole gateway with a reactor in memory."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import TestCase

from contentcache.aio.threads import at_once
from contentcache.app.gateway_assembly import assemble
from contentcache.app.role import Platform
from contentcache.config.model import Address, Configuration, Gateway, Http
from contentcache.core.live import Live
from contentcache.telemetry.metrics import Meter
from contentcache.upstream import agent
from tests.registry.harness import Client, request

_JWKS = "/.well-known/contentcache/jwks.json"


class AssembleTests(TestCase):
    """What is wired to what."""

    def setUp(self) -> None:
        self.patch(agent, "EarlyResponseReactor", lambda reactor: reactor)  # it connects real sockets
        reactor: Any = MemoryReactorClock()
        self.reactor = reactor
        self.meter = Meter()
        options = Gateway(
            "http://192.0.2.80:5000",
            "https://registry.example",
            signingkey=self.mktemp(),
            database=self.mktemp(),
        )
        platform = evolve(Platform.of_process({}, reactor, at_once), wall=lambda: 1e9, random_bytes=bytes)
        configuration = Configuration(Http(Address("127.0.0.1", 0)), options)
        self.services = assemble(Live(configuration), platform, meter=self.meter)
        self.addCleanup(self.services.store.close)

    def client(self) -> Client:
        """A connection to the gateway."""
        client = Client(self.services.factory)
        self.addCleanup(client.leave)
        return client

    def test_own_answers(self) -> None:
        """The gateway answers its own paths without the registry, and publishes the keys that it signs with."""
        self.assertEqual(self.client().ask("/").status, 200)
        self.assertEqual(self.client().ask(_JWKS).status, 503)
        self.services.keys.rotate()
        key = self.services.keys.signer()
        assert key is not None
        self.assertIn(key.kid.encode(), self.client().ask(_JWKS).body)
        self.assertIn(b"Sign in", self.client().ask("/settings").body)
        self.assertEqual(self.client().ask("/api/v0/content_caches").status, 401)
        self.assertEqual(self.reactor.tcpClients, [])

    def test_registry(self) -> None:
        """Requests to the registry's API, and credentials that somebody signs in with, reach the registry."""
        for target in ("/v2/", "/api/v0/content_caches"):
            self.client().send(request(target, "Authorization: Basic YTpi"))
            host, port, *_ = self.reactor.tcpClients.pop()
            self.assertEqual((host, port), ("192.0.2.80", 5000), target)

    def test_metrics(self) -> None:
        """The registry's health and the connections are measured."""
        self.client()
        text = self.meter.text().decode()
        self.assertIn("contentcache_connections 1", text)
        self.assertIn("contentcache_upstream_healthy", text)
