"""Tests for :mod:`contentcache.gateway.router`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cryptography.x509 import load_pem_x509_certificates
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from contentcache.config.model import ServerTLS
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError
from contentcache.core.routes import Content, kind_of
from contentcache.gateway.router import CACertificate, read_path, route_at
from contentcache.jose.keyset import parse_key_set
from contentcache.tls.files import TLSConfigurationError
from tests.gateway.in_memory import GatewayTestCase, request
from tests.tls.certificates import make

_TOKEN = "/service/token?service=registry&scope=repository:a:pull"


class Echo(Resource):
    """Responds with what was requested."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        """Path, method and body."""
        if request.method == b"PUT":
            request.write(b"later")
            request.finish()
            return NOT_DONE_YET
        content = request.content.read()
        said = [request.method, request.path, *request.prepath, *request.postpath, content]
        return b"|".join(said)


class OwnTests(GatewayTestCase):
    """The gateway's own responses."""

    def ask_us(self, target: str, *fields: str, method: str = "GET") -> Any:
        """A response for which the registry is not asked."""
        reply = self.client().ask(target, *fields, method=method)
        self.assertEqual(self.endpoint.lines, [])
        return reply

    def test_alive(self) -> None:
        """``GET /`` is 200 whatever the registry does."""
        for method in ("GET", "HEAD"):
            self.assertEqual(self.ask_us("/", method=method).status, 200)
        self.assertEqual(self.ask_us("/", method="DELETE").status, 405)

    def test_browser(self) -> None:
        """A browser that asks for ``/`` gets to the pages; programs keep their answer."""
        accept = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
        reply = self.ask_us("/", accept)
        self.assertEqual((reply.status, reply.header("Location")), (302, "/settings"))
        for field in ("Accept: */*", "Accept: application/json", "Accept: text/html;q=0"):
            reply = self.ask_us("/", field)
            self.assertEqual((reply.status, reply.header("Vary"), reply.body), (200, "Accept", b""))

    def test_keys(self) -> None:
        """The keys are a JWK set with a freshness of five minutes."""
        reply = self.ask_us("/.well-known/contentcache/jwks.json")
        self.assertEqual(reply.header("Content-Type"), "application/jwk-set+json")
        self.assertEqual(reply.header("Cache-Control"), "public, max-age=300")
        self.assertEqual(list(parse_key_set(reply.body).keys), [self.signer.kid])
        self.key_files.keys = None
        self.assertEqual(self.ask_us("/.well-known/contentcache/jwks.json").status, 503)

    def test_authority(self) -> None:
        """``GET /ca`` has the certificate; without TLS there is none."""
        self.assertEqual(self.ask_us("/ca").status, 404)
        self.factory = self.build(ca=b"PEM")
        reply = self.ask_us("/ca")
        self.assertEqual((reply.body, reply.header("Content-Type")), (b"PEM", "application/x-pem-file"))

    def test_hostile(self) -> None:
        """Ambiguous targets are 400 before the registry is asked."""
        for target in (
            "/v2/../v2/",
            "/v2/a/./b/tags/list",
            "/v2/a//b/tags/list",
            "/v2/a%2f/tags/list",
            "/v2/a%2F%2Fb/tags/list",
            "/v2/a%2F..%2Fb/tags/list",
            "/v2/a/%2E%2F/b",
            "/v2%2F../token",
            "/v2/%2e%2e/tags/list",
            "/v2/..;/token",
            "/v2/..;a=b/token",
            "/v2/.;/token",
            "/v2/;/token",
            "/v2/a/..;",
            "/v2/..%3b/token",
            "/v2/..%3B/token",
            "/v2/.%2e;/token",
            "/v2/..%20/token",
            "/v2/.../token",
            "/v2/%c0%ae%c0%ae/token",
            "/v2/%e0%80%ae./token",
            "/v2/a%ef%bc%8f..%ef%bc%8fb",
            "/v2/%e2%80%a5/token",
            "/v2/%u002e./token",
            "/v2/..%5c/token",
            "/v2/a%5cb/tags/list",
            "/v2/a%252fb/tags/list",
            "/v2/a%00b/tags/list",
            "/v2/a\\b/tags/list",
            "/v2/a%/tags/list",
            "/v2/a/..",
            "*",
            "v2/",
        ):
            for method in ("GET", "PUT"):
                self.assertEqual(self.ask_us(target, method=method).status, 400, target)

    def test_escaped_names(self) -> None:
        """Escaped slashes in names and colons in digests are what they stand for, for the registry too."""
        for target, path in (
            ("/v2/org%2Fapp/tags/list?x=%2F", "/v2/org/app/tags/list?x=%2F"),
            ("/v2/org%2fapp/manifests/sha256%3aab", "/v2/org/app/manifests/sha256:ab"),
            ("/v2/org%2Fapp/blobs/uploads/a%2Bb", "/v2/org/app/blobs/uploads/a%2Bb"),
        ):
            _, line = self.ask(target)
            self.assertEqual(line.head()[0], f"GET {path} HTTP/1.1")
            self.connections.close()
        self.assertEqual(self.client().ask("/service%2Ftoken").status, 400)

    def test_methods(self) -> None:
        """``TRACE`` and ``CONNECT`` are refused."""
        for method in ("TRACE", "CONNECT"):
            self.assertEqual(self.ask_us("/v2/", method=method).status, 405)

    def test_extra(self) -> None:
        """The operator's headers are in every response, the registry's and early refusals too."""
        self.factory = self.build(extra={"X-Mine": ("1",)})
        self.assertEqual(self.ask_us("/").header("X-Mine"), "1")
        for method in ("TRACE", "CONNECT"):
            self.assertEqual(self.ask_us("/v2/", method=method).header("X-Mine"), "1")
        client, line = self.ask("/v2/")
        line.answer()
        self.assertEqual(self.reply(client).header("X-Mine"), "1")

    def test_extra_for_other_origins(self) -> None:
        """
        What the operator lets scripts of other origins do with the registry they cannot do with accounts and
        caches.
        """
        extra = {"Access-Control-Allow-Origin": ("*",), "access-control-allow-credentials": ("true",)}
        self.pages = Echo()
        self.factory = self.build(extra={**extra, "X-Mine": ("1",)})
        for target in ("/settings", "/api/v0/content_caches", "/caches"):
            reply = self.ask_us(target)
            self.assertEqual(reply.header("X-Mine"), "1")
            self.assertIsNone(reply.header("Access-Control-Allow-Origin"))
            self.assertIsNone(reply.header("Access-Control-Allow-Credentials"))
        self.assertEqual(self.ask_us("/").header("Access-Control-Allow-Origin"), "*")

    def test_prefix(self) -> None:
        """Everything is found below the prefix; and without it too, since caches do not know it."""
        self.factory = self.build(prefix="/in/")
        self.assertEqual(self.ask_us("/in/").status, 200)
        self.assertEqual(self.ask_us("/.well-known/contentcache/jwks.json").status, 200)
        client, line = self.ask("/in/v2/_catalog?n=1")
        self.assertEqual(line.head()[0], "GET /v2/_catalog?n=1 HTTP/1.1")
        line.answer("200 OK", b"{}", 'Link: </v2/_catalog?last=a&n=1>; rel="next"')
        self.assertEqual(self.reply(client).header("Link"), '</in/v2/_catalog?last=a&n=1>; rel="next"')


