"""Tests for :mod:`contentcache.gateway.header_rewriting`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.header_rewriting import HeaderRewriter, end_to_end
from contentcache.server.public_name import Caller

BEHIND = HeaderRewriter("http://registry.internal:5000", "https://registry.example.com")

LOCATIONS = {
    "http://registry.internal:5000/v2/a/blobs/uploads/1?x=%2F": "/v2/a/blobs/uploads/1?x=%2F",
    "https://registry.internal:5000/v2/": "/v2/",
    "HTTP://REGISTRY.internal:5000/v2/": "/v2/",
    "//registry.internal:5000/v2/": "/v2/",
    "https://registry.example.com/v2/": "/v2/",
    "https://registry.example.com:443/v2/": "/v2/",
    "http://asked.example:8080/v2/": "/v2/",
    "http://registry.internal:5000": "/",
    "http://registry.internal:5000?x": "/?x",
    "/v2/a/blobs/uploads/1": "/v2/a/blobs/uploads/1",
    "1?x": "1?x",
    "https://storage.example.com/x?sig=a%2Bb": "https://storage.example.com/x?sig=a%2Bb",
    "http://registry.internal:5001/v2/": "http://registry.internal:5001/v2/",
    "http://registry.internal.evil.example:5000/": "http://registry.internal.evil.example:5000/",
    "http://registry.internal:5000//evil.example/x": "https://registry.example.com//evil.example/x",
    "http://registry.internal:5000/\\\\evil.example": "https://registry.example.com/\\\\evil.example",
    "http://x@registry.internal:5000/": "http://x@registry.internal:5000/",
    "": "",
}

CHALLENGES = {
    'Bearer realm="http://registry.internal:5000/token",service="r"': (
        'Bearer realm="https://registry.example.com/token",service="r"'
    ),
    'Bearer service="r", realm = "http://registry.internal:5000/token"': (
        'Bearer service="r", realm = "https://registry.example.com/token"'
    ),
    "Bearer realm=http://registry.internal:5000/token,service=r": (
        "Bearer realm=https://registry.example.com/token,service=r"
    ),
    'Bearer realm="https://auth.example.com/token"': 'Bearer realm="https://auth.example.com/token"',
    'Basic realm="the registry"': 'Basic realm="the registry"',
    'Bearer realm="http://registry.internal:5000/t", Basic realm="x"': (
        'Bearer realm="https://registry.example.com/t", Basic realm="x"'
    ),
}


class RewritingTests(SynchronousTestCase):
    """Fields that name a host."""

    def test_locations(self) -> None:
        """What names the registry, or its gateway by any of its names, becomes relative; all else stays."""
        for given, expected in LOCATIONS.items():
            found = BEHIND.to_client([("Location", given)], "asked.example:8080")
            self.assertEqual(found, [("Location", expected)])

    def test_links(self) -> None:
        """Every link in a list of them."""
        given = '<http://registry.internal:5000/v2/_catalog?last=a>; rel="next", <https://x.example/y>'
        (found,) = BEHIND.to_client([("Link", given)], "")
        self.assertEqual(found[1], '</v2/_catalog?last=a>; rel="next", <https://x.example/y>')

    def test_challenges(self) -> None:
        """A realm that names the registry gets the gateway's own URL."""
        for given, expected in CHALLENGES.items():
            found = BEHIND.to_client([("WWW-Authenticate", given)], "")
            self.assertEqual(found, [("WWW-Authenticate", expected)])

    def test_prefix(self) -> None:
        """Below a prefix the API is found below it."""
        below = HeaderRewriter("http://r:5000", "https://g.example", "/in")
        for given, expected in (
            ("http://r:5000/v2/a", "/in/v2/a"),
            ("/v2/a", "/in/v2/a"),
            ("http://r:5000/token", "/token"),
        ):
            self.assertEqual(below.to_client([("Location", given)], ""), [("Location", expected)])

    def test_empty_host(self) -> None:
        """A client that names no host makes no URL the gateway's own."""
        self.assertEqual(BEHIND.to_client([("Location", "http:///x")], ""), [("Location", "http:///x")])

    def test_registry(self) -> None:
        """The registry gets what concerns it, and nothing that a client says of the way here."""
        given = [
            ("Host", "asked.example"),
            ("Authorization", "Basic x"),
            ("Content-Length", "5"),
            ("Expect", "100-continue"),
            ("Forwarded", "for=1.2.3.4"),
            ("X-Forwarded-Proto", "http"),
            ("TE", "trailers"),
            ("Proxy-Authorization", "Basic y"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("X-Real_IP", "1.2.3.4"),
            ("Transfer_Encoding", "chunked"),
            ("Content_Length", "5"),
            ("X-Original-URL", "/v2/other"),
            ("X-Rewrite-URL", "/v2/other"),
            ("Proxy", "http://evil.example"),
            ("Cookie", "__Host-session=s; a=b; contentcache-form=f"),
            ("cookie", "contentcache-session=t"),
        ]
        found = BEHIND.to_registry(
            given, Caller("192.0.2.1", "asked.example", "https://asked.example"), "1.1 me"
        )
        self.assertEqual(
            found,
            [
                ("Host", "registry.internal:5000"),
                ("Authorization", "Basic x"),
                ("Cookie", "a=b"),
                ("X-Forwarded-For", "192.0.2.1"),
                ("X-Forwarded-Host", "asked.example"),
                ("X-Forwarded-Proto", "https"),
                ("Via", "1.1 me"),
            ],
        )

    def test_hop_by_hop(self) -> None:
        """What ``Connection`` names goes with it, in any case and over several fields."""
        given = [("connection", "X-a , close"), ("Connection", "x-B"), ("X-A", "1"), ("x-b", "2"), ("Y", "3")]
        self.assertEqual(end_to_end(given), [("Y", "3")])
