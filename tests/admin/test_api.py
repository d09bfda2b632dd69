"""Tests for :mod:`contentcache.admin.api`, with :mod:`~contentcache.admin.openapi` and its values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema_rs
from attrs import evolve
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request

from contentcache.admin.api import AdminApi, Operations
from contentcache.admin.openapi import document
from contentcache.admin.recent_errors import RecentErrors
from contentcache.admin.status import (
    CacheSummary,
    CertificateStatus,
    GatewayStatus,
    ReloadStatus,
    Status,
    as_json,
)
from contentcache.server.debug_site import HealthCheck
from contentcache.server.page_server import Page, PageServer
from tests.admin.test_status import DIGEST, make_status
from tests.registry.harness import Client, Reply


class AdminApiTests(SynchronousTestCase):
    """Requests, and what they are answered."""

    def setUp(self) -> None:
        self.reloads = 0
        self.health = HealthCheck("ok", "writable")

        async def status() -> Status:
            return make_status()

        async def health() -> Mapping[str, HealthCheck]:
            return {"store": self.health}

        async def reload() -> ReloadStatus:
            self.reloads += 1
            return ReloadStatus(1.0, False, ("log.level",), ("http.addr",), ("no",))

        self.api = AdminApi(Operations(status, health, reload))

    def ask(self, target: str, method: str = "GET") -> Reply:
        """One request at the admin socket."""
        return Client(PageServer(self.api.respond, Clock())).ask(target, method=method)

    def read(self, target: str, *fields: str, address: str = "192.0.2.1", names: bool = False) -> Reply:
        """One request where nothing can be changed."""

        async def respond(request: Request) -> Page:
            return await self.api.respond_read_only(request, names=names)

        return Client(PageServer(respond, Clock()), address).ask(target, *fields)

    def test_reads(self) -> None:
        """What can be read is JSON as its description says, with names."""
        for name in ("status", "downloads", "upstreams", "health", "openapi.json"):
            reply = self.ask(f"/v1/{name}")
            self.assertEqual((reply.status, reply.header("Content-Type")), (200, "application/json"), name)
            check(json.loads(reply.body), f"/v1/{name}")
            self.assertEqual(self.ask(f"/v1/{name}", "HEAD").body, b"")
        (download,) = json.loads(self.ask("/v1/downloads").body)["downloads"]
        self.assertEqual((download["digest"], download["repository"]), (DIGEST, "org/app"))

    def test_health(self) -> None:
        """Where clients are not served the health is a 503, as at the debug address."""
        self.health = HealthCheck("fail", "none serves")
        self.assertEqual(self.ask("/v1/health").status, 503)

    def test_reload(self) -> None:
        """A reload is a POST, and its result is told whether it is good or bad."""
        reply = self.ask("/v1/reload", "POST")
        told = json.loads(reply.body)
        check(told, "/v1/reload", "post")
        self.assertEqual((reply.status, told["ok"], told["restart_needed"]), (200, False, ["http.addr"]))
        self.assertEqual(self.reloads, 1)

    def test_refused(self) -> None:
        """Other paths are 404 and other methods 405, in the form of all errors; nothing happens."""
        for target in ("/", "/v1", "/v1/", "/v1/status/", "/v2/status", "/status", "/v1/../v1/status"):
            reply = self.ask(target)
            self.assertEqual((reply.status, json.loads(reply.body)["errors"][0]["code"]), (404, "NOT_FOUND"))
        for method, target, allowed in (
            ("POST", "/v1/status", "GET, HEAD"),
            ("DELETE", "/v1/health", "GET, HEAD"),
            ("GET", "/v1/reload", "POST"),
            ("PUT", "/v1/reload", "POST"),
        ):
            reply = self.ask(target, method)
            self.assertEqual((reply.status, reply.header("Allow")), (405, allowed), target)
        self.assertEqual(self.reloads, 0)

    def test_read_only(self) -> None:
        """Who may only read changes nothing, and sees names with permission or from this machine alone."""
        self.assertEqual(self.read("/v1/reload").status, 405)
        self.assertEqual(self.reloads, 0)
        for shown, reply in (
            (False, self.read("/v1/status")),
            (True, self.read("/v1/status", names=True)),
            (True, self.read("/v1/status", address="127.0.0.1")),
            (True, self.read("/v1/downloads", address="::1")),
            (False, self.read("/v1/status", "X-Forwarded-For: 198.51.100.1", address="127.0.0.1")),
            (False, self.read("/v1/downloads")),
        ):
            self.assertEqual(reply.status, 200)
            self.assertEqual(b"org/app" in reply.body, shown)
            self.assertEqual(DIGEST.encode() in reply.body, shown)


class OpenAPITests(SynchronousTestCase):
    """The description beside the values."""

    def test_gateway(self) -> None:
        """The document of a gateway is described, too, with everything that can be in it."""
        summary = CacheSummary("eu", "https://eu.example", True, 1.0, None, 3, 9)
        status = evolve(
            make_status(),
            role="gateway",
            savings=None,
            store=None,
            certificates=(CertificateStatus("a.example", 5.0, "warn", "expires soon"),),
            reload=ReloadStatus(1.0, True),
            gateway=GatewayStatus("https://registry.example", "https://gw.example", 4, 9, (summary,)),
        )
        check(as_json(status), "/v1/status")

    def test_strict(self) -> None:
        """A document that lacks a field does not fit."""
        self.assertRaises(jsonschema_rs.ValidationError, check, {"version": "1"}, "/v1/status")


class RecentErrorsTests(SynchronousTestCase):
    """The last warnings and errors."""

    def test_held(self) -> None:
        """They are held as the log has them, without secrets, and no more than are shown."""
        errors = RecentErrors(2)
        event: dict[str, Any] = {"log_namespace": "contentcache", "log_time": 5.0, "log_format": "no room"}
        errors({**event, "log_level": LogLevel.info})
        errors({**event, "log_level": LogLevel.warn, "url": "https://u:p@a.example/?token=abc"})
        errors({**event, "log_level": LogLevel.critical, "log_namespace": "twisted", "log_format": "boom"})
        first, second = errors.read()
        self.assertEqual((first.level, first.event, first.worker), ("warn", "no room", 2))
        self.assertNotIn("abc", first.text)
        self.assertNotIn("u:p", first.text)
        self.assertEqual((second.level, second.event, second.text), ("error", "unexpected error", "boom"))
        for _ in range(100):
            errors({**event, "log_level": LogLevel.error})
        self.assertEqual(len(errors.read()), 50)


def check(value: object, path: str, method: str = "get") -> None:
    """Check a response against its description."""
    whole = document()
    response = whole["paths"][path][method]["responses"]["200"]
    schema = response["content"]["application/json"]["schema"]
    jsonschema_rs.validate({**schema, "components": whole["components"]}, value)