class PagesTests(GatewayTestCase):
    """The admin site, which is a resource of twisted.web."""

    def setUp(self) -> None:
        super().setUp()
        self.pages = Echo()
        self.factory = self.build()

    def test_paths(self) -> None:
        """The site's paths are its own, and none of the registry's or of the gateway's other answers."""
        for target in ("/api", "/api/", "/api/v0/content_caches?x", "/settings", "/caches/x/test", "/api?x"):
            self.assertIn(b"GET|/", self.client().ask(target).body, target)
        for target in ("/", "/v2/", "/v2/api/blobs/x", "/apis", "/cachesx", "//api", "api", "/ca"):
            self.endpoint.refuse()
            self.assertNotIn(b"GET|/", self.client().ask(target).body, target)

    def test_request(self) -> None:
        """It gets the path in parts, decoded, and a small body in memory."""
        client = self.client()
        client.send(request("/api/v0/accounts/a%20b?x=1", "Content-Length: 5", method="PATCH"))
        self.assertEqual(client.replies(), [])
        client.send("hello")
        (reply,) = client.replies()
        self.assertEqual(
            (reply.status, reply.body), (200, b"PATCH|/api/v0/accounts/a%20b|api|v0|accounts|a b|hello")
        )
        self.assertEqual(client.ask("/settings").body, b"GET|/settings|settings|")
        self.assertEqual(client.ask("/caches/", method="HEAD").status, 200)
        self.assertEqual(client.ask("/api", method="PUT").body, b"later")

    def test_large(self) -> None:
        """A body that is too large is 413, by its stated length or when it arrives."""
        client = self.client().send(request("/api/x", "Content-Length: 65537", method="POST"))
        self.assertEqual(self.reply(client).status, 413)
        self.assertTrue(client.ended)
        client = self.client().send(request("/api/x", "Transfer-Encoding: chunked", method="POST"))
        for _ in range(17):
            client.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        reply = self.reply(client)
        self.assertEqual((reply.status, json.loads(reply.body)["errors"][0]["code"]), (413, "SIZE_INVALID"))

    def test_slow(self) -> None:
        """A body that does not arrive is 408."""
        client = self.client().send(request("/api/x", "Content-Length: 10", method="POST"))
        self.clock.advance(60)
        self.assertEqual(self.reply(client).status, 408)


