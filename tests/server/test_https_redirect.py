"""Tests for :mod:`contentcache.server.https_redirect`."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Limits
from contentcache.core.client_address import counted_address
from contentcache.server.factory import ServerFactory
from contentcache.server.https_redirect import HttpsRedirect
from contentcache.server.request import RequestResponder
from contentcache.telemetry.metrics import Meter

_PATH = "/.well-known/acme-challenge/"


class HttpsRedirectTests(SynchronousTestCase):
    """The plain port."""

    def ask(self, target: str, host: str = "cache.example.com", method: str = "GET", port: int = 443) -> str:
        """The whole answer."""
        redirect = HttpsRedirect(
            ["cache.example.com"], port, lambda name, token: "proof" if token == "token-1" else None
        )
        clock: Any = Clock()
        factory = ServerFactory(
            RequestResponder(redirect.respond, lambda _request: None),
            limits=Limits(),
            address_key=counted_address,
            reactor=clock,
            meter=Meter(),
        )
        channel = factory.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return str(transport.value().decode())

    def test_challenge(self) -> None:
        """A token that is asked for now is answered; another, and other hosts, are not known."""
        answer = self.ask(_PATH + "token-1")
        self.assertTrue(answer.startswith("HTTP/1.1 200 "), answer)
        self.assertTrue(answer.endswith("\r\n\r\nproof"), answer)
        for target, host in (
            (_PATH + "token-2", "cache.example.com"),
            (_PATH + "token-1", "other.example.com"),
            (_PATH + "token-1", ""),
        ):
            self.assertIn(" 404 ", self.ask(target, host).split("\r\n")[0])

    def test_redirect(self) -> None:
        """Everything else goes to the same place on https, on the port that is configured."""
        for target, port, where in (
            ("/v2/?n=1", 443, "https://cache.example.com/v2/?n=1"),
            ("/", 8443, "https://cache.example.com:8443/"),
            ("//evil.example/x", 443, "https://cache.example.com//evil.example/x"),
            (_PATH, 443, f"https://cache.example.com{_PATH}"),
            (_PATH + "../x", 443, f"https://cache.example.com{_PATH}../x"),
        ):
            for host in ("cache.example.com", "Cache.Example.com:80", "cache.example.com."):
                answer = self.ask(target, host, port=port)
                self.assertIn(" 301 ", answer.split("\r\n")[0])
                self.assertIn(f"Location: {where}\r\n", answer)

    def test_strangers(self) -> None:
        """It sends nobody to a host that is not configured, and takes no body."""
        for host in ("evil.example", "cache.example.com.evil.example", "cache.example.com@evil.example"):
            answer = self.ask("/", host)
            self.assertNotIn("Location", answer)
        self.assertNotIn("Location", self.ask("/", method="POST"))
