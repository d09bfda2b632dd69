"""Tests for :mod:`contentcache.gateway.isolation`: what a browser may make of the answers of a registry."""

from __future__ import annotations

from contentcache.core.digest import Digest
from contentcache.core.routes import Content
from contentcache.jose.blob_tokens import sign_blob_token
from tests.gateway.in_memory import NOW, PUBLIC, Client, GatewayTestCase
from tests.registry.harness import Reply

DIGEST = Digest.of(b"content")
POLICY = "sandbox; default-src 'none'"


class IsolationTests(GatewayTestCase):
    """Answers on the origin of the gateway's pages."""

    def answered(
        self, target: str, *fields: str, status: str = "200 OK", method: str = "GET", asks: int = 1
    ) -> Reply:
        """What a client gets of the registry's answer."""
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
        """Nothing of it can run, and nobody guesses what it is."""
        self.assertEqual(reply.headers.getRawHeaders("X-Content-Type-Options"), ["nosniff"])
        self.assertEqual(reply.headers.getRawHeaders("Content-Security-Policy"), [POLICY])

    def test_api(self) -> None:
        """Every answer of the registry's API is guarded, whatever the registry says of it."""
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
        """What has no type, or an empty one, is bytes; but nothing is said of what has no body."""
        for fields in ((), ("Content-Type:",), ("Content-Type:  ",)):
            reply = self.answered("/v2/org/app/manifests/1", *fields)
            self.assertEqual(reply.headers.getRawHeaders("Content-Type"), ["application/octet-stream"])
        self.assertIsNone(self.answered("/v2/org/app/manifests/1", method="HEAD").header("Content-Type"))
        self.assertIsNone(self.answered("/v2/x", status="304 Not Modified").header("Content-Type"))

    def test_cookies(self) -> None:
        """No answer sets a cookie that this gateway, or its other half, would read; others pass."""
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
        """The registry says nothing of the host as a whole: not what it keeps, not what it forgets."""
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
        Pages that the operator has listed keep their scripts and their own policy, and are not sniffed; what
        is passed only because tokens are there is guarded.
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
        """A blob that is served to whoever brings a signed URL is guarded."""
        self.fill_with(200, {"Content-Type": "image/svg+xml", "Content-Length": "4"}, [b"<svg"])
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
        """What the gateway itself answers is guarded as well, errors too."""

        def ask(target: str, method: str = "GET") -> Client:
            return self.client().send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n")

        for target in ("/", "/ca", "/.well-known/contentcache/jwks.json", "/v2/..;/x"):
            self.guarded(self.reply(ask(target)))
        self.guarded(self.reply(ask("/", "POST")))
        self.wires.refuse()
        self.guarded(self.reply(ask("/nowhere")))
        self.guarded(self.reply(ask("/v2/")))
