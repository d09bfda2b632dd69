"""Tests for :mod:`contentcache.server.channel`, in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from twisted.internet.defer import Deferred

from contentcache.config.model import Limits
from contentcache.delivery.origin_queries import Pinged
from contentcache.server.access_log import AccessLog
from tests.registry.harness import (
    BLOB,
    CONTENT,
    HOST,
    Broken,
    Client,
    RegistryTestCase,
    Reply,
    SteppedBody,
    replies,
    request,
)

_SMUGGLED = request("/v2/smuggled/tags/list")

_GET = f"GET / HTTP/1.1\r\n{HOST}"
_POST = f"POST / HTTP/1.1\r\n{HOST}"
#: Heads that are refused: a name, the bytes, the status.
_HOSTILE: tuple[tuple[str, bytes, int], ...] = tuple(
    (name, head.encode("latin-1"), status)
    for name, head, status in (
        ("CL and TE", f"{_POST}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("TE and CL", f"{_GET}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", 400),
        ("two CL", f"{_GET}Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
        ("two CL that differ", f"{_GET}Content-Length: 0\r\nContent-Length: 9\r\n\r\n", 400),
        ("CL with plus", f"{_GET}Content-Length: +0\r\n\r\n", 400),
        ("CL with minus", f"{_GET}Content-Length: -1\r\n\r\n", 400),
        ("CL with spaces", f"{_GET}Content-Length: 0 0\r\n\r\n", 400),
        ("CL in hex", f"{_GET}Content-Length: 0x0\r\n\r\n", 400),
        ("CL of 5,000 digits", f"{_GET}Content-Length: {'1' * 5000}\r\n\r\n", 400),
        ("TE gzip", f"{_GET}Transfer-Encoding: gzip, chunked\r\n\r\n", 400),
        ("TE identity", f"{_GET}Transfer-Encoding: identity\r\n\r\n", 400),
        ("TE in 1.0", f"GET / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n", 400),
        ("TE after a space", f"{_GET}Transfer-Encoding : chunked\r\n\r\n", 400),
        ("TE after a tab", f"{_GET}Transfer-Encoding:\x0bchunked\r\n\r\n", 400),
        ("folding", f"{_GET}A: b\r\n c: d\r\n\r\n", 400),
        ("folding by a tab", f"{_GET}A: b\r\n\tc\r\n\r\n", 400),
        ("space before the first field", f"GET / HTTP/1.1\r\n {HOST}\r\n", 400),
        ("bare LF", f"GET / HTTP/1.1\n{HOST}\r\n\r\n", 400),
        ("bare LF in a field", f"{_GET}A: b\nContent-Length: 5\r\n\r\n", 400),
        ("bare CR", f"{_GET}A: b\rc\r\n\r\n", 400),
        ("CR before CRLF", f"{_GET}A: b\r\r\n\r\n", 400),
        ("NUL", f"{_GET}A: b\x00\r\n\r\n", 400),
        ("NUL in a name", f"{_GET}A\x00: b\r\n\r\n", 400),
        ("no colon", f"{_GET}nonsense\r\n\r\n", 400),
        ("no name", f"{_GET}: nonsense\r\n\r\n", 400),
        ("a bad field, then more", f"GET / HTTP/1.1\r\nnonsense\r\n{HOST}A: b\r\n\r\n", 400),
        ("no Host", "GET / HTTP/1.1\r\n\r\n", 400),
        ("two Hosts", f"{_GET}{HOST}\r\n", 400),
        ("bad Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("HTTP/0.9", "GET /\r\n", 400),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("HTTP/3", f"GET / HTTP/3.0\r\n{HOST}\r\n", 505),
        ("lower-case version", f"GET / http/1.1\r\n{HOST}\r\n", 400),
        ("lower-case method", f"get / HTTP/1.1\r\n{HOST}\r\n", 405),
        ("body", f"{_GET}Content-Length: 4\r\n\r\nbody", 400),
        ("chunked body", f"{_GET}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("TRACE *", f"TRACE * HTTP/1.1\r\n{HOST}\r\n", 405),
        ("CONNECT", f"CONNECT a.example:443 HTTP/1.1\r\n{HOST}\r\n", 405),
        ("two spaces", f"GET  / HTTP/1.1\r\n{HOST}\r\n", 400),
        ("8-bit target", f"GET /\xe9 HTTP/1.1\r\n{HOST}\r\n", 400),
        ("501 fields", f"{_GET}" + "a: b\r\n" * 501 + "\r\n", 431),
        ("a field too long", f"{_GET}A: {'x' * 17000}\r\n\r\n", 431),
        ("fields too many bytes", f"{_GET}" + f"A: {'x' * 4000}\r\n" * 5 + "\r\n", 431),
        ("a target too long", f"GET /{'x' * 17000} HTTP/1.1\r\n{HOST}\r\n", 414),
        ("ClientHello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        ("ClientHello with line ends", "\x16\x03\x01\r\n\r\nGET / HTTP/1.1\r\n", 400),
        ("noise", "\x00\xff", 400),
        ("unknown expectation", f"{_GET}Expect: miracles\r\n\r\n", 417),
    )
)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class HostileTests(RegistryTestCase):
    """Heads that good clients do not send."""

    def check(self, client: Client, name: str, status: int) -> Reply:
        """One refusal, the end of the connection, and nothing acted on."""
        found = client.replies()
        self.assertEqual([reply.status for reply in found], [status], name)
        self.assert_refused(found[0], status)
        self.assertEqual(found[0].header("Connection"), "close", name)
        self.assertIn("contentcache", found[0].header("Cache-Status") or "", name)
        self.assertTrue(client.ended, name)
        client.send(_SMUGGLED)
        self.assertEqual(len(client.replies()), 1, name)
        self.assertEqual(self.services.asked, [], name)
        self.assertEqual([line.status for line in self.lines], [status], name)
        client.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [], name)
        self.assertEqual(len(self.lines), 1, name)
        self.lines.clear()
        return found[0]

    def test_one_segment(self) -> None:
        """
        Each is refused with its status, an OCI body and the end of the connection; what follows in the same
        segment is not acted on.
        """
        for name, head, status in _HOSTILE:
            self.check(self.client().send(head + _SMUGGLED.encode()), name, status)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_headers_of_the_operator(self) -> None:
        """
        ``http.headers`` go out with each of these refusals, with 408, and with the 503 of a connection too
        many; where a name is one of ours, ours is sent and no other.
        """
        extra = {"X-Own": ("a", "b"), "x-content-type-options": ("other",), "CACHE-STATUS": ("other",)}
        self.factory = self.build(limits=Limits(connections=1), extra=extra)
        for name, head, status in _HOSTILE:
            reply = self.check(self.client().send(head), name, status)
            self.assertEqual(reply.headers.getRawHeaders("X-Own"), ["a", "b"], name)
        slow = self.client().send(_GET)
        too_many = self.client().send(request("/"))
        self.clock.advance(Limits().headertime)
        for client, status in ((slow, 408), (too_many, 503)):
            (reply,) = client.replies()
            self.assertEqual((reply.status, reply.headers.getRawHeaders("X-Own")), (status, ["a", "b"]))

    def test_byte_by_byte(self) -> None:
        """The same when it comes in the smallest pieces."""
        for name, head, status in _HOSTILE:
            if len(head) > 1000:
                continue
            client = self.client()
            for piece in _pieces(head + _SMUGGLED.encode(), 1):
                client.send(piece)
            self.check(client, name, status)

    def test_after_a_good_one(self) -> None:
        """The same behind a good request on the same connection, in the same segment."""
        for name, head, status in _HOSTILE:
            client = self.client().send(request("/").encode() + head + _SMUGGLED.encode())
            first, second = client.replies()
            self.assertEqual((first.status, second.status), (200, status), name)
            self.assertTrue(client.ended, name)
            self.assertEqual(self.services.asked, [], name)
            client.leave()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_writes(self) -> None:
        """A push is refused at the end of its head: no temporary file, no 100-continue, no byte of it kept."""

        def spool(*_arguments: object, **_more: object) -> None:
            raise Broken("a body is spooled")

        self.patch(tempfile, "TemporaryFile", spool)
        for method in ("POST", "PUT", "PATCH", "DELETE", "MKCOL"):
            for framing in ("Content-Length: 10000000000", "Transfer-Encoding: chunked", "A: b"):
                client = self.client()
                client.send(
                    request("/v2/a/blobs/uploads/", framing, "Expect: 100-continue", method=method)
                    + "5\r\nbytes\r\n" * 100
                )
                self.assertNotIn(b"100 Continue", client.transport.value())
                reply = self.check(client, method, 405)
                self.assertEqual(reply.header("Allow"), "GET, HEAD, OPTIONS")
                self.assertIn(b"push to the origin", reply.body)

    def test_configured_headers(self) -> None:
        """What is refused before it is a request has the headers of the configuration too, each line once."""
        self.factory = self.build(extra={"X-Two": ("a", "b"), "content-length": ("7",)})
        for head in (
            request("/v2/a/blobs/uploads/", "Content-Length: 0", method="PUT"),
            request("/", "Content-Length: 5"),
            request("/", "A: " + "x" * 30000),
            "GARBAGE\r\n\r\n",
        ):
            data = self.client().send(head).transport.value()
            self.assertEqual((data.count(b"X-Two: a\r\n"), data.count(b"X-Two: b\r\n")), (1, 1))
            self.assertEqual(data.lower().count(b"content-length"), 1)

    def test_refused_head(self) -> None:
        """A refused HEAD gets no body."""
        client = self.client().send(request("/", "Content-Length: 5", method="HEAD"))
        data = client.transport.value()
        self.assertTrue(data.startswith(b"HTTP/1.1 400 "))
        self.assertTrue(data.endswith(b"\r\n\r\n"))

    def test_endless_line(self) -> None:
        """A line without end is refused as soon as it is too long, and no more of it is kept."""
        client = self.client()
        for _ in range(40):
            client.send(b"GET /" if _ == 0 else b"x" * 1000)
        self.check(client, "endless", 414)

    def test_limit_is_an_option(self) -> None:
        """``limits.headers`` moves the bound."""
        self.factory = self.build(limits=Limits(headers=64 << 10))
        self.assertEqual(self.ask("/", f"A: {'x' * 30000}").status, 200)
        self.assertEqual(self.ask("/", *[f"A: {'x' * 30000}"] * 3).status, 431)


class GoodTests(RegistryTestCase):
    """What good clients do."""

    def test_keep_alive(self) -> None:
        """One request after the other on one connection, with or without an empty line between."""
        client = self.client()
        for _ in range(3):
            self.assertEqual(client.ask("/").status, 200)
            client.send("\r\n")
        self.assertFalse(client.ended)

    def test_pipelining(self) -> None:
        """Requests in one segment are answered in order, those that take time too."""
        client = self.client()
        first, second = SteppedBody(), SteppedBody(CONTENT[::-1])
        self.services.content = first
        client.send(request(BLOB) + request("/") + request(BLOB))
        self.assertEqual(len(self.services.asked), 1)
        self.services.content = second
        first.give(len(CONTENT))
        second.give(len(CONTENT))
        found = client.replies()
        self.assertEqual([reply.body for reply in found], [CONTENT, b"", CONTENT[::-1]])
        self.assertFalse(client.ended)

    def test_split_anywhere(self) -> None:
        """Two requests in a row are understood wherever the segments are cut."""
        data = (request("/") + request("/v2/")).encode()
        for cut in range(1, len(data)):
            client = self.client().send(data[:cut]).send(data[cut:])
            self.assertEqual([reply.status for reply in client.replies()], [200, 200], cut)
            client.leave()

    def test_old(self) -> None:
        """HTTP/1.0, without a Host: answered, then the end."""
        client = self.client().send("GET / HTTP/1.0\r\n\r\n" + request("/"))
        (reply,) = client.replies()
        self.assertEqual((reply.status, reply.header("Connection")), (200, "close"))
        self.assertTrue(client.ended)

    def test_close(self) -> None:
        """The client may end it with any member of any ``Connection``."""
        for fields in (
            ["Connection: close"],
            ["Connection: TE, close"],
            ["Connection: x", "Connection: Close"],
        ):
            client = self.client().send(request("/", *fields) + request("/"))
            (reply,) = client.replies()
            self.assertEqual(reply.header("Connection"), "close")
            self.assertTrue(client.ended)

    def test_expect(self) -> None:
        """100-continue on a GET harms nobody."""
        self.assertEqual(self.ask("/", "Expect: 100-continue").status, 200)

    def test_absolute_form(self) -> None:
        """A target with scheme and host is the same as one without (RFC 9112 §3.2.2)."""
        self.assertEqual(self.ask("http://cache.example/v2/").status, 200)
        self.assertEqual(self.ask("http://cache.example").status, 200)
        self.assert_refused(self.ask("nonsense"), 400)
        self.assert_refused(self.ask("*"), 400)

    def test_zero_length(self) -> None:
        """A body of no bytes is no body."""
        self.assertEqual(self.ask("/", "Content-Length: 0").status, 200)


class TimeTests(RegistryTestCase):
    """Clients that take their time."""

    def test_slow_head(self) -> None:
        """A head must be whole within ``limits.headertime``, however it drips."""
        client = self.client()
        for byte in request("/")[:29]:
            client.send(byte)
            self.clock.advance(1)
        self.assertFalse(client.ended)
        self.clock.advance(2)
        self.assert_refused(client.replies()[0], 408)
        self.assertTrue(client.ended)
        self.assertEqual([(line.status, line.method) for line in self.lines], [(408, "GET")])

    def test_slow_second_head(self) -> None:
        """The beginning of a next request may come with the one before: its time runs too."""
        for first in (request("/"), request("/v2/")):
            client = self.client().send(first + "GET / HT")
            self.clock.advance(31)
            self.assertEqual([reply.status for reply in client.replies()], [200, 408])

    def test_slow_answer(self) -> None:
        """Nobody minds how long an answer takes, and time spent on it is not the next request's."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB) + "GET / HT")
        self.clock.advance(1000)
        body.give(len(CONTENT))
        self.clock.advance(29)
        client.send("TP/1.1\r\n" + HOST + "\r\n")
        self.assertEqual([reply.status for reply in client.replies()], [200, 200])

    def test_idle(self) -> None:
        """A connection on which nothing happens is ended after ``limits.idle``, without a word."""
        for first in ("", request("/"), "\r\n"):
            client = self.client()
            if first:
                client.send(first)
            client.transport.clear()
            self.clock.advance(119)
            self.assertFalse(client.ended)
            self.clock.advance(2)
            self.assertEqual((client.ended, client.transport.value()), (True, b""))
            client.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_takes_nothing(self) -> None:
        """A client that takes nothing for ``limits.clientstall`` is cut off, and what answered it ends."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB))
        client.producer.pauseProducing()
        body.give(100)
        self.clock.pump([1] * 59)
        self.assertFalse(client.transport.disconnected)
        self.clock.pump([1] * 2)
        self.assertTrue(client.transport.disconnected)
        client.leave()
        self.assertTrue(body.closed)

    def test_takes_slowly(self) -> None:
        """One that empties its buffer now and then is not."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB))
        for _ in range(5):
            client.producer.pauseProducing()
            self.clock.pump([1] * 59)
            client.producer.resumeProducing()
            body.give(1)
        self.assertFalse(client.transport.disconnected)

    def test_pipelines_without_reading(self) -> None:
        """A client that has yet to take one answer does not get the next into memory."""
        self.services.content = body = SteppedBody()
        client = self.client()
        client.channel.pauseProducing()
        client.send(request(BLOB))
        client.transport.clear()
        body.give(10)
        self.assertEqual(client.transport.value(), b"")
        client.channel.resumeProducing()
        self.assertEqual(len(client.transport.value()), 10)
        client.channel.pauseProducing()
        body.give(10)
        self.clock.pump([1] * 61)
        self.assertTrue(client.transport.disconnected)


