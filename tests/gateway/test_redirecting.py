"""
Tests for :mod:`contentcache.gateway.redirecting`.
"""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, urlsplit

from contentcache.core.digest import Digest
from contentcache.jose.blob_tokens import parse_blob_token, verify_blob_token
from tests.gateway.house import CACHE, NOW, PUBLIC, GatewayTestCase, request
from tests.web.house import Reply

DIGEST = Digest.of(b"content")
BLOB = f"/v2/org/app/blobs/{DIGEST}"
ANN = "Authorization: Basic " + base64.b64encode(b"ann:secret").decode()


class RedirectTests(GatewayTestCase):
    """
    Blobs for which the registry says yes.
    """

    def setUp(self) -> None:
        super().setUp()
        self.choices.cache = CACHE

    def answered(self, *answer: str, fields: tuple[str, ...] = (ANN,), method: str = "GET") -> Reply | None:
        """
        What the client is told after the registry's answer to the first question; ``None`` for nothing yet.
        """
        client, line = self.ask(BLOB, *fields, method=method)
        self.assertTrue(line.head()[0].startswith("HEAD "))
        status, *more = answer
        line.say("\r\n".join([f"HTTP/1.1 {status}", *more, "", ""]))
        found = client.replies(method)
        self.connections.close()
        return found[0] if found else None

    def test_yes(self) -> None:
        """
        A yes is a redirect to a URL that lets exactly this account pull exactly this blob, for a while.
        """
        for method in ("GET", "HEAD"):
            reply = self.answered("200 OK", "Content-Length: 1000", method=method)
            assert reply is not None
            self.assertEqual((reply.status, reply.body), (307, b""))
            self.assertEqual(reply.header("Cache-Control"), "no-store")
            self.assertEqual(reply.header("Referrer-Policy"), "no-referrer")
            url = urlsplit(reply.header("Location") or "")
            self.assertEqual(f"{url.scheme}://{url.netloc}{url.path}", CACHE + BLOB)
            (token,) = parse_qs(url.query)["token"]
            presented = parse_blob_token(token)
            key = self.ring.key_set().find(presented.kid)
            signed = verify_blob_token(
                presented, key, issuer=PUBLIC, repository="org/app", digest=DIGEST, now=NOW + 1199
            )
            self.assertEqual((signed.subject, signed.expires), ("ann", NOW + 1200))
            self.assertNotIn(token, str(self.written))
        self.assertEqual(self.choices.asked, [("ann", "192.0.2.1")] * 2)

    def test_log(self) -> None:
        """
        The access log says who was sent to a cache.
        """
        for method in ("GET", "HEAD"):
            self.answered("200 OK", "Content-Length: 1000", method=method)
        self.assertEqual(
            [(line.method, line.status, line.cache) for line in self.written],
            [("GET", 307, "redirect"), ("HEAD", 307, "redirect")],
        )

    def test_question(self) -> None:
        """
        The registry is asked about all of the blob, by the client's own credentials.
        """
        _, line = self.ask(BLOB, ANN, "Range: bytes=5-", 'If-None-Match: "x"', "Accept: a/b")
        first, fields, _ = line.head()
        self.assertEqual(first, f"HEAD {BLOB} HTTP/1.1")
        self.assertEqual(fields["authorization"], ANN.partition(": ")[2])
        self.assertEqual(fields["accept"], "a/b")
        self.assertNotIn("range", fields)
        self.assertNotIn("if-none-match", fields)

    def test_yes_by_redirect(self) -> None:
        """
        A registry that redirects to its storage has said yes; one that redirects to itself has said nothing.
        """
        for location, status in (
            ("https://storage.example.com/x", 307),
            ("http://registry.internal:5000/other", None),
            ("/other", None),
        ):
            reply = self.answered("307 Temporary Redirect", f"Location: {location}", "Content-Length: 0")
            self.assertEqual(None if reply is None else reply.status, status, location)

    def test_no(self) -> None:
        """
        What is no yes goes to the registry as it came, and its own answer to the client.
        """
        for status in (
            "401 Unauthorized",
            "403 Forbidden",
            "404 Not Found",
            "405 No",
            "429 Slow",
            "304 Same",
        ):
            client, line = self.ask(BLOB, ANN, "Range: bytes=5-")
            line.head()
            line.say(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
            first, fields, _ = line.head()
            self.assertEqual((first, fields["range"]), (f"GET {BLOB} HTTP/1.1", "bytes=5-"))
            line.answer(status, b"{}")
            reply = self.reply(client)
            self.assertEqual((str(reply.status), reply.body), (status[:3], b"" if "304" in status else b"{}"))
            self.connections.close()
            self.wires.lines.clear()
            self.factory = self.build()

    def test_small(self) -> None:
        """
        A small blob comes straight from the registry, an empty one too; one whose size nobody says, does not.
        """
        self.assertIsNone(self.answered("200 OK", "Content-Length: 0"))
        self.connections.close()
        self.wires.lines.clear()
        self.factory = self.build()
        self.assertIsNone(self.answered("200 OK", "Content-Length: 999"))
        self.connections.close()
        client, line = self.ask(BLOB, ANN)
        line.say("HTTP/1.1 200 OK\r\n\r\n")
        self.assertEqual(self.reply(client).status, 307)

    def test_no_cache(self) -> None:
        """
        Who has no cache that lives is served here, with one question; so is everybody when nobody knows.
        """
        for cache in (None, RuntimeError("the database is gone")):
            self.choices.cache = cache
            client, line = self.ask(BLOB, ANN)
            self.assertEqual(line.head()[0], f"GET {BLOB} HTTP/1.1")
            line.answer("200 OK", b"content")
            self.assertEqual(self.reply(client).body, b"content")
            self.connections.close()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual([access.cache for access in self.written], ["direct", "direct"])

    def test_caches(self) -> None:
        """
        A cache that asks with its client's credentials is never sent to a cache.
        """
        client, line = self.ask(BLOB, ANN, "Via: 1.1 fred, 1.1 contentcache-0123")
        self.assertEqual(line.head()[0], f"GET {BLOB} HTTP/1.1")
        line.answer("200 OK", b"content")
        self.assertEqual(self.reply(client).status, 200)
        self.assertEqual(self.choices.asked, [])

    def test_accounts(self) -> None:
        """
        The account is the user of a password or the subject of a token, and nobody for all else.
        """

        def token(claims: object) -> str:
            part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
            return f"Authorization: Bearer e30.{part}.x"

        cases = {
            ANN: "ann",
            token({"sub": "bob"}): "bob",
            token({"sub": ""}): None,
            token({"sub": 7}): None,
            token([]): None,
            "Authorization: Bearer opaque": None,
            "Authorization: Bearer a.b.c": None,
            "Authorization: Basic !!!": None,
            "Authorization: Negotiate x": None,
            "Accept: */*": None,
        }
        for header in cases:
            self.ask(BLOB, header)[1].answer("404 Not Found")
            self.connections.close()
            self.wires.lines.clear()
        self.assertEqual([account for account, _ in self.choices.asked], list(cases.values()))

    def test_registry_away(self) -> None:
        """
        A registry that does not answer has not said yes.
        """
        self.wires.refuse()
        client = self.client().send(request(BLOB, ANN))
        self.assertEqual(self.reply(client).status, 503)

    def test_others(self) -> None:
        """
        Only blobs are redirected, and only reading them.
        """
        for target, method in (
            ("/v2/org/app/manifests/1", "GET"),
            (f"/v2/org/app/manifests/{DIGEST}", "GET"),
            (BLOB, "DELETE"),
            ("/v2/org/app/blobs/sha256:short", "GET"),
            ("/v2/org/blobs/uploads/1", "GET"),
        ):
            _, line = self.ask(target, ANN, method=method)
            self.assertEqual(line.head()[0], f"{method} {target} HTTP/1.1")
        self.assertEqual(self.choices.asked, [])
