"""The admin API: JSON over HTTP, whole at the admin socket, and to be read only at the debug address."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from attrs import frozen
from twisted.web.http import Request

from contentcache.admin.hidden_names import without_names
from contentcache.admin.openapi import document
from contentcache.admin.status import ReloadStatus, Status, as_json
from contentcache.core.client_address import is_loopback
from contentcache.server.debug_site import HealthChecks, health_page
from contentcache.server.errors import error_body
from contentcache.server.page_server import Page

JSON: Final = "application/json"
#: What all paths begin with.
VERSION: Final = "/v1/"
_NO_STORE: Final = {"Cache-Control": "no-store"}
_READS: Final = frozenset({"status", "health", "downloads", "upstreams", "openapi.json"})
_CHANGES: Final = frozenset({"reload"})


@frozen
class Operations:
    """What the daemon does for its operator."""

    status: Callable[[], Awaitable[Status]]
    health: HealthChecks
    reload: Callable[[], Awaitable[ReloadStatus]]


class AdminApi:
    """Answers requests to the paths below ``/v1/``."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def respond(self, request: Request) -> Page:
        """Answer who may do everything."""
        name = _name_of(request)
        if name in _CHANGES and request.method == b"POST":
            return json_page(as_json(await self._operations.reload()))
        return await self._read(request, name, names=True)

    async def respond_read_only(self, request: Request, *, names: bool) -> Page:
        """Answer who may only read, with ``names`` or where the request comes from this machine."""
        return await self._read(request, _name_of(request), names=names or not is_remote(request))

    async def _read(self, request: Request, name: str, *, names: bool) -> Page:
        if name not in _READS | _CHANGES:
            return error_page(
                404, "NOT_FOUND", "this is no path of the admin API; /v1/openapi.json has them all"
            )
        allowed = "POST" if name in _CHANGES else "GET, HEAD"
        if name in _CHANGES or request.method not in {b"GET", b"HEAD"}:
            return error_page(405, "UNSUPPORTED", f"the methods here are {allowed}", Allow=allowed)
        if name == "openapi.json":
            return json_page(document())
        if name == "health":
            return health_page(await self._operations.health())
        status = await self._operations.status()
        found = as_json(status if names else without_names(status))
        return json_page(found if name == "status" else {name: found[name]})


def _name_of(request: Request) -> str:
    path = request.path.decode("latin-1")
    return path.removeprefix(VERSION) if path.startswith(VERSION) else ""


def is_remote(request: Request) -> bool:
    """Whether a request comes from another machine, perhaps through a proxy on this one."""
    headers = request.requestHeaders
    forwarded = any(headers.hasHeader(name) for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"))
    return forwarded or not is_loopback(str(getattr(request.getClientAddress(), "host", "")))


def json_page(value: dict[str, Any], status: int = 200) -> Page:
    """Return a response in JSON."""
    return Page(status, JSON, json.dumps(value, indent=2).encode() + b"\n", _NO_STORE)


def error_page(status: int, code: str, message: str, **headers: str) -> Page:
    """Return the response to a request that failed, with a body as all errors of the daemon have it."""
    return Page(status, JSON, error_body({"code": code, "message": message}), {**_NO_STORE, **headers})