class EndTests(RegistryTestCase):
    """Responses that do not come to their end."""

    def test_short(self) -> None:
        """What is written goes out, the connection ends, and what was pipelined behind is not acted on."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB) + _SMUGGLED)
        body.give(100)
        body.end_short()
        (reply,) = client.replies()
        self.assertEqual((reply.status, reply.body, reply.whole), (200, CONTENT[:100], False))
        self.assertTrue(client.ended)
        self.assertFalse(client.transport.disconnected)
        self.assertTrue(body.closed)
        client.send(_SMUGGLED)
        self.assertEqual(len(self.services.asked), 1)
        self.assertEqual([(line.status, line.sent) for line in self.lines], [(200, 100)])
        client.leave()
        self.assertEqual(len(self.lines), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_short_chunks(self) -> None:
        """Without a length there are chunks, and no last one."""
        self.services.content = body = SteppedBody(size=None)
        client = self.client().send(request(BLOB))
        body.give(100)
        body.end_short()
        (reply,) = client.replies()
        self.assertEqual((reply.body, reply.whole), (CONTENT[:100], False))
        self.assertNotIn(b"\r\n0\r\n\r\n", client.transport.value())

    def test_client_leaves(self) -> None:
        """A client that leaves in the middle ends what answered it, and has its line with the bytes sent."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB))
        body.give(100)
        client.leave()
        self.assertTrue(body.closed)
        self.assertEqual([(line.status, line.sent) for line in self.lines], [(200, 100)])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_client_leaves_early(self) -> None:
        """One that leaves before there is an answer has a line, too, with a status that says so."""
        self.services.content = SteppedBody()
        client = self.client().send(request(BLOB, "Range: bytes=0-"))
        waiting = self.client()

        self.services.waiting = Deferred()
        waiting.send(request(BLOB))
        waiting.leave()
        self.assertEqual([(line.status, line.sent) for line in self.lines], [(499, 0)])
        client.leave()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_client_leaves_within_its_head(self) -> None:
        """Half a request is none: no line, no trace."""
        client = self.client().send("GET / HTTP/1.1\r\nHost:")
        client.leave()
        self.assertEqual((self.lines, self.clock.getDelayedCalls()), ([], []))

    def test_client_closes_its_side(self) -> None:
        """Whoever closes his side has left; what is written already may still go out."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request("/") + request(BLOB))
        body.give(10)
        client.channel.readConnectionLost()
        self.assertTrue(body.closed)
        self.assertTrue(client.ended)
        self.assertFalse(client.transport.disconnected)
        self.assertEqual([line.status for line in self.lines], [200, 200])
        client.leave()
        self.assertEqual((len(self.lines), self.clock.getDelayedCalls()), (2, []))

    def test_defect_in_the_log(self) -> None:
        """Even where the access log fails clients are answered, and their connections go on."""

        def fail(*_arguments: object) -> None:
            raise Broken("the log is full")

        self.patch(AccessLog, "__call__", fail)
        self.services.pinged = Pinged(200, {}, b"{}")
        client = self.client().send(request("/v2/"))
        self.assertTrue(self.flushLoggedErrors(Broken))
        self.assertEqual([reply.status for reply in client.replies()], [200])
        self.assertEqual(client.ask("/").status, 200)
        self.flushLoggedErrors(Broken)

    def test_continues_are_read_over(self) -> None:
        """The reader of these tests knows interim answers."""
        self.assertEqual(replies(b"HTTP/1.1 100 Continue\r\n\r\n"), [])
