"""Tests for :mod:`contentcache.gateway.header_rewriting`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.routes import Content
from contentcache.gateway.header_rewriting import HeaderRewriter, end_to_end
from contentcache.jose.blob_tokens import sign_blob_token
from contentcache.server.public_name import Caller
from tests.gateway.in_memory import NOW, PUBLIC, Client, GatewayTestCase
from tests.registry.harness import Reply

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
        """A URL of the registry, or of its gateway by any of its names, becomes relative; all others stay."""
        for given, expected in LOCATIONS.items():
            found = BEHIND.to_client([("Location", given)], "asked.example:8080")
            self.assertEqual(found, [("Location", expected)])

    def test_links(self) -> None:
        """Every link in a list is rewritten."""
        given = '<http://registry.internal:5000/v2/_catalog?last=a>; rel="next", <https://x.example/y>'
        (found,) = BEHIND.to_client([("Link", given)], "")
        self.assertEqual(found[1], '</v2/_catalog?last=a>; rel="next", <https://x.example/y>')

    def test_challenges(self) -> None:
        """A realm that names the registry gets the gateway's own URL."""
        for given, expected in CHALLENGES.items():
            found = BEHIND.to_client([("WWW-Authenticate", given)], "")
            self.assertEqual(found, [("WWW-Authenticate", expected)])

    def test_prefix(self) -> None:
        """With a prefix, URLs of the API have it."""
        below = HeaderRewriter("http://r:5000", "https://g.example", "/in")
        for given, expected in (
            ("http://r:5000/v2/a", "/in/v2/a"),
            ("/v2/a", "/in/v2/a"),
            ("http://r:5000/token", "/token"),
        ):
            self.assertEqual(below.to_client([("Location", given)], ""), [("Location", expected)])

    def test_empty_host(self) -> None:
        """Without a ``Host``, no further URL counts as the gateway's own."""
        self.assertEqual(BEHIND.to_client([("Location", "http:///x")], ""), [("Location", "http:///x")])

    def test_registry(self) -> None:
        """The registry gets the client's own fields, and nothing that a client states about proxies."""
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
            ("X-Request-Id", "build-7"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=b"),
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
        """Fields that ``Connection`` names are removed with it, in any case and over several fields."""
        given = [("connection", "X-a , close"), ("Connection", "x-B"), ("X-A", "1"), ("x-b", "2"), ("Y", "3")]
        self.assertEqual(end_to_end(given), [("Y", "3")])


DIGEST = Digest.of(b"content")
POLICY = "sandbox; default-src 'none'"


class IsolationTests(GatewayTestCase):
    """Responses on the web origin of the gateway's pages."""

    def answered(
        self, target: str, *fields: str, status: str = "200 OK", method: str = "GET", asks: int = 1
    ) -> Reply:
        """The client's copy of the registry's response."""
        client, line = self.ask(target, method=method)
        lines = [
            f"HTTP/1.1 {status}",
            *fields,
            *([] if status[:3] in {"204", "304"} else ["Content-Length: 0"]),
        ]
        for _ in range(asks):
            line.say("\r\n".join([*lines, "", ""]))
        self.connections.close()
        return self.reply(client, method)

    def guarded(self, reply: Reply) -> None:
        """Nothing of it can run, and its type is not sniffed."""
        self.assertEqual(reply.headers.getRawHeaders("X-Content-Type-Options"), ["nosniff"])
        self.assertEqual(reply.headers.getRawHeaders("Content-Security-Policy"), [POLICY])

    def test_api(self) -> None:
        """Every response of the registry's API is sandboxed, whatever its own fields say."""
        for target in ("/v2/", "/v2/org/app/manifests/1", f"/v2/org/app/blobs/{DIGEST}", "/v2/x/anything"):
            for status in (
                "200 OK",
                "206 Partial Content",
                "307 Temporary Redirect",
                "404 Not Found",
                "500 Oops",
            ):
                reply = self.answered(
                    target,
                    "Content-Type: text/html",
                    "Content-Security-Policy: script-src *",
                    "Content-Security-Policy-Report-Only: default-src 'self'",
                    "X-Content-Type-Options: sniff",
                    "Refresh: 0; url=https://evil.example/",
                    status=status,
                )
                self.guarded(reply)
                self.assertEqual(reply.header("Content-Type"), "text/html")
                self.assertIsNone(reply.header("Refresh"))
                self.assertIsNone(reply.header("Content-Security-Policy-Report-Only"))

    def test_no_type(self) -> None:
        """A body without a type, or with an empty one, is octets; a response without a body gets no type."""
        for fields in ((), ("Content-Type:",), ("Content-Type:  ",)):
            reply = self.answered("/v2/org/app/manifests/1", *fields)
            self.assertEqual(reply.headers.getRawHeaders("Content-Type"), ["application/octet-stream"])
        self.assertIsNone(self.answered("/v2/org/app/manifests/1", method="HEAD").header("Content-Type"))
        self.assertIsNone(self.answered("/v2/x", status="304 Not Modified").header("Content-Type"))

    def test_cookies(self) -> None:
        """No response sets a cookie that the admin site would read, with TLS or without; others are forwarded."""
        ours = (
            "contentcache-session=x",
            "contentcache-session",
            "contentcache-form=x; Path=/",
            "__Host-session=x; Secure; Path=/",
            "__host-Session=x",
            " \t__Host-form\t =x",
            "=__Host-session=x",
            "= contentcache-session=x",
            "__Host-session",
            "a b=1",
            '"contentcache-session"=x',
        )
        for target in ("/v2/", "/console/"):
            self.factory = self.build(paths=("/console",))
            reply = self.answered(target, *(f"Set-Cookie: {each}" for each in (*ours, "sid=1; Path=/")))
            self.assertEqual(reply.headers.getRawHeaders("Set-Cookie"), ["sid=1; Path=/"])

    def test_promises_about_the_host(self) -> None:
        """Fields of the registry about the host as a whole are removed."""
        self.factory = self.build(paths=("/console",))
        for target in ("/v2/", "/console/"):
            reply = self.answered(
                target,
                'Clear-Site-Data: "cookies"',
                "Service-Worker-Allowed: /",
                "Strict-Transport-Security: max-age=1",
                "NEL: {}",
                "Report-To: {}",
                "Alt-Svc: h3=x",
            )
            names = {name.decode().lower() for name, _ in reply.headers.getAllRawHeaders()}
            self.assertFalse(
                names & {"clear-site-data", "service-worker-allowed", "nel", "report-to", "alt-svc"}
                | names & {"strict-transport-security"}
            )

    def test_pages_of_the_registry(self) -> None:
        """
        Pages that the operator has listed keep their scripts and their own policy, and are not sniffed; paths
        that are forwarded only as realms are sandboxed.
        """
        self.factory = self.build(paths=("/console",))
        reply = self.answered(
            "/console/", "Content-Type: text/html", "Content-Security-Policy: default-src 'self'"
        )
        self.assertEqual(reply.headers.getRawHeaders("Content-Security-Policy"), ["default-src 'self'"])
        self.assertEqual(reply.headers.getRawHeaders("X-Content-Type-Options"), ["nosniff"])
        challenge = 'WWW-Authenticate: Bearer realm="http://registry.internal:5000/token"'
        self.answered("/v2/", challenge, status="401 Unauthorized")
        self.guarded(self.answered("/token"))

    def test_filled(self) -> None:
        """A blob that is served by a signed URL is sandboxed."""
        self.own_registry_sends(200, {"Content-Type": "image/svg+xml", "Content-Length": "4"}, [b"<svg"])
        content = Content("org/app", "blobs", DIGEST)
        token = sign_blob_token(
            self.signer,
            issuer=PUBLIC,
            subject="",
            repository="org/app",
            digest=DIGEST,
            now=NOW,
            lifetime=60,
        )
        self.guarded(self.client().ask(f"{content.path()}?token={token}"))

    def test_our_own(self) -> None:
        """The gateway's own responses are sandboxed as well, errors too."""

        def ask(target: str, method: str = "GET") -> Client:
            return self.client().send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n")

        for target in ("/", "/ca", "/.well-known/contentcache/jwks.json", "/v2/..;/x"):
            self.guarded(self.reply(ask(target)))
        self.guarded(self.reply(ask("/", "POST")))
        self.endpoint.refuse()
        self.guarded(self.reply(ask("/nowhere")))
        self.guarded(self.reply(ask("/v2/")))