class RealmTests(GatewayTestCase):
    """A token server behind the same host is reached through the gateway."""

    def challenge(self, line: Any) -> None:
        """The registry names a realm on its own host."""
        line.answer(
            "401 Unauthorized",
            b"{}",
            'WWW-Authenticate: Bearer realm="http://registry.internal:5000/service/token",service="registry"',
        )

    def test_learnt(self) -> None:
        """The realm is rewritten to the gateway's own URL, and requests for it are forwarded."""
        client, line = self.ask("/v2/")
        self.challenge(line)
        self.assertEqual(
            self.reply(client).header("WWW-Authenticate"),
            'Bearer realm="https://registry.example.com/service/token",service="registry"',
        )
        client.send(request(_TOKEN, "Authorization: Basic YTpi"))
        self.assertTrue(line.heard.startswith(b"GET /v2/ HTTP/1.1"))
        line.answer("200 OK", b'{"token":"x"}')
        self.assertEqual(client.replies()[-1].body, b'{"token":"x"}')

    def test_asked(self) -> None:
        """After a start the registry is asked for its realms, once in a while, before a path is unknown."""
        client = self.client().send(request(_TOKEN))
        self.assertEqual(self.line.head()[0], "GET /v2/ HTTP/1.1")
        self.challenge(self.line)
        self.assertEqual(self.line.head()[0].split()[1], _TOKEN)
        self.line.answer("200 OK", b"{}")
        self.assertEqual(self.reply(client).status, 200)
        self.assertEqual(self.client().ask("/other").status, 404)
        self.assertEqual(len(self.endpoint.lines), 1)

    def test_elsewhere(self) -> None:
        """Another host's realm is not changed, and adds no path."""
        client, line = self.ask("/v2/")
        value = 'Bearer realm="https://auth.example.com/token",service="r"'
        line.answer("401 Unauthorized", b"", f"WWW-Authenticate: {value}")
        self.assertEqual(self.reply(client).header("WWW-Authenticate"), value)
        client.send(request("/token"))
        line.answer("401 Unauthorized", b"", f"WWW-Authenticate: {value}")
        self.assertEqual(client.replies()[-1].status, 404)

    def test_paths(self) -> None:
        """Paths that the operator lists are forwarded, with what is below them and nothing beside."""
        self.factory = self.build(paths=("/jwt",))
        client, line = self.ask("/jwt/auth?x=1", method="POST")
        self.assertEqual(line.head()[0], "POST /jwt/auth?x=1 HTTP/1.1")
        line.answer()
        self.assertEqual(self.reply(client).status, 200)
        client = self.client().send(request("/jwtx"))
        self.line.answer()
        self.assertEqual(self.reply(client).status, 404)


DIGEST = Digest.of(b"content")

