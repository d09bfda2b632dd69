"""Tests for :mod:`contentcache.server.access_log`, to the line that is written."""

from __future__ import annotations

import json
from base64 import b64encode
from io import StringIO
from typing import Any

from twisted.logger import LogLevel

from contentcache.config.model import Log
from contentcache.core.live import Live
from contentcache.telemetry.logging import log_observer
from tests.registry.harness import BLOB, CONTENT, RegistryTestCase, request


class LineTests(RegistryTestCase):
    """Lines."""

    def written(self, formatter: str = "text") -> list[str]:
        """The lines as the operator sees them."""
        stream = StringIO()
        journal: Any = log_observer(stream, Live(Log(formatter=formatter)))  # type: ignore[arg-type]
        for access in self.lines:
            journal(
                {
                    "log_format": "",
                    "log_level": LogLevel.info,
                    "log_namespace": "contentcache.access",
                    "log_time": 0.0,
                    "access": access,
                }
            )
        return stream.getvalue().splitlines()

    def test_form(self) -> None:
        """Apache's combined form, with cache status, seconds and origin."""
        self.ask(BLOB, "User-Agent: docker/27", "Referer: http://a.example/", "X-Request-Id: build-7")
        (line,) = self.written()
        self.assertEqual(
            line,
            f'192.0.2.1 - - [09/Sep/2001:01:46:40 +0000] "GET {BLOB} HTTP/1.1" 200 {len(CONTENT)} '
            '"http://a.example/" "docker/27" cache="hit" seconds=0.000 upstream=https://a.example '
            f"sent={len(CONTENT)} of={len(CONTENT)} end=complete "
            "served_by=- request_id=build-7 download=-",
        )

    def test_user(self) -> None:
        """The third field is the user name that the client claims, never a token or a password."""
        for pair, shown in (
            (b"alice:secret", "alice"),
            (b"al ice:secret", "al_ice"),
            (b"secret:", "-"),
            (b"secret:secret", "-"),
            (b":secret", "-"),
            (b"se%s:x" % (b"c" * 200), "-"),
        ):
            self.ask(BLOB, f"Authorization: Basic {b64encode(pair).decode()}")
            self.assertTrue(self.written()[-1].startswith(f"192.0.2.1 - {shown} ["), shown)
            self.assertNotIn("secret", self.written()[-1])
        self.ask(BLOB, "Authorization: Bearer secret")
        self.assertTrue(self.written()[-1].startswith("192.0.2.1 - - ["))

    def test_probes(self) -> None:
        """
        A health probe leaves no line unless the operator wants that, but counts in the metrics; a registry's
        client does, and so does a probe that is not answered, or asks for something else.
        """
        probes = ("/", "kube-probe/1.30"), ("/v2/", "ELB-HealthChecker/2.0"), ("/", "contentcache/1 (alive)")
        others = (("/v2/", "docker/27"), ("/nowhere", "kube-probe/1.30"), (BLOB, "Prometheus/3"))
        before = self.count()
        for target, agent in (*probes, *others):
            self.ask(target, f"User-Agent: {agent}")
        self.ask("/v2/", "User-Agent: GoogleHC/1.0", "Authorization: Basic YTpi")
        self.assertEqual([line.uri for line in self.lines], ["/v2/", "/nowhere", BLOB, "/v2/"])
        self.assertEqual(self.count() - before, 7)
        self.lines.clear()
        self.factory = self.build(log=Log(accesslog_probes=True))
        for target, agent in probes:
            self.ask(target, f"User-Agent: {agent}")
        self.assertEqual([line.uri for line in self.lines], ["/", "/v2/", "/"])

    def count(self) -> float:
        """Requests in the metrics."""
        return sum(
            value for name, _, value in self.meter.samples() if name == "contentcache_http_requests_total"
        )

    def test_request_id(self) -> None:
        """The id is the client's if that can be logged, else its ``traceparent``, else a new one."""
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        parent = f"traceparent: {trace}"
        for fields, found in (
            (("X-Request-Id: A.b-7_c", parent), "A.b-7_c"),
            ((f"X-Request-Id: {'x' * 64}",), "x" * 64),
            ((f"X-Request-Id: {'x' * 65}", parent), trace),
            (("X-Request-Id: a b",), None),
            (("X-Request-Id: a", "X-Request-Id: b"), None),
            (("traceparent: 00 b7",), None),
            ((), None),
        ):
            reply = self.ask(BLOB, *fields)
            told = reply.header("X-Request-Id")
            self.assertEqual(self.lines[-1].request_id, told)
            self.assertIn(f" request_id={told} ", self.written()[-1])
            if found is not None:
                self.assertEqual(told, found)
            else:
                self.assertRegex(told or "", "^[0-9a-f]{16}$")
        self.assertEqual(len({line.request_id for line in self.lines[-5:]}), 5)

    def test_request_id_of_errors(self) -> None:
        """An error has the id in its body, whoever refuses: the API, or the server before a head is complete."""
        client = self.client()
        client.send("GET /v2/ HTTP/1.1\r\nX-Request-Id: early\r\nHost: a\r\nHost: b\r\n\r\n")
        (early,) = client.replies()
        for reply, found in ((self.ask("/nowhere", "X-Request-Id: late"), "late"), (early, "early")):
            told = json.loads(reply.body)
            self.assertEqual((told["request_id"], reply.header("X-Request-Id")), (found, found))
            self.assertEqual(set(told["errors"][0]) - {"detail"}, {"code", "message"})

    def test_json(self) -> None:
        """The same for machines."""
        self.ask(BLOB, "User-Agent: docker/27")
        (line,) = self.written("json")
        told = json.loads(line)
        self.assertEqual(
            {name: told[name] for name in ("msg", "remote", "method", "uri", "status", "bytes", "cache")},
            {
                "msg": "access",
                "remote": "192.0.2.1",
                "method": "GET",
                "uri": BLOB,
                "status": 200,
                "bytes": len(CONTENT),
                "cache": "hit",
            },
        )

    def test_nothing_secret(self) -> None:
        """No credential and no token, wherever a client puts them."""
        self.ask(
            BLOB + "?token=secret&a=b&Token=secret",
            "Authorization: Bearer secret",
            "Cookie: secret",
            "Referer: https://user:secret@a.example/?x=y&token=secret",
        )
        self.client().send("GET http://user:secret@cache/v2/ HTTP/1.1\r\nHost: a\r\n\r\n")
        self.client().send(request(BLOB + "?token=secret", method="PUT"))
        text, machines = self.written(), self.written("json")
        self.assertEqual(len(text), 3)
        self.assertNotIn("secret", "".join(text + machines))

    def test_nothing_that_moves_a_cursor(self) -> None:
        """Control characters, quotes and line ends of clients stay out of lines."""
        self.ask("/v2/\x22x\\", 'User-Agent: a"b\\c\x1b[2J\x85\x7f', "Referer: \x9b")
        (line,) = self.written()
        self.assertTrue(line.isprintable(), line)
        self.assertEqual(line.count('"'), 8)

    def test_refused_without_a_line(self) -> None:
        """What never became a request has a line all the same."""
        self.client().send(b"\x16\x03\x01")
        self.client().send("nonsense\r\n")
        for line in self.written():
            self.assertIn('] "- - -" 400 ', line)

    def test_metrics(self) -> None:
        """The meter hears of each, with strangers' methods under one name."""
        self.ask(BLOB)
        self.ask(BLOB, method="BREW")
        text = self.meter.text().decode()
        self.assertIn('contentcache_http_requests_total{code="200",kind="blobs",method="GET"} 1.0', text)
        self.assertIn('contentcache_http_requests_total{code="405",kind="other",method="other"} 1.0', text)
