"""Tests for :mod:`contentcache.gateway.blob_redirector`."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from twisted.internet.defer import Deferred

from contentcache.core.digest import Digest
from contentcache.core.errors import UpstreamBroken
from contentcache.gateway.blob_authorization import TargetAnswer
from contentcache.jose.blob_tokens import parse_blob_token, verify_blob_token
from contentcache.jose.claims import unverified_claims
from tests.gateway.in_memory import CACHE, NOW, PUBLIC, FakeDirectory, FakeTarget, GatewayTestCase, request
from tests.registry.harness import Reply

DIGEST = Digest.of(b"content")
BLOB = f"/v2/org/app/blobs/{DIGEST}"
OCTETS = "Content-Type: application/octet-stream"
ANN = "Authorization: Basic " + base64.b64encode(b"ann:secret").decode()


class RedirectTests(GatewayTestCase):
    """Blobs that the registry allows."""

    def setUp(self) -> None:
        super().setUp()
        self.directory.cache = CACHE

    def answered(self, *answer: str, fields: tuple[str, ...] = (ANN,), method: str = "GET") -> Reply | None:
        """The client's status after the registry's response to the first request; ``None`` for nothing yet."""
        client, line = self.ask(BLOB, *fields, method=method)
        self.assertTrue(line.head()[0].startswith("HEAD "))
        status, *more = answer
        line.say("\r\n".join([f"HTTP/1.1 {status}", *more, "", ""]))
        found = client.replies(method)
        self.restart()
        return found[0] if found else None

    def restart(self) -> None:
        """A gateway that has sent the registry nothing yet."""
        self.connections.close()
        self.endpoint.lines.clear()
        self.factory = self.build()

    def test_yes(self) -> None:
        """An allowed blob is a redirect to a URL by which this account can pull this blob, for a while."""
        for method in ("GET", "HEAD"):
            reply = self.answered("200 OK", "Content-Length: 1000", OCTETS, method=method)
            assert reply is not None
            self.assertEqual((reply.status, reply.body), (307, b""))
            self.assertEqual(reply.header("Cache-Control"), "no-store")
            self.assertEqual(reply.header("Referrer-Policy"), "no-referrer")
            url = urlsplit(reply.header("Location") or "")
            self.assertEqual(f"{url.scheme}://{url.netloc}{url.path}", CACHE + BLOB)
            (token,) = parse_qs(url.query)["token"]
            presented = parse_blob_token(token)
            key = self.key_files.key_set().find(presented.kid)
            signed = verify_blob_token(
                presented, key, issuer=PUBLIC, repository="org/app", digest=DIGEST, now=NOW + 1199
            )
            self.assertEqual((signed.subject, signed.expires), ("ann", NOW + 1200))
            self.assertEqual(signed.request_id, reply.header("X-Request-Id"))
            self.assertEqual(signed.request_id, self.written[-1].request_id)
            self.assertNotIn(token, str(self.written))
        self.assertEqual(self.directory.asked, [("ann", "192.0.2.1")] * 2)

    def test_request_id(self) -> None:
        """The claim ``rid`` is the client's own id, where it sends one."""
        reply = self.answered("200 OK", "Content-Length: 1000", OCTETS, fields=(ANN, "X-Request-Id: build-7"))
        assert reply is not None
        (token,) = parse_qs(urlsplit(reply.header("Location") or "").query)["token"]
        self.assertEqual(unverified_claims(token)["rid"], "build-7")
        self.assertEqual((self.written[-1].request_id, self.written[-1].user), ("build-7", "ann"))

    def test_log(self) -> None:
        """The access log says which requests were redirected."""
        for method in ("GET", "HEAD"):
            self.answered("200 OK", "Content-Length: 1000", OCTETS, method=method)
        self.assertEqual(
            [(line.method, line.status, line.cache) for line in self.written],
            [("GET", 307, "redirect"), ("HEAD", 307, "redirect")],
        )
        self.assertEqual(
            self.meter.registry.get_sample_value("contentcache_gateway_redirects_total", {"cache": "near"}), 2
        )

    def test_question(self) -> None:
        """
        The registry is asked about all of the blob, by the client's own credentials, and with nothing else
        that the client sent: neither headers nor query.
        """
        _, line = self.ask(
            BLOB + "?rd=/login",
            ANN,
            "Range: bytes=5-",
            'If-None-Match: "x"',
            "Accept: text/html",
            "Cookie: sid=1",
            "User-Agent: Mozilla/5.0",
            "X-Requested-With: XMLHttpRequest",
            "X-Forwarded-For: 203.0.113.9",
            "Via: 1.1 fred",
        )
        first, fields, _ = line.head()
        self.assertEqual(first, f"HEAD {BLOB} HTTP/1.1")
        self.assertEqual(
            fields,
            {
                "host": "registry.internal:5000",
                "authorization": ANN.partition(": ")[2],
                "accept": "*/*",
                "via": "1.1 contentcache-00000000",
            },
        )

    def test_digest(self) -> None:
        """A digest that the registry states decides; one of another algorithm does not."""
        other = Digest.of(b"content", "sha512")
        for stated, media_type, status in (
            (str(DIGEST), "application/json", 307),
            (str(DIGEST), "text/html", None),
            (str(Digest.of(b"")), "application/octet-stream", None),
            ("sha256:nonsense", "application/octet-stream", None),
            (str(other), "application/octet-stream", 307),
            (str(other), "text/plain", None),
        ):
            digest, kind = f"Docker-Content-Digest: {stated}", f"Content-Type: {media_type}"
            reply = self.answered("200 OK", "Content-Length: 1000", kind, digest)
            self.assertEqual(None if reply is None else reply.status, status, (stated, media_type))

    def test_pages(self) -> None:
        """A page or a message with 200, or any other success, does not count: the request is forwarded."""
        for status, kind in (
            ("200 OK", "text/html; charset=utf-8"),
            ("200 OK", "TEXT/HTML"),
            ("200 OK", "application/xhtml+xml"),
            ("200 OK", "application/json"),
            ("200 OK", "text/plain"),
            ("202 Accepted", "application/octet-stream"),
            ("204 No Content", "application/octet-stream"),
            ("206 Partial Content", "application/octet-stream"),
        ):
            _client, line = self.ask(BLOB, "Accept: text/html")
            line.head()
            line.say(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n")
            first, fields, _ = self.line.head()
            self.assertEqual((first, fields["accept"]), (f"GET {BLOB} HTTP/1.1", "text/html"), kind)
            self.restart()

    def test_says_nothing_of_itself(self) -> None:
        """Where the head states neither digest nor type, the first bytes tell a blob from a page."""
        for body, status in (
            (b"\x1f\x8b" + b"x" * 98, 307),
            (b" \n<!DOCTYPE html>", None),
            (b"<html>", None),
        ):
            for partial in (True, False):
                client, line = self.ask(BLOB, ANN)
                line.head()
                line.say("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")
                first, fields, _ = line.head()
                self.assertEqual((first, fields["range"]), (f"GET {BLOB} HTTP/1.1", "bytes=0-511"))
                if partial:
                    span = f"Content-Range: bytes 0-{len(body) - 1}/2000"
                    line.answer("206 Partial Content", body, span)
                else:
                    line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + body.ljust(600))
                found = client.replies()
                self.assertEqual(found[0].status if found else None, status, (body, partial))
                self.assertEqual(line.aborted, not partial)
                self.restart()

    def test_compressed_bytes(self) -> None:
        """Bytes that the registry has compressed cannot be recognized, so they do not count."""
        for status, fields in (
            ("200 OK", ()),
            ("206 Partial Content", ("Content-Range: bytes 0-99/2000",)),
        ):
            client, line = self.ask(BLOB, ANN)
            line.say("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n")
            line.head()
            line.answer(status, gzip.compress(b"<html>"), "Content-Encoding: gzip", *fields)
            self.assertEqual(client.replies(), [])
            self.restart()

    def through(self, location: str, again: str | None = None) -> Reply | None:
        """The client's status after the registry has redirected ``HEAD``, and ``GET`` of the first byte."""
        client, line = self.ask(BLOB, ANN)
        line.head()
        line.say(f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
        first, fields, _ = line.head()
        if "range" in fields:
            self.assertEqual((first, fields["range"]), (f"GET {BLOB} HTTP/1.1", "bytes=0-0"))
            line.answer("302 Found", b"", f"Location: {again or location}")
        found = client.replies()
        self.restart()
        return found[0] if found else None

    def test_yes_by_redirect(self) -> None:
        """
        A redirect to a storage that serves the first byte counts; the storage is asked at the URL that was
        signed for ``GET``.
        """
        for answer in (
            TargetAnswer(206, ["binary/octet-stream"], 1000),
            TargetAnswer(206, [], None),
            TargetAnswer(200, ["application/octet-stream"], 1000),
            TargetAnswer(200, [], None, b"\x1f\x8b"),
        ):
            self.target.answer = answer
            reply = self.through("https://storage.example.com/head", "https://storage.example.com/get")
            self.assertEqual(None if reply is None else reply.status, 307, answer)
        self.assertEqual(set(self.target.asked), {"https://storage.example.com/get"})

    def test_no_by_redirect(self) -> None:
        """
        A redirect that ends on a page to sign in, on a refusal or nowhere does not count; nor does one to a
        storage that has a small blob.
        """
        for answer in (
            TargetAnswer(200, ["text/html"]),
            TargetAnswer(206, ["text/html"], 1000),
            TargetAnswer(200, ["application/json"]),
            TargetAnswer(200, [], None, b"<html>"),
            TargetAnswer(401),
            TargetAnswer(403),
            TargetAnswer(204),
            TargetAnswer(206, ["binary/octet-stream"], 999),
            UpstreamBroken("the registry redirects to a private address"),
        ):
            self.target.answer = answer
            self.assertIsNone(self.through("https://login.example.com/start?rd=x"), answer)

    def test_redirect_to_itself(self) -> None:
        """A redirect to the registry itself states nothing, and is not followed."""
        self.target.answer = TargetAnswer(206)
        for location in (
            "http://registry.internal:5000/login",
            "/login",
            "//registry.internal:5000/x",
            "",
            "login?rd=x",
        ):
            self.assertIsNone(self.through(location), location)
        self.assertIsNone(self.through("https://storage.example.com/x", "/login"))
        self.assertEqual(self.target.asked, [])

    def test_head_costs_one_question(self) -> None:
        """``HEAD`` of a missing blob is answered with the registry's response to the one request."""
        for status in ("404 Not Found", "401 Unauthorized", "403 Forbidden", "429 Slow", "200 OK"):
            client, line = self.ask(BLOB, ANN, method="HEAD")
            line.head()
            line.say(f"HTTP/1.1 {status}\r\nContent-Length: 7\r\n{OCTETS}\r\nX-Own: \xe9\r\n\r\n")
            reply = self.reply(client, "HEAD")
            self.assertEqual((str(reply.status), reply.header("Content-Length")), (status[:3], "7"))
            self.assertEqual(reply.headers.getRawHeaders(b"X-Own"), [b"\xe9"])
            self.assertEqual((len(self.endpoint.lines), line.heard), (1, b""))
            self.restart()
        self.assertEqual({access.cache for access in self.written}, {"direct"})

    def test_missing_costs_one_question(self) -> None:
        """``GET`` of a blob that is missing is the registry's 404, with its fields and an error in its form."""
        client, line = self.ask(BLOB, ANN, "Range: bytes=5-", "User-Agent: docker/29")
        line.head()
        line.say(
            "HTTP/1.1 404 Not Found\r\nContent-Length: 70\r\nContent-Type: application/json\r\n"
            "Content-Encoding: gzip\r\nETag: x\r\nX-Own: \xe9\r\n\r\n"
        )
        reply = self.reply(client)
        self.assertEqual((reply.status, json.loads(reply.body)["errors"][0]["code"]), (404, "BLOB_UNKNOWN"))
        self.assertEqual(reply.headers.getRawHeaders(b"X-Own"), [b"\xe9"])
        self.assertEqual(reply.header("Content-Type"), "application/json")
        self.assertEqual((reply.header("Content-Encoding"), reply.header("ETag")), (None, None))
        self.assertEqual((len(self.endpoint.lines), line.heard), (1, b""))
        self.assertEqual([access.cache for access in self.written], ["direct"])

    def test_missing_is_asked_again(self) -> None:
        """A 404 that may differ for the client's own request, or is a page, does not answer it."""
        for target, field, kind in (
            (BLOB, "Cookie: sid=1", "application/json"),
            (BLOB, "X-Api-Key: 1", "application/json"),
            (BLOB + "?key=1", "Accept: */*", "application/json"),
            (BLOB, "Accept: */*", "text/html"),
        ):
            client, line = self.ask(target, ANN, field)
            line.head()
            line.say(f"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\nContent-Type: {kind}\r\n\r\n")
            self.assertEqual(line.head()[0], f"GET {target} HTTP/1.1")
            line.answer("200 OK", b"own")
            self.assertEqual(self.reply(client).body, b"own")
            self.restart()

    def test_redirected_costs_one_question(self) -> None:
        """
        A registry that has redirected a blob is asked with ``GET`` of the first bytes at once, for ``GET``
        and ``HEAD`` of clients, and what that proves is checked as before.
        """
        self.target.answer = TargetAnswer(206, ["binary/octet-stream"], 1000)
        for method in ("HEAD", "GET"):
            self.restart()
            self.redirect_first()
            for answer, location, allowed in (
                (TargetAnswer(206, [], 1000), "https://storage.example.com/x", True),
                (TargetAnswer(200, ["text/html"]), "https://login.example.com/x", False),
                (TargetAnswer(206), "/login", False),
            ):
                self.target.answer = answer
                client = self.client().send(request(BLOB, ANN, method=method))
                first, fields, _ = self.line.head()
                self.assertEqual((first, fields["range"]), (f"GET {BLOB} HTTP/1.1", "bytes=0-511"))
                self.line.answer("307 Temporary Redirect", b"", f"Location: {location}")
                if allowed:
                    self.assertEqual(self.line.heard, b"")
                    self.assertEqual(self.reply(client, method).status, 307)
                    self.assertTrue((self.reply(client, method).header("Location") or "").startswith(CACHE))
                else:
                    # The client's own request, and the registry's own answer to it.
                    self.assertEqual(self.line.head()[0], f"{method} {BLOB} HTTP/1.1")
                    self.line.answer("302 Found", b"", "Location: /login")
                    self.assertEqual(self.reply(client, method).status, 302)

    def redirect_first(self) -> None:
        """Let the registry redirect a blob."""
        location = "Location: https://storage.example.com/x"
        client, line = self.ask(BLOB, ANN)
        for first in (f"HEAD {BLOB} HTTP/1.1", f"GET {BLOB} HTTP/1.1"):
            self.assertEqual(line.head()[0], first)
            line.answer("307 Temporary Redirect", b"", location)
        self.assertEqual(self.reply(client).status, 307)

    def test_redirecting_registry_refuses(self) -> None:
        """
        A refusal by a registry that redirects costs ``HEAD`` one request, and a blob that is missing ``GET``
        too. A registry that sends its blobs whole is asked with ``HEAD`` again.
        """
        self.target.answer = TargetAnswer(206, ["binary/octet-stream"], 1000)
        self.redirect_first()
        for method, status in (("HEAD", "401 No"), ("HEAD", "403 No"), ("HEAD", "404 No"), ("GET", "404 No")):
            client = self.client().send(request(BLOB, ANN, method=method))
            self.line.head()
            self.line.answer(status, b"{}", "WWW-Authenticate: Basic realm=x")
            self.assertEqual((str(self.reply(client, method).status), self.line.heard), (status[:3], b""))
            self.assertEqual(self.reply(client, method).header("WWW-Authenticate"), "Basic realm=x")
        for _ in range(2):
            client = self.client().send(request(BLOB, ANN))
            first, _, _ = self.line.head()
            self.line.answer("200 OK", b"x" * 2000, OCTETS)
            self.assertEqual(self.reply(client).status, 307)
        self.assertEqual(first, f"HEAD {BLOB} HTTP/1.1")

    def test_no(self) -> None:
        """A request that is not clearly allowed is forwarded, and the client gets the registry's own response."""
        for status in (
            "401 Unauthorized",
            "403 Forbidden",
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
            self.restart()

    def test_small(self) -> None:
        """A small blob comes straight from the registry, an empty one too, but not one of unknown size."""
        for length in ("0", "999"):
            self.assertIsNone(self.answered("200 OK", f"Content-Length: {length}", OCTETS))
        reply = self.answered("200 OK", OCTETS)
        self.assertEqual(None if reply is None else reply.status, 307)

    def test_no_cache(self) -> None:
        """A client without an alive cache is served directly, by one request; so are all when the choice fails."""
        for cache in (None, RuntimeError("the database is gone")):
            self.directory.cache = cache
            client, line = self.ask(BLOB, ANN)
            self.assertEqual(line.head()[0], f"GET {BLOB} HTTP/1.1")
            line.answer("200 OK", b"content")
            self.assertEqual(self.reply(client).body, b"content")
            self.connections.close()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual([access.cache for access in self.written], ["direct", "direct"])

    def test_caches(self) -> None:
        """A cache that asks with its client's credentials is never redirected."""
        client, line = self.ask(BLOB, ANN, "Via: 1.1 fred, 1.1 contentcache-0123")
        self.assertEqual(line.head()[0], f"GET {BLOB} HTTP/1.1")
        line.answer("200 OK", b"content")
        self.assertEqual(self.reply(client).status, 200)
        self.assertEqual(self.directory.asked, [])

    def test_cache_does_not_answer(self) -> None:
        """No client is sent to a cache that does not answer now; and no cache is probed for a refused client."""
        self.directory.answers = False
        self.assertIsNone(self.answered("200 OK", "Content-Length: 1000", OCTETS))
        head = self.answered("200 OK", "Content-Length: 1000", OCTETS, method="HEAD")
        self.assertEqual(None if head is None else head.status, 200)
        self.assertEqual([cache.host for cache in self.directory.probed], [CACHE, CACHE])
        self.directory.answers = True
        self.answered("403 Forbidden")
        self.answered("200 OK", "Content-Length: 10", OCTETS)
        self.assertEqual(len(self.directory.probed), 2)

    def test_client_leaves(self) -> None:
        """
        A client that disconnects while the registry, its storage or a cache is asked cancels that: no further
        request, no traceback, no connection.
        """
        waiting: list[Deferred[Any]] = []

        async def wait(*_: object) -> Any:
            waiting.append(Deferred())
            return await waiting[-1]

        for stage in ("head", "storage", "cache"):
            self.restart()
            if stage == "storage":
                self.patch(FakeTarget, "first_byte", wait)
            self.patch(FakeDirectory, "is_answering", wait)
            client, line = self.ask(BLOB, ANN)
            line.head()
            if stage == "storage":
                for _ in range(2):
                    line.answer("302 Found", b"", "Location: https://s.example/")
            elif stage == "cache":
                line.say(f"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n{OCTETS}\r\n\r\n")
            heard = len(line.heard)
            self.assertEqual(len(waiting), {"head": 0, "storage": 1, "cache": 2}[stage])
            client.leave()
            self.assertEqual((len(self.endpoint.lines), len(line.heard)), (1, 0), (stage, heard))
            self.assertEqual(line.aborted, stage == "head")
        self.assertEqual({access.status for access in self.written}, {499})
        self.assertIsNone(self.connections.health.reason)

    def test_accounts(self) -> None:
        """The account is the user of a password or the subject of a token, else empty."""

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
            self.endpoint.lines.clear()
        self.assertEqual([account for account, _ in self.directory.asked], list(cases.values()))

    def test_registry_away(self) -> None:
        """A registry that does not answer allows nothing."""
        self.endpoint.refuse()
        client = self.client().send(request(BLOB, ANN))
        self.assertEqual(self.reply(client).status, 503)

    def test_others(self) -> None:
        """Only blobs are redirected, and only reading them."""
        for target, method in (
            ("/v2/org/app/manifests/1", "GET"),
            (f"/v2/org/app/manifests/{DIGEST}", "GET"),
            (BLOB, "DELETE"),
            ("/v2/org/app/blobs/sha256:short", "GET"),
            ("/v2/org/blobs/uploads/1", "GET"),
        ):
            _, line = self.ask(target, ANN, method=method)
            self.assertEqual(line.head()[0], f"{method} {target} HTTP/1.1")
        self.assertEqual(self.directory.asked, [])
