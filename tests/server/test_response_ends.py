"""Tests for how responses end, at a cache and a gateway: access log, the line that says why, and metrics."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.logger import LogLevel

from contentcache.core.errors import UpstreamTimeout
from contentcache.delivery.bodies import DiskReadError
from contentcache.delivery.responses import Outcome
from contentcache.server.access_log import AccessLog
from contentcache.telemetry.metrics import Meter
from tests.gateway.in_memory import GatewayTestCase
from tests.registry.harness import (
    BLOB,
    CONTENT,
    DIGEST,
    Broken,
    Client,
    RegistryTestCase,
    SteppedBody,
    request,
)

_SIZE = len(CONTENT)
_MANIFEST = f"/v2/org/app/manifests/{DIGEST}"
_SENT = "contentcache_sent_bytes_total"
_LIST = "/v2/org/app/tags/list"


class RecordedEvents:
    """Keeps the events of the access log: level, phrase and fields."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, dict[str, Any]]] = []

    def emit(self, level: Any, phrase: str, **fields: Any) -> None:
        """An event."""
        self.found.append((level.name, phrase, fields))


def incomplete(meter: Meter) -> dict[str, float]:
    """How many responses ended before their last byte, by who ended them."""
    return {
        labels["by"]: value
        for name, labels, value in meter.samples()
        if name == "contentcache_responses_incomplete_total"
    }


def sent_bytes(meter: Meter, kind: str = "blobs") -> float:
    """Bytes of body that the metrics know of."""
    samples = meter.samples()
    return sum(each[2] for each in samples if each[0] == _SENT and each[1]["kind"] == kind)


