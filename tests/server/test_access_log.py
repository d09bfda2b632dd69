"""Tests for :mod:`contentcache.server.access_log`, to the line that is written."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

from twisted.logger import LogLevel

from contentcache.config.model import Log
from contentcache.telemetry.logging import log_observer
from tests.registry.harness import BLOB, CONTENT, RegistryTestCase, request


class LineTests(RegistryTestCase):
    """Lines."""

    def written(self, formatter: str = "text") -> list[str]:
        """The lines as the operator sees them."""
        stream = StringIO()
        journal: Any = log_observer(stream, Log(formatter=formatter))  # type: ignore[arg-type]
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
        self.ask(BLOB, "User-Agent: docker/27", "Referer: http://a.example/")
        (line,) = self.written()
        self.assertEqual(
            line,
            f'192.0.2.1 - - [09/Sep/2001:01:46:40 +0000] "GET {BLOB} HTTP/1.1" 200 {len(CONTENT)} '
            '"http://a.example/" "docker/27" cache="hit" seconds=0.000 upstream=https://a.example '
            f"sent={len(CONTENT)} of={len(CONTENT)} end=complete",
        )

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
