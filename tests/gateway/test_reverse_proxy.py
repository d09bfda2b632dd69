"""Tests for :mod:`contentcache.gateway.reverse_proxy`, and for its connections."""

from __future__ import annotations

import gc
import json
from typing import Any, NoReturn

from prometheus_client import generate_latest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError

from contentcache.core.digest import Digest
from contentcache.core.errors import RequestMalformed
from contentcache.gateway.connection import ProxyConnection
from contentcache.gateway.connection_pool import OpenResponse
from contentcache.gateway.header_rewriting import HeaderRewriter
from contentcache.gateway.proxy_request import ProxyRequest
from tests.gateway.in_memory import REGISTRY, STALL, WRITE, Client, GatewayTestCase, RegistryEnd, request

DIGEST = Digest.of(b"content")
UPLOAD = "/v2/org/app/blobs/uploads/1?_state=abc%3D"


class AnswerTests(GatewayTestCase):
    """Requests without bodies, and their responses."""

    def test_request(self) -> None:
        """The registry gets the path as it was written, the client's own fields, and who the client is."""
        client, line = self.ask(
            "/v2/org/app/tags/list?n=5&x=%2F",
            "Authorization: Basic YTpi",
            "Accept: a/b",
            "Accept: c/d",
            "User-Agent: x/1",
            "Connection: keep-alive, X-Mine",
            "X-Mine: 1",
            "X-Forwarded-For: 203.0.113.9",
            "X-Forwarded-Host: evil.example",
            "Via: 1.1 fred",
        )
        first, fields, rest = line.head()
        self.assertEqual((first, rest), ("GET /v2/org/app/tags/list?n=5&x=%2F HTTP/1.1", b""))
        self.assertEqual(
            fields,
            {
                "host": "registry.internal:5000",
                "authorization": "Basic YTpi",
                "accept": "c/d",
                "user-agent": "x/1",
                "x-forwarded-for": "192.0.2.1",
                "x-forwarded-host": "cache.example",
                "x-forwarded-proto": "https",
                "via": "1.1 fred, 1.1 contentcache-00000000",
            },
        )
        self.assertEqual(client.transport.value(), b"")

    def test_answer(self) -> None:
        """The client gets the registry's status, fields and body, but for fields about one connection."""
        client, line = self.ask("/v2/")
        line.answer(
            "401 Unauthorized",
            b'{"errors":[]}',
            "WWW-Authenticate: Basic realm=x",
            "WWW-Authenticate: Bearer realm=y",
            "Set-Cookie: a=b",
            "Keep-Alive: timeout=5",
            "Alt-Svc: h3=x",
            "Date: Tue, 24 Nov 2026 18:09:42 GMT",
        )
        reply = self.reply(client)
        self.assertEqual((reply.status, reply.body), (401, b'{"errors":[]}'))
        names = {name.lower() for name, _ in reply.headers.getAllRawHeaders()}
        guards = {b"content-type", b"x-content-type-options", b"content-security-policy", b"x-request-id"}
        self.assertEqual(names - guards, {b"content-length", b"www-authenticate", b"set-cookie", b"date"})
        self.assertEqual(reply.headers.getRawHeaders("WWW-Authenticate"), ["Basic realm=x", "Bearer realm=y"])

    def test_head(self) -> None:
        """``HEAD`` has the registry's length, and no body is expected."""
        client, line = self.ask("/v2/org/app/manifests/1", method="HEAD")
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
        reply = self.reply(client, "HEAD")
        self.assertEqual((reply.status, reply.header("Content-Length"), reply.body), (200, "7", b""))

    def test_framings(self) -> None:
        """A body with its length, in chunks, or up to the end of the connection: whole in each case."""
        for head, body, last in (
            ("Content-Length: 5", b"hello", False),
            ("Transfer-Encoding: chunked", b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", False),
            ("Connection: close", b"hello", True),
        ):
            client, line = self.ask("/v2/_catalog")
            line.say(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n")
            line.say(body)
            if last:
                line.end()
            reply = self.reply(client)
            self.assertEqual((reply.body, reply.whole), (b"hello", True), head)
            self.connections.close()

    def test_two_framings(self) -> None:
        """A body in chunks has no other length, whatever the registry states beside them."""
        client, line = self.ask("/v2/_catalog")
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n")
        line.say(b"5\r\nhello\r\n0\r\n\r\n")
        reply = self.reply(client)
        self.assertEqual((reply.body, reply.whole), (b"hello", True))
        self.assertIsNone(reply.header("Content-Length"))

    def test_names_stay_behind(self) -> None:
        """A response that is no HTTP is described in the log, and not to clients."""
        client, line = self.ask("/v2/")
        line.say("220 mail.internal ESMTP\r\n\r\n")
        self.assertNotIn(b"mail.internal", self.reply(client).body)
        self.line.end()
        self.assertIn("mail.internal", self.connections.health.reason or "")

    def test_odd_request(self) -> None:
        """
        A registry that breaks off at one request, or does not answer it, and answers a simple one of ours is
        not faulty. That is asked once for many such requests, and without anything of the client's.
        """
        for method, stalls in (("GET", False), ("PUT", False), ("GET", True)):
            client, line = self.ask("/v2/odd", "Authorization: Basic x", "Cookie: a=b", method=method)
            other, other_line = self.ask("/v2/odd")
            if stalls:
                self.clock.advance(STALL)
            else:
                line.end(rudely=True)
                other_line.end()
            self.assertNotIn(b"", {client.transport.value(), other.transport.value()})
            _, _, check = self.endpoint.lines
            first, fields, _ = check.head()
            self.assertEqual((first, set(fields)), ("GET /v2/ HTTP/1.1", {"host", "accept"}))
            self.assertIsNone(self.connections.health.reason)
            check.answer("401 Unauthorized")
            self.assertIsNone(self.connections.health.reason)
            self.endpoint.lines.clear()
            self.factory = self.build()

    def test_faulty_registry(self) -> None:
        """A registry that fails the gateway's own request too is faulty, whichever way it fails."""
        for fails in (
            lambda: self.line.end(rudely=True),
            lambda: self.line.say("220 mail.internal ESMTP\r\n\r\n"),
            lambda: self.clock.advance(STALL),
        ):
            _, line = self.ask("/v2/odd")
            line.end(rudely=True)
            self.assertIsNone(self.connections.health.reason)
            fails()
            self.assertIn("it broke the connection off", self.connections.health.reason or "")
            _, line = self.ask("/v2/odd")
            line.answer()
            self.assertIsNone(self.connections.health.reason)
            self.factory = self.build()
        _, line = self.ask("/v2/odd")
        self.endpoint.refuse()
        line.end(rudely=True)
        self.assertIn("it cannot be reached", self.connections.health.reason or "")

    def test_check_ends_with_gateway(self) -> None:
        """The gateway's own request is cancelled when it stops, and changes nothing then."""
        _, line = self.ask("/v2/odd")
        line.end(rudely=True)
        self.connections.close()
        self.assertTrue(self.line.aborted)
        self.assertIsNone(self.connections.health.reason)

    def test_cut_short(self) -> None:
        """A response that breaks off ends short for the client too, and is no error in the log."""
        client, line = self.ask("/v2/org/app/manifests/1")
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        line.end(rudely=True)
        reply = self.reply(client)
        self.assertEqual((reply.body, reply.whole), (b"hello", False))
        self.assertTrue(client.ended)

    def test_no_answer(self) -> None:
        """No connection is 503, none in time too; one without a response 502, silence 504; nonsense 502."""
        self.endpoint.refuse()
        self.assert_failed(self.client().send(request("/v2/")), 503)
        self.endpoint.error = None
        client, line = self.ask("/v2/")
        line.end()
        self.assert_failed(client, 502)
        client, line = self.ask("/v2/")
        line.say("220 mail.example ESMTP\r\n\r\n")
        self.assert_failed(client, 502)
        client, line = self.ask("/v2/")
        self.clock.advance(STALL)
        self.assert_failed(client, 504)
        self.assertTrue(line.aborted)
        self.assertIsNotNone(self.connections.health.reason)
        client, line = self.ask("/v2/")
        line.answer()
        self.assertIsNone(self.connections.health.reason)

    def test_client_leaves(self) -> None:
        """A client that disconnects ends its request at the registry, before the response or within it."""
        client, line = self.ask("/v2/org/app/manifests/1")
        client.leave()
        self.assertTrue(line.aborted)
        client, line = self.ask("/v2/org/app/manifests/1")
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        client.leave()
        self.assertTrue(line.aborted)

    def test_client_leaves_while_connecting(self) -> None:
        """
        A client that leaves before the registry is connected to says nothing of the registry, whatever the
        attempt fails with, and nothing is left of a connection that comes all the same.
        """
        for outcome in (ConnectingCancelledError(None), ConnectError(), None):
            attempts: list[Deferred[Any]] = []

            def connect(
                factory: Any, outcome: Exception | None = outcome, attempts: list[Deferred[Any]] = attempts
            ) -> Deferred[Any]:
                if outcome is not None:
                    attempts.append(Deferred(lambda attempt: attempt.errback(outcome)))
                    return attempts[-1]
                connection = factory.buildProtocol(None)
                self.endpoint.lines.append(RegistryEnd(connection))
                attempts.append(Deferred(lambda attempt: attempt.callback(connection)))
                return attempts[-1]

            self.patch(self.endpoint, "connect", connect)
            for target in ("/v2/org/app/manifests/1", f"/v2/org/app/blobs/{DIGEST}"):
                self.client().send(request(target)).leave()
            self.assertEqual(len(attempts), 2)
            self.assertIsNone(self.connections.health.reason)
        self.assertEqual([line.aborted for line in self.endpoint.lines], [True, True])
        metrics = generate_latest(self.meter.registry).decode()
        self.assertNotIn('outcome="failed"', metrics)
        self.assertEqual([access.status for access in self.written], [499] * 6)

    def test_malformed_heads(self) -> None:
        """A head that HTTP does not allow is the client's 400: the registry is neither asked nor blamed."""
        for field in (
            "X-Odd: a\x00b",
            "X-Odd: a\x01b",
            "X-Odd: a\x7fb",
            "X-Odd\xe9: 1",
            "X(Odd): 1",
            "X Odd: 1",
            ": 1",
            "Connection: close, Authorization",
            "Connection: X-Forwarded-For",
            "Connection: cookie",
            "Connection: Content-Length",
        ):
            for method in ("GET", "PUT"):
                client = self.client().send(request("/v2/", field, method=method))
                self.assertEqual(self.reply(client).status, 400, field)
        self.assertEqual(self.endpoint.lines, [])
        self.assertIsNone(self.connections.health.reason)

    def test_unsendable(self) -> None:
        """A request that h11 cannot send is the client's fault too, should there ever be one."""
        question = ProxyRequest("GET", "/v2/", [("Host", "r"), ("X-Odd", "a\nb")])

        async def ask() -> None:
            async with self.connections.request(question):
                self.fail("it was asked")

        asking = Deferred.fromCoroutine(ask())
        self.failureResultOf(asking, RequestMalformed)
        self.assertIsNone(self.connections.health.reason)
        self.assertTrue(self.line.aborted)

    def test_bytes_beyond_utf8(self) -> None:
        """
        Whatever bytes a registry puts into its head, they reach the client as they are, in every kind of
        field.
        """
        for status in ("200 OK", "401 Unauthorized", "307 Temporary Redirect"):
            client, line = self.ask("/v2/org/app/manifests/1")
            fields = [
                "Content-Type: a/\xff",
                "Docker-Content-Digest: \xfe",
                "Link: <\xe9>; rel=next",
                'WWW-Authenticate: Bearer realm="http://registry.internal:5000/\xe9"',
                "Location: http://elsewhere.example/\xe9",
                "Set-Cookie: a=\xe9",
                "X-Name: caf\xe9",
            ]
            line.answer(status, b"{}", *fields)
            reply = self.reply(client)
            self.assertEqual((reply.status, reply.body), (int(status[:3]), b"{}"))
            self.assertEqual(reply.headers.getRawHeaders(b"X-Name"), [b"caf\xe9"])
            self.assertEqual(reply.headers.getRawHeaders(b"Content-Type"), [b"a/\xff"])
            self.assertEqual(reply.headers.getRawHeaders(b"Link"), [b"<\xe9>; rel=next"])
            self.connections.close()

    def test_released(self) -> None:
        """Whatever raises while a response is forwarded, its connection ends, and the client gets a response."""
        for place in ("to_client", "registry_path"):
            with self.subTest(place):
                patched = self.patch(HeaderRewriter, place, _broken)
                client, line = self.ask("/v2/org/app/manifests/1")
                line.say(
                    "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n"
                    'WWW-Authenticate: Bearer realm="x"\r\n\r\nhel'
                )
                self.assertEqual(self.reply(client).status, 500)
                self.assertTrue(line.aborted)
                self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
                patched.restore()

    def test_breaks_off_anywhere(self) -> None:
        """
        A registry that breaks off, or a client that leaves, after any byte of an exchange leaves no
        connection.
        """
        answer = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n\r\n"
        for stop in range(len(answer)):
            for who in ("registry", "rude registry", "client"):
                client, line = self.ask("/v2/org/app/manifests/1")
                line.say(answer[:stop])
                if who == "client":
                    client.leave()
                    self.assertTrue(line.aborted, stop)
                else:
                    line.end(rudely=who.startswith("rude"))
                    self.assertTrue(client.ended or client.replies()[0].status == 502, (stop, who))
                    client.leave()
                self.assertFalse(line.connection.usable, (stop, who))
                if self.line is not line:
                    self.line.end()  # our own question fails too
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_client(self) -> None:
        """A client that reads nothing for now pauses the registry."""
        client, line = self.ask("/v2/org/app/blobs/x")
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        client.producer.pauseProducing()
        for _ in range(6):
            line.say(b"x" * 65536)
        self.assertTrue(line.paused)
        client.producer.resumeProducing()
        self.assertFalse(line.paused)

    def test_loop(self) -> None:
        """A request that returns to its own gateway is refused."""
        client = self.client().send(request("/v2/", "Via: 1.1 contentcache-00000000"))
        self.assert_failed(client, 508)
        self.assertEqual(self.endpoint.lines, [])

    def test_access_log(self) -> None:
        """A forwarded request has its record, with the registry that answered."""
        _, line = self.ask("/v2/")
        line.answer()
        (access,) = self.written
        self.assertEqual((access.status, access.cache, access.upstream), (200, "pass", REGISTRY))
        self.assertEqual(access.served_by, REGISTRY)

    def assert_failed(self, client: Client, status: int) -> None:
        """The client gets an error in the registry's form."""
        reply = self.reply(client)
        self.assertEqual(reply.status, status)
        self.assertEqual(json.loads(reply.body)["errors"][0]["code"], "UNAVAILABLE")


class IdleTests(GatewayTestCase):
    """Connections that are used again."""

    def test_used_again(self) -> None:
        """After a complete response a connection serves the next request that may be repeated."""
        client, line = self.ask("/v2/")
        line.answer()
        client.send(request("/v2/_catalog"))
        self.assertEqual(len(self.endpoint.lines), 1)
        line.answer("200 OK", b"{}")
        self.assertEqual([reply.body for reply in client.replies()], [b"", b"{}"])

    def test_stale(self) -> None:
        """Where the registry has closed an idle connection meanwhile, the request is sent on a new one."""
        _, line = self.ask("/v2/")
        line.answer()
        client = self.client().send(request("/v2/_catalog"))
        line.end()
        self.assertEqual(len(self.endpoint.lines), 2)
        self.line.answer("200 OK", b"{}")
        self.assertEqual(self.reply(client).body, b"{}")

    def test_not_repeated(self) -> None:
        """A request that writes gets a new connection, and is never sent twice."""
        _, line = self.ask("/v2/")
        line.answer()
        for method in ("DELETE", "POST", "PUT", "PATCH"):
            client, own = self.ask(UPLOAD, method=method)
            self.assertIsNot(own, line)
            own.end()
            self.assertEqual(self.reply(client).status, 502)
            if self.line is not own:
                self.assertEqual(self.line.head()[0], "GET /v2/ HTTP/1.1")  # our own question
                self.line.end()
        targets = [each.head()[0] for each in self.endpoint.lines if each.transport.value()]
        self.assertEqual([each for each in targets if "/uploads/" in each], targets[1:])
        self.assertEqual(len(targets), 5)

    def test_not_kept(self) -> None:
        """A connection that the registry will close, or on which it sends unrequested data, is not used again."""
        _, line = self.ask("/v2/")
        line.answer("200 OK", b"", "Connection: close")
        self.assertTrue(line.aborted)
        _, second = self.ask("/v2/")
        second.answer()
        second.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.ask("/v2/")

    def test_more_than_the_answer(self) -> None:
        """
        What comes after an answer, in the same packet or later, is never taken for the answer to another
        client.
        """
        poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
        for method, answer in (
            ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 47\r\n\r\n"),
            ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n"),
            ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ):
            for pieces in ((answer + poison,), (answer, poison)):
                client, line = self.ask("/v2/org/app/manifests/1", method=method)
                for piece in pieces:
                    line.say(piece)
                self.assertTrue(line.aborted, (method, pieces))
                self.assertNotIn(b"poison", self.reply(client, method).body)
                client, _other = self.ask("/v2/")
                self.assertEqual(client.replies(), [])

    def test_taken_once(self) -> None:
        """A second receiver of a body, or one after its release, gets nothing, and nothing of the next client's."""
        late: list[OpenResponse] = []

        async def ask() -> None:
            async with self.connections.request(ProxyRequest("HEAD", "/v2/", [("Host", "r")])) as opened:
                late.append(opened)

        asking = Deferred.fromCoroutine(ask())
        self.line.say("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
        self.successResultOf(asking)
        client = self.client().send(request("/v2/_catalog"))
        reading = Deferred.fromCoroutine(late.pop().body.read(10))
        gc.collect()
        self.assertEqual(self.successResultOf(reading), b"")
        self.assertEqual(len(self.endpoint.lines), 1)
        self.line.answer("200 OK", b"{}")
        self.assertEqual(self.reply(client).body, b"{}")

    def test_expires(self) -> None:
        """An idle connection is closed before the registry would do it."""
        _, line = self.ask("/v2/")
        line.answer()
        self.clock.advance(55)
        self.assertTrue(line.aborted)
        self.ask("/v2/")


class BodyTests(GatewayTestCase):
    """Requests with bodies."""

    def test_length(self) -> None:
        """A body is forwarded as it arrives, with its length, before it is complete."""
        client, line = self.ask(UPLOAD, "Content-Length: 10", "Content-Type: a/b", method="PATCH")
        first, fields, _ = line.head()
        self.assertEqual(first, f"PATCH {UPLOAD} HTTP/1.1")
        self.assertEqual((fields["content-length"], fields["content-type"]), ("10", "a/b"))
        client.send(b"hello")
        self.assertEqual(line.heard, b"hello")
        client.send(b"world")
        self.assertEqual(line.heard, b"world")
        line.answer(
            "202 Accepted", b"", "Location: http://registry.internal:5000/v2/org/app/blobs/uploads/2?x=1"
        )
        reply = self.reply(client)
        self.assertEqual((reply.status, reply.header("Location")), (202, "/v2/org/app/blobs/uploads/2?x=1"))
        self.assertFalse(client.ended)

    def test_chunked(self) -> None:
        """A body in chunks is forwarded in chunks, and what follows it is the next request."""
        client, line = self.ask(UPLOAD, "Transfer-Encoding: chunked", method="PATCH")
        self.assertEqual(line.head()[1]["transfer-encoding"], "chunked")
        client.send(b"5\r\nhello\r\n0\r\n\r\n" + request("/v2/").encode())
        self.assertEqual(line.heard, b"5\r\nhello\r\n0\r\n\r\n")
        line.answer("202 Accepted")
        self.assertEqual(self.line.head()[0], "GET /v2/ HTTP/1.1")
        self.line.answer()
        self.assertEqual([reply.status for reply in client.replies()], [202, 200])

    def test_empty(self) -> None:
        """A request that could have a body and has none states that."""
        for method, fields in (("POST", ()), ("PUT", ("Content-Length: 0",)), ("PATCH", ())):
            client, line = self.ask(UPLOAD, *fields, method=method)
            self.assertEqual(line.head()[1]["content-length"], "0")
            line.answer("201 Created")
            self.assertEqual(self.reply(client).status, 201)

    def test_slow_registry(self) -> None:
        """A registry that reads nothing for now pauses the client; for too long, that is 504."""
        client, line = self.ask(UPLOAD, "Content-Length: 1000000", method="PATCH")
        self.assertEqual(client.transport.producerState, "producing")
        line.transport.producer.pauseProducing()
        self.assertEqual(client.transport.producerState, "paused")
        line.transport.producer.resumeProducing()
        self.assertEqual(client.transport.producerState, "producing")
        client.send(b"x" * 1000)
        self.clock.advance(STALL)
        line.transport.producer.pauseProducing()
        self.clock.advance(STALL)
        self.assertEqual(self.reply(client).status, 504)
        self.assertTrue(line.aborted)

    def test_slow_client(self) -> None:
        """A client that sends nothing for ``limits.clientstall`` gets 408; the registry's connection is closed."""
        client, line = self.ask(UPLOAD, "Content-Length: 1000", method="PATCH")
        for _ in range(5):
            self.clock.advance(59)
            client.send(b"x")
        self.clock.advance(60)
        self.assertEqual(self.reply(client).status, 408)
        self.assertTrue(line.aborted)
        self.assertTrue(client.ended)

    def test_long_thought(self) -> None:
        """The end of an upload has the longer ``writetimeout``: the registry hashes and moves what it has."""
        client, line = self.ask(UPLOAD, "Content-Length: 5", method="PUT")
        client.send(b"hello")
        self.clock.pump([STALL] * 20)
        self.assertEqual(client.replies("PUT"), [])
        line.answer("201 Created")
        self.assertEqual(self.reply(client).status, 201)
        client, line = self.ask(UPLOAD, method="PUT")
        self.clock.advance(WRITE)
        self.assertEqual(self.reply(client).status, 504)

    def test_refused_early(self) -> None:
        """A response before the end of the body reaches the client at once, and closes both connections gently."""
        client, line = self.ask(UPLOAD, "Content-Length: 1000000", method="PATCH")
        client.send(b"x" * 1000)
        line.answer("401 Unauthorized", b"{}", "WWW-Authenticate: Basic realm=x")
        reply = self.reply(client)
        self.assertEqual((reply.status, reply.body, reply.header("Connection")), (401, b"{}", "close"))
        self.assertTrue(line.aborted)
        self.assertTrue(client.ended)
        client.send(b"x" * 1000)
        self.assertEqual(len(self.endpoint.lines), 1)

    def test_registry_breaks(self) -> None:
        """A registry that breaks the connection within the body is 502, and nothing is sent a second time."""
        client, line = self.ask(UPLOAD, "Content-Length: 1000", method="PATCH")
        client.send(b"x" * 10)
        line.end(rudely=True)
        self.assertEqual(self.reply(client).status, 502)
        self.assertEqual([each.head()[0] for each in self.endpoint.lines[1:]], ["GET /v2/ HTTP/1.1"])
        self.assertTrue(client.ended)

    def test_client_leaves(self) -> None:
        """A disconnect within the body closes the registry's connection: the body must not look complete."""
        for framing in ("Content-Length: 1000", "Transfer-Encoding: chunked"):
            client, line = self.ask(UPLOAD, framing, method="PATCH")
            line.head()
            client.leave()
            self.assertTrue(line.aborted)
            self.assertNotIn(b"0\r\n\r\n", line.heard)

    def test_malformed(self) -> None:
        """Malformed chunks are 400, and the registry never receives an end."""
        client, line = self.ask(UPLOAD, "Transfer-Encoding: chunked", method="PATCH")
        client.send(b"5\r\nhello\r\nnonsense\r\n")
        self.assertEqual(self.reply(client).status, 400)
        self.assertTrue(line.aborted)
        self.assertTrue(client.ended)

    def test_framed_in_doubt(self) -> None:
        """Two framings at once, and their like, never reach the registry."""
        for fields in (
            ("Content-Length: 5", "Transfer-Encoding: chunked"),
            ("Content-Length: 5", "Content-Length: 6"),
            ("Transfer-Encoding: gzip, chunked",),
            ("Content-Length: +5",),
        ):
            client = self.client().send(request(UPLOAD, *fields, method="PATCH") + "hello")
            self.assertEqual(self.reply(client).status, 400, fields)
            self.assertTrue(client.ended)
        self.assertEqual(self.endpoint.lines, [])

    def test_continue(self) -> None:
        """A client that expects ``100 Continue`` gets it when the registry sends it, or after a second."""
        client, line = self.ask(UPLOAD, "Content-Length: 5", "Expect: 100-continue", method="PATCH")
        self.assertEqual(line.head()[1]["expect"], "100-continue")
        self.assertEqual(client.transport.value(), b"")
        line.say("HTTP/1.1 100 Continue\r\n\r\n")
        self.assertEqual(client.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"hello")
        self.assertEqual(line.heard, b"hello")
        line.answer("202 Accepted")
        self.assertEqual(self.reply(client).status, 202)
        client, line = self.ask(UPLOAD, "Content-Length: 5", "Expect: 100-continue", method="PATCH")
        self.clock.advance(1)
        self.assertEqual(client.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        line.say("HTTP/1.1 100 Continue\r\n\r\n")
        self.assertEqual(client.transport.value(), b"HTTP/1.1 100 Continue\r\n\r\n")

    def test_not_wanted(self) -> None:
        """A client that expects ``100 Continue`` and is refused has sent nothing of its body."""
        client, line = self.ask(UPLOAD, "Content-Length: 5", "Expect: 100-continue", method="PATCH")
        line.answer("401 Unauthorized")
        reply = self.reply(client)
        self.assertEqual((reply.status, reply.header("Connection")), (401, "close"))
        self.assertNotIn(b"100 Continue", client.transport.value())

    def test_answers_meanwhile(self) -> None:
        """A registry that responds while it still reads the body: both directions are completed."""
        client, line = self.ask(UPLOAD, "Content-Length: 10", method="PATCH")
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        line.head()
        client.send(b"helloworld")
        self.assertEqual(line.heard, b"helloworld")
        line.say(b"cd")
        self.assertEqual(self.reply(client).body, b"abcd")


class ConnectionTests(GatewayTestCase):
    """What can only be seen at a connection itself."""

    def test_lost_before_delivery(self) -> None:
        """A response whose connection is lost before its body has a receiver ends short, and does not hang."""
        client, line = self.ask("/v2/")
        connection = line.connection
        assert isinstance(connection, ProxyConnection)
        self.assertFalse(connection.usable)
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        line.end()
        self.assertFalse(self.reply(client).whole)


def _broken(*_args: object) -> NoReturn:
    raise ZeroDivisionError
