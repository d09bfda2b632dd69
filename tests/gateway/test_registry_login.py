"""Tests for :mod:`contentcache.gateway.registry_login`."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout
from contentcache.core.live import Live
from contentcache.gateway.registry_login import BoundedGet, CredentialDecision, LoginResponse, RegistryLogin
from contentcache.upstream.answers import CODINGS
from tests.gateway.admin.admin_case import PASSWORDS, basic, token
from tests.registry.harness import FakeResponse

REGISTRY = "https://registry.example"


class Registry:
    """A registry, and its token server where ``realm`` is set."""

    def __init__(self, realm: str | None = None) -> None:
        self.realm = realm
        self.asked: list[str] = []
        self.status: int | None = None
        self.claims: dict[str, Any] = {}

    async def __call__(self, url: str, headers: Mapping[str, str], /) -> LoginResponse:
        self.asked.append(url)
        if self.status is not None:
            return LoginResponse(self.status)
        given = headers.get("Authorization")
        account = next((name for name in PASSWORDS if basic(name) == given), None)
        if urlsplit(url).path == "/v2/":
            if self.realm is None:
                return LoginResponse(200) if account else LoginResponse(401, ['Basic realm="x"'])
            is_good = bool(given and given.startswith("Bearer ") and given.endswith(".good"))
            return (
                LoginResponse(200)
                if is_good
                else LoginResponse(401, [f'Bearer realm="{self.realm}",service="r"'])
            )
        if account is None:
            return LoginResponse(401)
        return LoginResponse(200, (), json.dumps({"token": token(account, **self.claims)}).encode())


class AskedRegistryTests(SynchronousTestCase):
    """What follows from a registry's responses."""

    def decision(self, registry: Registry, authorization: str) -> CredentialDecision:
        asked = RegistryLogin(REGISTRY, registry, Clock())
        return self.successResultOf(Deferred.fromCoroutine(asked.decide(authorization)))

    def test_passwords(self) -> None:
        """A registry that checks passwords itself is asked once."""
        registry = Registry()
        self.assertEqual(self.decision(registry, basic("bob")), CredentialDecision(True))
        self.assertEqual(
            self.decision(registry, basic("bob", "x")), CredentialDecision(False, challenge='Basic realm="x"')
        )
        self.assertEqual(registry.asked, [f"{REGISTRY}/v2/"] * 2)

    def test_tokens(self) -> None:
        """
        A password is exchanged for a token, which the registry must accept too; the token names the account
        and its groups.
        """
        registry = Registry(f"{REGISTRY}/token")
        registry.claims = {"groups": ["ops"]}
        decision = self.decision(registry, basic("bob"))
        self.assertEqual((decision.accepted, decision.account, decision.groups), (True, "bob", {"ops"}))
        self.assertFalse(self.decision(registry, basic("bob", "x")).accepted)
        self.assertTrue(self.decision(registry, f"Bearer {token('carol')}").accepted)
        self.assertFalse(self.decision(registry, f"Bearer {token('carol', 'forged')}").accepted)
        registry.claims = {"signature": "bad"}
        self.assertFalse(self.decision(registry, basic("bob")).accepted)

    def test_foreign_realm(self) -> None:
        """A challenge cannot send the password elsewhere."""
        registry = Registry("https://evil.example/token")
        asked = RegistryLogin(REGISTRY, registry, Clock())
        self.failureResultOf(Deferred.fromCoroutine(asked.decide(basic("bob"))), CacheError)
        self.assertEqual(registry.asked, [f"{REGISTRY}/v2/"])

    def test_neither(self) -> None:
        """A response that neither accepts nor denies is an error: of a registry that is broken, or redirects."""
        for status in (302, 404, 429, 500, 503):
            registry = Registry()
            registry.status = status
            asked = RegistryLogin(REGISTRY, registry, Clock())
            self.failureResultOf(Deferred.fromCoroutine(asked.decide(basic("bob"))), UpstreamBroken)

    def test_page(self) -> None:
        """A page with 200 is of a proxy that signs people in, and decides nothing about credentials."""

        async def page(_url: str, _headers: Mapping[str, str], /) -> LoginResponse:
            return LoginResponse(200, page=True)

        asked = RegistryLogin(REGISTRY, page, Clock())
        self.failureResultOf(Deferred.fromCoroutine(asked.decide(basic("bob"))), UpstreamBroken)


class AgentGetTests(SynchronousTestCase):
    """Its bounds."""

    def test_heads(self) -> None:
        """
        A page is told by its type, bytes that are not UTF-8 are read all the same, and what is not wanted of
        a body is given up.
        """
        for status, fields, said in (
            (200, {"Content-Type": [b"text/html"]}, LoginResponse(200, [], page=True)),
            (401, {"WWW-Authenticate": [b'Basic realm="\xe9"']}, LoginResponse(401, ['Basic realm="\xe9"'])),
            (200, {"Content-Type": [b"\xff"]}, LoginResponse(200, [], b"{}")),
        ):
            raw = {name.encode(): values for name, values in fields.items()}
            broadcast = FakeResponse(
                status, Headers(raw), [b"{}"][: len(said.body)], ResponseDone() if said.body else None
            )

            class Answers:
                def request(self, *_: object, answer: FakeResponse = broadcast) -> Deferred[Any]:
                    return succeed(answer)

            asking = Deferred.fromCoroutine(
                BoundedGet(Answers(), Clock(), timeout=9.0, limit=Live(9))(REGISTRY, {})
            )
            self.assertEqual(self.successResultOf(asking), said)
            self.assertEqual(broadcast.stopped, not said.body)

    def read(self, body: bytes, *codings: str) -> Deferred[LoginResponse]:
        """The result for a body of at most 100 bytes with these codings."""
        broadcast = FakeResponse(200, Headers({CODINGS: [each.encode() for each in codings]}), [body])

        class Answers:
            def request(self, *_: object) -> Deferred[Any]:
                return succeed(broadcast)

        get = BoundedGet(Answers(), Clock(), timeout=9.0, limit=Live(100))
        return Deferred.fromCoroutine(get(f"{REGISTRY}/token", {}))

    def test_compressed(self) -> None:
        """
        A body that was compressed although nobody asked for that is decoded, within the same bound; one that
        is damaged, larger than that, or has another coding is an error.
        """
        body = b'{"token": "x"}'
        for coding, compressed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
            self.assertEqual(self.successResultOf(self.read(compressed, coding)).body, body)
        for coding, compressed in (
            ("gzip", gzip.compress(b"x" * 101)),
            ("gzip", gzip.compress(bytes(1 << 20))),
            ("gzip", gzip.compress(body)[:-4]),
            ("gzip", body),
            ("br", body),
            ("gzip, gzip", gzip.compress(gzip.compress(body))),
        ):
            self.failureResultOf(self.read(compressed, coding), UpstreamBroken)

    def test_too_slow(self) -> None:
        """A registry that does not answer in time is abandoned."""

        class Silent:
            def request(self, *_: object) -> Deferred[None]:
                return Deferred()

        clock = Clock()
        get = BoundedGet(Silent(), clock, timeout=10.0, limit=Live(100))
        asking = Deferred.fromCoroutine(get(f"{REGISTRY}/v2/", {}))
        clock.advance(9)
        self.assertNoResult(asking)
        clock.advance(2)
        self.failureResultOf(asking, UpstreamTimeout)
        self.assertEqual(clock.getDelayedCalls(), [])