class ResponseEndTests(RegistryTestCase):
    """Responses of the API."""

    def setUp(self) -> None:
        super().setUp()
        self.events = RecordedEvents()
        self.patch(AccessLog, "_event_log", self.events)
        self.count = dict.fromkeys(("client", "upstream", "drain", "disk"), 0.0)

    def begin(self, given: int = 100, *fields: str) -> tuple[SteppedBody, Client]:
        """A response of which ``given`` bytes are sent."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB, *fields))
        body.give(given)
        return body, client

    def assert_ended(self, how: str, sent: int, of: int | None, status: int = 200) -> None:
        """There is one line, which says so; and if the response is incomplete one event and one count."""
        (line,) = self.lines
        self.assertEqual((line.status, line.sent, line.length, line.end.how), (status, sent, of, how))
        if how == "complete":
            self.assertEqual(self.events.found, [])
        else:
            self.count[how] += 1
            ((level, phrase, fields),) = self.events.found
            expected = "info" if how == "client" else "warn"
            self.assertEqual((level, phrase, fields["by"]), (expected, "response incomplete", how))
            self.assertEqual((fields["sent"], fields["of"], fields["reason"]), (sent, of, line.end.reason))
            self.assertTrue(fields["reason"])
        self.assertEqual(incomplete(self.meter), self.count)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.lines.clear()
        self.events.found.clear()

    def test_complete(self) -> None:
        """Whole responses, with a body or without one, and errors."""
        for target, method, status, size in (
            (BLOB, "GET", 200, _SIZE),
            (BLOB, "HEAD", 200, 0),
            ("/v2/", "GET", 200, 2),
            (BLOB, "PUT", 405, None),
            ("/v2/org/app", "HEAD", 404, 0),
        ):
            client = self.client()
            reply = client.ask(target, method=method)
            client.leave()
            length = len(reply.body) if size is None else size
            self.assert_ended("complete", length, length, status)

    def test_parts(self) -> None:
        """Of a part its own length counts; 304 has none, a list of unknown length says so."""
        self.ask(BLOB, "Range: bytes=5-9")
        self.ask(BLOB, f'If-None-Match: "{DIGEST}"')
        self.upstream_says(200, {}, [b"[1]"])
        self.ask(_LIST)
        found = [(line.status, line.sent, line.length, line.end.how) for line in self.lines]
        self.assertEqual(
            found, [(206, 5, 5, "complete"), (304, 0, 0, "complete"), (200, 3, None, "complete")]
        )

    def test_head_refused(self) -> None:
        """What is refused before it is a request, to HEAD without a body."""
        for method, is_head in (("GET", False), ("HEAD", True)):
            client = self.client().send(f"{method} / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
            client.leave()
            (line,) = self.lines
            self.assertEqual((line.sent == 0, line.sent == line.length), (is_head, True))
            self.assert_ended("complete", line.sent, line.sent, 400)

    def test_client_disconnects(self) -> None:
        """In the middle: the line says at which byte of which content."""
        _body, client = self.begin()
        client.leave()
        ((_level, _phrase, fields),) = self.events.found
        self.assertEqual((fields["digest"], fields["repository"]), (str(DIGEST), "org/app"))
        self.assertEqual((fields["offset"], fields["upstream"]), (100, "https://a.example"))
        self.assertEqual((fields["client"], fields["reason"]), ("192.0.2.1", "the client disconnected"))
        self.assert_ended("client", 100, _SIZE)

    def test_client_disconnects_in_a_part(self) -> None:
        """The offset is that in the content, not in the part."""
        _body, client = self.begin(5, "Range: bytes=1000-1999")
        client.leave()
        self.assertEqual(self.events.found[0][2]["offset"], 1005)
        self.assert_ended("client", 5, 1000, 206)

    def test_client_disconnects_before_the_first_byte(self) -> None:
        """Nobody knows how long the response would have been; the status is the one that nginx has for it."""
        self.services.waiting = SteppedBody()._given
        client = self.client().send(request(BLOB))
        client.leave()
        self.assertEqual(self.events.found[0][2]["repository"], "org/app")
        self.assert_ended("client", 0, None, 499)

    def test_client_closes_its_side(self) -> None:
        """It has disconnected, whatever it may still read."""
        _body, client = self.begin()
        client.channel.readConnectionLost()
        client.leave()
        self.assert_ended("client", 100, _SIZE)

    def test_buffered(self) -> None:
        """What is still in the buffer of a lost connection was not sent."""
        _body, client = self.begin()
        transport: Any = client.transport
        transport.dataBuffer, transport.offset, transport._tempDataLen = b"x" * 30, 10, 5
        client.leave()
        self.assert_ended("client", 75, _SIZE)

    def test_client_stalls(self) -> None:
        """``limits.clientstall`` counts as the client's end, and has a reason of its own."""
        _body, client = self.begin()
        client.producer.pauseProducing()
        self.clock.pump([1] * 61)
        client.leave()
        self.assertEqual(self.events.found[0][2]["reason"], "nothing read for 60 s")
        self.assert_ended("client", 100, _SIZE)

    def test_client_stalls_at_the_end(self) -> None:
        """A response is not complete while its client takes nothing of what is buffered."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB))
        client.producer.pauseProducing()
        body.give(_SIZE)
        self.clock.pump([1] * 61)
        client.leave()
        self.assert_ended("client", 0, _SIZE)

    def test_shutdown(self) -> None:
        """What a shutdown ends was ended by nobody else."""
        _body, client = self.begin()
        self.factory.cut()
        client.leave()
        self.assert_ended("drain", 100, _SIZE)

    def test_rest_missing(self) -> None:
        """Errors say who is to blame: upstream, or the disk; a defect is not the client's."""
        for error, how in (
            (UpstreamTimeout("upstream sent nothing for 30 s"), "upstream"),
            (DiskReadError("the stored file is shorter than it was"), "disk"),
            (Broken("a defect"), "upstream"),
        ):
            body, client = self.begin()
            body.fail(error)
            (reply,) = client.replies()
            self.assertEqual((len(reply.body), reply.whole, client.ended), (100, False, True))
            client.leave()
            self.assertEqual(len(self.flushLoggedErrors(Broken)), isinstance(error, Broken))
            self.assert_ended(how, 100, _SIZE)

    def test_relayed(self) -> None:
        """A list that breaks off."""
        self.upstream_says(200, {"Content-Length": "10"}, [b"[1,"], end=ConnectionLost(), length=10)
        client = self.client().send(request(_LIST))
        client.leave()
        self.assertEqual(self.events.found[0][2]["repository"], "org/app")
        self.assert_ended("upstream", 3, 10)

    def test_stored(self) -> None:
        """Only what is stored by the time that the response ends is called so."""
        self.services.outcome = Outcome.STORED
        for is_stored, is_whole, cache in (
            (True, True, "fwd=miss; stored"),
            (False, True, "fwd=miss"),
            (True, False, "fwd=miss"),
        ):
            body, client = self.begin()
            body.is_stored = is_stored
            if is_whole:
                body.give(_SIZE - 100)
            client.leave()
            self.assertEqual(self.lines.pop().cache, cache)

    def test_counted_while_sent(self) -> None:
        """Bytes are in the metrics while the response is under way, each once."""
        body, client = self.begin()
        self.assertEqual([sent_bytes(self.meter) for _ in range(2)], [100, 100])
        body.give(50)
        self.assertEqual(sent_bytes(self.meter), 150)
        body.give(_SIZE - 150)
        self.assertEqual(sent_bytes(self.meter), _SIZE)
        client.leave()
        self.assertEqual(sent_bytes(self.meter), _SIZE)
        other, leaving = self.begin()
        self.assertEqual(sent_bytes(self.meter), _SIZE + 100)
        other.give(1)
        leaving.leave()
        self.assertEqual(sent_bytes(self.meter), _SIZE + 101)