GOOD = (
    "/",
    "/v2/",
    "/v2",
    "/v2/org/app/blobs/uploads/",
    "/v2/org/app/blobs/uploads/AF3b_x-y.z=1",
    "/v2/org/app/blobs/uploads/a%2Bb%3D",
    f"/v2/org/app/blobs/{DIGEST}",
    f"/v2/org/app/blobs/{str(DIGEST).replace(':', '%3A')}",
    "/v2/org/app/manifests/..x",
    "/v2/org/.hidden/tags/list",
)


class TargetTests(SynchronousTestCase):
    """Accepted paths, and those that name a blob."""

    def test_good(self) -> None:
        """Upload locations of registries are accepted, escapes too."""
        for path in GOOD:
            read_path(path)

    @given(st.text("/.%25eEfFcC3bBaA;\\ ", min_size=1, max_size=14))
    def test_hostile(self, text: str) -> None:
        """However often others decode and join an accepted path, it stays below where it was."""
        path = "/v2/" + text
        try:
            read = read_path(path)
        except CacheError as error:
            self.assertEqual(error.status, 400)
            return
        once = unquote(read)
        self.assertEqual(once.count("/"), read.count("/"))
        self.assertEqual(unquote(once), once)
        components = [component.partition(";")[0].rstrip(" ") for component in once.split("/")]
        self.assertFalse({"", ".", ".."} & set(components[1:-1]))
        self.assertNotIn(components[-1], {".", ".."})

    def test_blobs(self) -> None:
        """A blob is what the grammar says, and nothing similar."""
        self.assertEqual(
            route_at(f"/v2/org/app/blobs/{DIGEST}"), Content("org/app", "blobs", Digest.parse(str(DIGEST)))
        )
        for path in (
            f"/v2/Org/app/blobs/{DIGEST}",
            f"/v2/org/app/blobs/{DIGEST}/",
            "/v2/org/app/blobs/uploads/1",
            "/v2/org/app/blobs/sha256:short",
            f"/v1/org/app/blobs/{DIGEST}",
        ):
            self.assertIsNone(route_at(path), path)

    def test_kinds(self) -> None:
        """The metrics say what requests to the registry are about."""
        for path, kind in (
            (f"/v2/org/app/manifests/{DIGEST}", "manifests"),
            ("/v2/org/app/tags/list", "tags"),
            ("/v2/org/app/blobs/uploads/1", "other"),
        ):
            route = route_at(path)
            self.assertEqual("other" if route is None else kind_of(route), kind, path)


class CACertificateTests(SynchronousTestCase):
    """The certificates at ``/ca``."""

    def setUp(self) -> None:
        self.root, self.leaf = make("root"), make("leaf")
        self.chain = Path(self.mktemp())
        self.chain.write_bytes(self.leaf.pem + self.root.pem)
        self.ca = Path(self.mktemp())
        self.ca.write_bytes(b"a comment\n" + self.root.pem)

    def test_plain(self) -> None:
        """Without TLS there is nothing to trust."""
        self.assertIsNone(CACertificate(None).pem)

    def test_chain(self) -> None:
        """The last certificate of the chain; the one there is where it is alone."""
        found = CACertificate(ServerTLS(str(self.chain), "unread")).pem or b""
        self.assertEqual(load_pem_x509_certificates(found), load_pem_x509_certificates(self.root.pem))
        self.chain.write_bytes(self.leaf.pem)
        found = CACertificate(ServerTLS(str(self.chain), "unread")).pem or b""
        self.assertEqual(load_pem_x509_certificates(found), load_pem_x509_certificates(self.leaf.pem))

    def test_file(self) -> None:
        """The file ``ca`` where there is one, its certificates and nothing else; read anew on request."""
        ca = CACertificate(ServerTLS(str(self.chain), "unread", ca=str(self.ca)))
        self.assertNotIn(b"comment", ca.pem or b"")
        self.ca.write_bytes(self.leaf.pem)
        ca.read()()
        self.assertEqual(load_pem_x509_certificates(ca.pem or b""), load_pem_x509_certificates(self.leaf.pem))
        kept = ca.pem
        self.ca.write_bytes(b"nonsense")
        with self.assertRaises(TLSConfigurationError):
            ca.read()()
        self.assertEqual(ca.pem, kept)
