"""Tests of a gateway behind a proxy that has the TLS: who the client is, and by which name it asks."""

from __future__ import annotations

import base64
from typing import Any

from twisted.web.resource import Resource

from contentcache.aio.threads import at_once
from contentcache.core.digest import Digest
from contentcache.core.live import Live
from contentcache.gateway.cache_directory import CacheDirectory, NetworkDefaults
from contentcache.gateway.liveness import Liveness
from tests.gateway.admin.admin_case import FakeProbe, FakeRegistry, Numbers, make_admin_site
from tests.gateway.in_memory import CACHE, GatewayTestCase
from tests.gateway.memory_directory import MemoryDirectory

_PROXY = "10.0.0.7"
_UNTRUSTED = "198.51.100.1"
_CLIENT = "X-Forwarded-For: 203.0.113.9"
_SAID = (
    "X-Forwarded-For: 8.8.8.8, 203.0.113.9",
    "X-Forwarded-For: 10.0.0.8",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Host: Outer.example:8443",
)
_TAGS = "/v2/org/app/tags/list"
_BLOB = f"/v2/org/app/blobs/{Digest.of(b'content')}"


class Mirror(Resource):
    """Responds with the client and the host as the admin site sees them."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        """Both, in one line."""
        return f"{request.getClientAddress().host} {request.getHeader('Host')}".encode()


class TrustedProxyTests(GatewayTestCase):
    """What ``X-Forwarded-*`` of a trusted proxy means, and that it means nothing from anybody else."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = self.build(trusted=("10.0.0.0/8",))

    def forwarded(self, peer: str, *fields: str) -> dict[str, str]:
        """The forwarding fields that the registry gets for a request from ``peer``."""
        self.client(peer).send(f"GET {_TAGS} HTTP/1.1\r\n" + "\r\n".join(["Host: inner", *fields, "", ""]))
        _, heard, _ = self.line.head()
        return {name: value for name, value in heard.items() if name.startswith("x-forwarded-")}

    def test_registry_behind_trusted(self) -> None:
        """
        The registry is told the client, then the proxies that are trusted, and the scheme and host that the
        client has asked; what the client itself wrote before that is dropped.
        """
        self.assertEqual(
            self.forwarded(_PROXY, *_SAID),
            {
                "x-forwarded-for": "203.0.113.9, 10.0.0.8, 10.0.0.7",
                "x-forwarded-host": "outer.example:8443",
                "x-forwarded-proto": "http",
            },
        )

    def test_registry_behind_untrusted(self) -> None:
        """Forwarding fields of a client that is no trusted proxy never reach the registry, in any spelling."""
        for fields in (
            _SAID,
            tuple(each.replace("-", "_", 2) for each in _SAID),
            ("Forwarded: for=8.8.8.8",),
        ):
            self.assertEqual(
                self.forwarded(_UNTRUSTED, *fields),
                {
                    "x-forwarded-for": _UNTRUSTED,
                    "x-forwarded-host": "inner",
                    "x-forwarded-proto": "https",
                },
            )

    def test_nothing_said(self) -> None:
        """A trusted proxy without forwarding fields is the client; the scheme is that of the configured name."""
        self.assertEqual(
            self.forwarded(_PROXY),
            {"x-forwarded-for": _PROXY, "x-forwarded-host": "inner", "x-forwarded-proto": "https"},
        )

    def test_network_and_log(self) -> None:
        """The client's own address decides which cache it is sent to, and is in the access log."""
        self.directory.cache = CACHE
        for peer in (_PROXY, _UNTRUSTED):
            client = self.client(peer).send(
                f"GET {_BLOB} HTTP/1.1\r\nHost: inner\r\n{_CLIENT}\r\nX-Forwarded-Host: outer\r\n\r\n"
            )
            self.line.say(
                "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n"
                f"Docker-Content-Digest: {Digest.of(b'content')}\r\n\r\n"
            )
            (reply,) = client.replies("GET")
            # The issuer stays what is configured.
            self.assertTrue((reply.header("Location") or "").startswith(f"{CACHE}{_BLOB}?token="), reply)
        self.assertEqual([address for _, address in self.directory.asked], ["203.0.113.9", _UNTRUSTED])
        self.assertEqual([line.address for line in self.written], ["203.0.113.9", _UNTRUSTED])

    def test_location(self) -> None:
        """A ``Location`` with the name that the client used becomes relative, so an upload continues there."""
        client = self.client(_PROXY).send(
            "POST /v2/org/app/blobs/uploads/ HTTP/1.1\r\nHost: inner\r\nX-Forwarded-Host: outer.example\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        self.line.answer(
            "202 Accepted", b"", "Location: https://outer.example/v2/org/app/blobs/uploads/1?a=b"
        )
        self.assertEqual(self.reply(client).header("Location"), "/v2/org/app/blobs/uploads/1?a=b")

    def test_pages(self) -> None:
        """The admin site gets the client's address, and the host that its browser shows."""
        self.pages = Mirror()
        self.factory = self.build(trusted=("10.0.0.0/8",))
        host = "X-Forwarded-Host: outer.example"
        for peer, address, seen in (
            (_PROXY, "203.0.113.9", "203.0.113.9 outer.example"),
            (_PROXY, "2001:db8::1", "2001:db8::1 outer.example"),
            (_UNTRUSTED, "203.0.113.9", f"{_UNTRUSTED} cache.example"),
        ):
            reply = self.client(peer).ask("/settings", f"X-Forwarded-For: {address}", host)
            self.assertEqual(reply.body.decode(), seen)

    def test_sign_in_throttle(self) -> None:
        """
        Wrong passwords count for the client that sends them, not for the proxy; one that is not trusted
        cannot make itself into several clients.
        """
        self.pages = self.admin_site()
        self.factory = self.build(trusted=("10.0.0.0/8",))
        wrong = "Authorization: Basic " + base64.b64encode(b"alice:wrong").decode()

        def statuses(peer: str, addresses: list[str]) -> set[int]:
            return {
                self.client(peer)
                .ask("/api/v0/content_caches", wrong, "Accept: application/json", f"X-Forwarded-For: {each}")
                .status
                for each in addresses
            }

        self.assertEqual(statuses(_PROXY, ["203.0.113.9"] * 40), {401, 429})
        self.assertEqual(statuses(_PROXY, ["203.0.113.10"]), {401})
        self.assertEqual(statuses(_UNTRUSTED, [f"203.0.113.{each}" for each in range(20, 60)]), {401, 429})

    def admin_site(self) -> Any:
        """The real API and pages."""
        store = MemoryDirectory()
        liveness = Liveness(store, FakeProbe(), run=at_once, timer=self.clock, wall=self.clock.seconds)
        directory = CacheDirectory(
            store, liveness, run=at_once, new_id=Numbers(), networks=Live(NetworkDefaults.of({}))
        )
        return make_admin_site(FakeRegistry(), store, directory, self.clock.seconds, secure=True)
