"""Tests for :mod:`contentcache.gateway.blob_authorization`."""

from __future__ import annotations

import gzip
from typing import Any, NoReturn

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.gateway.blob_authorization import RedirectTarget, TargetAnswer
from contentcache.upstream.answers import CODINGS
from contentcache.upstream.redirects import Followed, RedirectPolicy
from tests.registry.harness import FakeResponse

REGISTRY = "https://registry.internal"


@define
class Transport:
    """The transport to a registry and to the targets of its redirects, as far as it is used here."""

    response: Any = None
    error: Exception | None = None
    policy: RedirectPolicy = field(factory=lambda: RedirectPolicy.of(REGISTRY))
    asked: list[tuple[str, str, Headers]] = field(factory=list)

    async def fetch_following(self, method: str, url: str, headers: Headers) -> Followed:
        self.asked.append((method, url, headers))
        if self.error is not None:
            raise self.error
        if self.response is None:
            await Deferred[None]()
        return Followed(self.response, url, 0, True)


class FollowedTargetTests(SynchronousTestCase):
    """The first byte of a blob at a storage."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = Transport()

    def ask(self, location: str = "https://storage.example/x?sig=a%2Fb") -> Deferred[TargetAnswer]:
        """Request the first byte, with the transport's response."""
        transport: Any = self.transport
        target = RedirectTarget(transport, REGISTRY, self.clock, timeout=30.0)
        return Deferred.fromCoroutine(target.first_byte(location))

    def test_question(self) -> None:
        """One byte is requested, without any credentials, at exactly this URL."""
        self.transport.response = FakeResponse(206, Headers({"Content-Range": ["bytes 0-0/1234"]}), [b"x"])
        self.assertEqual(self.successResultOf(self.ask()), TargetAnswer(206, [], 1234))
        ((method, url, headers),) = self.transport.asked
        self.assertEqual((method, url), ("GET", "https://storage.example/x?sig=a%2Fb"))
        self.assertEqual(dict(headers.getAllRawHeaders()), {b"Range": [b"bytes=0-0"], b"Accept": [b"*/*"]})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_whole(self) -> None:
        """A 200 is closed after its head; where that has no type, after as many bytes as tell a page."""
        typed = Headers({b"Content-Type": [b"a/\xff"], b"Content-Length": [b"900"]})
        self.transport.response = FakeResponse(200, typed, [], None)
        self.assertEqual(self.successResultOf(self.ask()), TargetAnswer(200, ["a/\xff"], 900))
        self.assertTrue(self.transport.response.stopped)
        for piece, end, stopped in ((b"<html>", ResponseDone(), False), (b"x" * 600, None, True)):
            self.transport.response = FakeResponse(200, Headers(), [piece], end)
            self.assertEqual(self.successResultOf(self.ask()), TargetAnswer(200, (), None, piece[:512]))
            self.assertEqual(self.transport.response.stopped, stopped)

    def test_compressed(self) -> None:
        """
        The first bytes are decoded before they are checked; where that is impossible, or none arrive, it is an
        error and never allows the blob.
        """
        page = b"<html>" + b" " * 1000
        headers = Headers({CODINGS: [b"gzip"]})
        self.transport.response = FakeResponse(200, headers, [gzip.compress(page)])
        self.assertEqual(self.successResultOf(self.ask()).beginning, page[:512])
        for coding, pieces, end in (
            ("br", [b"x"], ResponseDone()),
            ("gzip", [b"x"], ResponseDone()),
            (None, [], ConnectionError("reset")),
        ):
            headers = Headers({CODINGS: [] if coding is None else [coding.encode()]})
            self.transport.response = FakeResponse(200, headers, pieces, end)
            self.failureResultOf(self.ask(), UpstreamBroken)

    def test_refusals(self) -> None:
        """A forbidden target is not asked; one that cannot be reached is an error of its own, never a defect."""
        for location in (
            "http://storage.example/",
            "https://u:p@storage.example/",
            "ftp://x/",
            "https://\xe9\x00/",
        ):
            self.failureResultOf(self.ask(location), CacheError)
        self.assertEqual(self.transport.asked, [])
        self.transport.error = ConnectionError("reset")
        self.failureResultOf(self.ask(), UpstreamUnavailable)

    def test_too_slow(self) -> None:
        """A target that does not answer in time is abandoned."""
        asking = self.ask()
        self.clock.advance(29)
        self.assertNoResult(asking)
        self.clock.advance(2)
        self.failureResultOf(asking, UpstreamTimeout)

    def test_client_leaves(self) -> None:
        """A client that disconnects is no failure of the target, whatever error the cancelled request has."""

        async def never(*_: object) -> NoReturn:
            await Deferred[None](lambda waiting: waiting.errback(ConnectionError("given up")))
            raise AssertionError

        self.patch(Transport, "fetch_following", never)
        asking = self.ask()
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
