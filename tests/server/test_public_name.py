"""Tests for :mod:`contentcache.server.public_name`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.auth.interfaces import Scope, Unauthorized
from contentcache.config.model import Upstream
from contentcache.core.client_address import shown_address
from contentcache.server.public_name import Caller, PublicName
from tests.registry.harness import RegistryTestCase

_TRUSTED = ("127.0.0.0/8", "::1/128", "10.0.0.0/8")


class CallerTests(SynchronousTestCase):
    """What proxies say."""

    def test_trusted(self) -> None:
        """A trusted proxy says which scheme and host the client has asked, and which address it has."""
        name = PublicName(None, "http", _TRUSTED)
        for peer in ("127.0.0.1", "::ffff:10.1.2.3", "::1", ""):
            with self.subTest(peer=peer):
                caller = name.caller(
                    peer,
                    "inner:5000",
                    forwarded_for=("203.0.113.9, 192.0.2.1", "10.0.0.7"),
                    forwarded_proto="https",
                    forwarded_host="Cache.example:8443",
                )
                self.assertEqual(
                    caller,
                    Caller(
                        "192.0.2.1",
                        "cache.example:8443",
                        "https://cache.example:8443",
                        ("10.0.0.7", shown_address(peer)),
                    ),
                )

    def test_ports(self) -> None:
        """Some proxies write the client's port beside its address, which is the same client's with another port."""
        name = PublicName(None, "http", _TRUSTED)
        for said, address in (
            ("203.0.113.5:1234", "203.0.113.5"),
            ("[2001:db8::6]:4444", "2001:db8::6"),
            ("2001:db8::6", "2001:db8::6"),
            ("192.0.2.9, 203.0.113.5:1, 10.0.0.7:2", "203.0.113.5"),
        ):
            self.assertEqual(name.caller("127.0.0.1", "a", forwarded_for=(said,)).address, address)

    def test_not_trusted(self) -> None:
        """Nobody else is believed."""
        name = PublicName(None, "http", _TRUSTED)
        for peer in ("192.0.2.1", "2001:db8::1", "11.0.0.1", "what"):
            caller = name.caller(
                peer, "a", forwarded_for=("8.8.8.8",), forwarded_proto="https", forwarded_host="evil.example"
            )
            self.assertEqual(caller, Caller(peer, "a", "http://a"))

    def test_rubbish(self) -> None:
        """What makes no sense is passed over: it becomes no scheme, no host and no address."""
        name = PublicName(None, "http", _TRUSTED)
        caller = name.caller(
            "127.0.0.1",
            "a",
            forwarded_for=("unknown, 10.0.0.7, 10.0.0.8",),
            forwarded_proto="javascript",
            forwarded_host='x" y',
        )
        self.assertEqual(caller, Caller("10.0.0.7", "a", "http://a", ("10.0.0.8", "127.0.0.1")))

    def test_configured(self) -> None:
        """``http.host`` comes before everything for the URL, and does not choose an origin."""
        said = {"forwarded_proto": "http", "forwarded_host": "other.example"}
        for configured, base in (
            ("https://cache.example", "https://cache.example"),
            ("https://cache.example:8443/", "https://cache.example:8443"),
            ("cache.example", "http://cache.example"),
        ):
            name = PublicName(configured, "https", _TRUSTED)
            self.assertEqual(
                name.caller("127.0.0.1", "a", **said), Caller("127.0.0.1", "other.example", base)
            )


class _Door:
    """A authenticator that refuses everybody and notes whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def allows_cached(self, authorization: str | None, need: Scope) -> bool:
        """Nobody is known."""
        return False

    async def authenticate(
        self, authorization: str | None, need: Scope | None, base: str, address: str = ""
    ) -> str:
        """Nobody may."""
        self.asked.append((base, address))
        raise Unauthorized("no", f'Bearer realm="{base}/token"', need)


class ProxyTests(RegistryTestCase):
    """Requests that come through a proxy."""

    def test_realm_log_and_limits(self) -> None:
        """
        Realms have the name that the client knows; passwords are counted, and the line of the log is
        written, by its own address.
        """
        door = _Door()
        self.factory = self.build(authenticator=door)
        fields = ("X-Forwarded-Proto: https", "X-Forwarded-Host: cache.example", "X-Forwarded-For: 192.0.2.9")
        reply = self.client("127.0.0.1").ask("/v2/", *fields)
        self.assertEqual(reply.header("WWW-Authenticate"), 'Bearer realm="https://cache.example/token"')
        self.client("192.0.2.1").ask("/v2/", *fields)
        self.assertEqual([address for _, address in door.asked], ["192.0.2.9", "192.0.2.1"])
        self.assertEqual([line.address for line in self.lines], ["192.0.2.9", "192.0.2.1"])

    def test_origin(self) -> None:
        """The host that the client has asked chooses the origin."""
        self.factory = self.build(
            Upstream("https://a.example", ("https://a.example",)),
            Upstream("https://b.example", ("https://b.example",), served=frozenset({"b.cache.example"})),
        )
        self.upstream_says()
        self.client("127.0.0.1").ask("/v2/x/tags/list", "X-Forwarded-Host: b.cache.example")
        self.client("192.0.2.1").ask("/v2/x/tags/list", "X-Forwarded-Host: b.cache.example")
        asked = [registry.upstream.origin for registry, _ in self.services.asked]
        self.assertEqual(asked, ["https://b.example", "https://a.example"])

    def test_options(self) -> None:
        """``OPTIONS`` is 200 for every path, with the configured headers, and nobody is asked or authorized."""
        self.factory = self.build(extra={"Access-Control-Allow-Origin": ("*",)}, authenticator=_Door())
        for target in ("/v2/", "/v2/a/manifests/1", "/elsewhere", "*"):
            reply = self.ask(target, method="OPTIONS")
            self.assertEqual((reply.status, reply.body), (200, b""))
            self.assertEqual(reply.header("Access-Control-Allow-Origin"), "*")
            self.assertEqual(reply.header("Allow"), "GET, HEAD, OPTIONS")
        self.assertEqual(self.services.asked, [])