class GatewayResponseEndTests(GatewayTestCase):
    """Responses that a gateway passes on."""

    def setUp(self) -> None:
        super().setUp()
        self.events = RecordedEvents()
        self.patch(AccessLog, "_event_log", self.events)

    def begin(self) -> tuple[Any, Any]:
        """Half a manifest has arrived."""
        client, line = self.ask(_MANIFEST)
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        return client, line

    def assert_ended(self, how: str) -> None:
        """The response of five bytes has ended so."""
        (line,) = self.written
        self.assertEqual((line.status, line.sent, line.length, line.end.how), (200, 5, 10, how))
        ((level, _phrase, fields),) = self.events.found
        self.assertEqual((level, fields["by"]), ("info" if how == "client" else "warn", how))
        self.assertEqual({by: count for by, count in incomplete(self.meter).items() if count}, {how: 1.0})
        self.assertEqual(sent_bytes(self.meter, "manifests"), 5)

    def test_registry_breaks_off(self) -> None:
        """The registry behind is the upstream."""
        _client, line = self.begin()
        line.end(rudely=True)
        self.assert_ended("upstream")

    def test_client_disconnects(self) -> None:
        """As at a cache."""
        client, _line = self.begin()
        client.leave()
        self.assert_ended("client")

    def test_shutdown(self) -> None:
        """As at a cache."""
        self.begin()
        self.factory.cut()
        self.assert_ended("drain")

    def test_complete(self) -> None:
        """A whole response; what was received is counted as what was sent."""
        _client, line = self.begin()
        line.say("world")
        (entry,) = self.written
        self.assertEqual((entry.sent, entry.length, entry.end.how), (10, 10, "complete"))
        self.assertEqual(self.events.found, [])
        received = {
            labels["kind"]: value
            for name, labels, value in self.meter.samples()
            if name == "contentcache_received_bytes_total" and value
        }
        self.assertEqual(received, {"manifests": 10})

    def test_client_disconnects_in_its_body(self) -> None:
        """No response can be sent, and none is to blame but the client."""
        client = self.client().send(
            "PUT /v2/org/app/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"
        )
        client.leave()
        (line,) = self.written
        self.assertEqual((line.status, line.sent, line.length, line.end.how), (499, 0, None, "client"))
        self.assertEqual(self.events.found[0][0], LogLevel.info.name)
