"""Answers of upstream: heads that may pass, bodies that come in."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from contentcache.core.errors import UpstreamBroken, UpstreamTimeout
from contentcache.upstream.answers import Answer
from contentcache.upstream.inflow import Inflow


class FakeResponse:
    """A response whose body the test delivers, and the transport under it."""

    code = 200

    def __init__(self, headers: dict[str, list[str]] | None = None, length: object = 10) -> None:
        self.headers = Headers(headers or {})
        self.length = length
        self.calls: list[str] = []
        self.protocol: Any = None

    def deliverBody(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self)

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")

    def ends(self, reason: Exception) -> None:
        """The connection's side ends it."""
        self.protocol.connectionLost(Failure(reason))


class AnswerTestCase(SynchronousTestCase):
    """One answer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.got: list[bytes] = []

    def answer(self, response: FakeResponse) -> Answer:
        """An answer over a response."""
        return Answer("https://one.example", 200, False, response, self.clock, 30.0)

    def stream(self) -> tuple[FakeResponse, Inflow]:
        """A body that is coming in."""
        response = FakeResponse()
        return response, self.answer(response).stream(lambda _inflow, data: self.got.append(data))


class HeadTests(AnswerTestCase):
    """What may reach a client."""

    def test_allow_list(self) -> None:
        """Cookies and everything unknown end here; several lines of one name stay several, in order."""
        response = FakeResponse(
            {
                "Content-Type": ["a/b"],
                "Www-Authenticate": ["Basic x", "Bearer y"],
                "Ratelimit-Policy": ["100;w=3600"],
                "Warning": ['299 - "a"', '299 - "b"'],
                "Docker-Content-Digest": ["sha256:x"],
                "Retry-After": ["9"],
                "Set-Cookie": ["a=b"],
                "Alt-Svc": ["h3"],
                "Strict-Transport-Security": ["max-age=1"],
                "Server": ["x"],
                "Location": ["https://storage.example"],
            }
        )
        self.assertEqual(
            self.answer(response).passed_headers(),
            {
                "Content-Type": "a/b",
                "WWW-Authenticate": ("Basic x", "Bearer y"),
                "RateLimit-Policy": "100;w=3600",
                "Warning": ('299 - "a"', '299 - "b"'),
                "Docker-Content-Digest": "sha256:x",
                "Retry-After": "9",
            },
        )

    def test_notices(self) -> None:
        """What tells of the request itself, and nothing that is about the content."""
        response = FakeResponse({"Content-Type": ["a/b"], "Warning": ["299 - x"], "Ratelimit-Limit": ["100"]})
        self.assertEqual(self.answer(response).notices(), {"Warning": "299 - x", "RateLimit-Limit": "100"})

    def test_not_utf8(self) -> None:
        """Bytes that are not UTF-8 are read, one character each."""
        response = FakeResponse({})
        response.headers.addRawHeader(b"Warning", b"299 - caf\xe9")
        self.assertEqual(self.answer(response).passed_headers(), {"Warning": "299 - caf\xe9"})
        self.assertEqual(self.answer(response).header("Warning"), "299 - caf\xe9")

    def test_bounds(self) -> None:
        """Neither many lines nor a long one pass without bound."""
        response = FakeResponse({"Warning": ["299 - x"] * 500, "Ratelimit-Limit": ["9" * 9000]})
        (lines,) = self.answer(response).passed_headers().values()
        self.assertEqual(len(lines), 64)

    def test_length(self) -> None:
        """The header counts, else what the client of HTTP knows; nonsense is no length."""
        for headers, length, expected in (
            ({"Content-Length": ["7"]}, 0, 7),
            ({}, 10, 10),
            ({}, "unknown", None),
            ({"Content-Length": ["x"]}, "unknown", None),
            ({"Content-Length": ["9" * 5000]}, "unknown", None),
        ):
            self.assertEqual(self.answer(FakeResponse(headers, length)).length, expected)

    def test_nothing_is_shown(self) -> None:
        """What is printed of an answer has no header of upstream in it."""
        self.assertNotIn("secret", repr(self.answer(FakeResponse({"X": ["secret"]}))))


class InflowTests(AnswerTestCase):
    """A body that comes in."""

    def test_ends(self) -> None:
        """A body that ends as HTTP says it must, or with its connection where it has no length, is whole."""
        for reason in (ResponseDone(), PotentialDataLoss()):
            response, inflow = self.stream()
            response.protocol.dataReceived(b"abc")
            response.ends(reason)
            self.assertIsNone(self.successResultOf(inflow.ended))
        self.assertEqual(self.got, [b"abc", b"abc"])

    def test_cut(self) -> None:
        """A body that is cut short fails."""
        response, inflow = self.stream()
        response.ends(ResponseFailed([]))
        self.failureResultOf(inflow.ended, UpstreamBroken)

    def test_stall(self) -> None:
        """Nothing for thirty seconds is a stall; every byte begins them anew."""
        response, inflow = self.stream()
        self.clock.advance(29)
        response.protocol.dataReceived(b"a")
        self.clock.advance(29)
        self.assertNoResult(inflow.ended)
        self.clock.advance(1)
        self.failureResultOf(inflow.ended, UpstreamTimeout)
        self.assertEqual(response.calls, ["stop"])

    def test_our_own_pause_is_no_stall(self) -> None:
        """Time in which we have paused upstream does not count."""
        response, inflow = self.stream()
        inflow.pause()
        inflow.pause()
        self.clock.advance(1000)
        self.assertNoResult(inflow.ended)
        inflow.resume()
        inflow.resume()
        self.assertEqual(response.calls, ["pause", "resume"])
        self.clock.advance(30)
        self.failureResultOf(inflow.ended, UpstreamTimeout)

    def test_abandoned(self) -> None:
        """After it was abandoned nothing more comes, and no timer is left."""
        response, inflow = self.stream()
        inflow.abandon()
        response.protocol.dataReceived(b"late")
        response.ends(ResponseFailed([]))
        inflow.resume()
        inflow.pause()
        self.failureResultOf(inflow.ended, UpstreamBroken)
        self.assertEqual((self.got, response.calls, self.clock.getDelayedCalls()), ([], ["stop"], []))

    def test_counted(self) -> None:
        """Every byte counts that arrives, also what nobody wants any more."""
        counted: list[float] = []
        for abandoned in (False, True):
            response = FakeResponse()
            inflow = self.answer(response).counted_by(counted.append).stream(lambda _inflow, _data: None)
            inflow.ended.addErrback(lambda _failure: None)
            response.protocol.dataReceived(b"12345")
            if abandoned:
                inflow.abandon()
            response.protocol.dataReceived(b"678")
        self.assertEqual(counted, [5, 3] * 2)

    def test_read(self) -> None:
        """A small body is read whole; one over the limit is given up as soon as it is."""
        response = FakeResponse()
        reading = Deferred.fromCoroutine(self.answer(response).read(5))
        response.protocol.dataReceived(b"abc")
        response.protocol.dataReceived(b"de")
        response.ends(ResponseDone())
        self.assertEqual(self.successResultOf(reading), b"abcde")
        response = FakeResponse()
        reading = Deferred.fromCoroutine(self.answer(response).read(5))
        response.protocol.dataReceived(b"abcdef")
        failure = self.failureResultOf(reading, UpstreamBroken)
        self.assertIn("larger than 5 bytes", failure.getErrorMessage())
        self.assertEqual(response.calls, ["stop"])
