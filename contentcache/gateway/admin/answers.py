"""Responses of the admin API: JSON, and errors in the form of the original product."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from twisted.web.http import Request

from contentcache.core.accept import accepts_json
from contentcache.core.errors import CacheError
from contentcache.core.header_policy import lines_of
from contentcache.gateway.errors import NotAcceptable
from contentcache.server.errors import error_body

JSON: Final = "application/json"

#: Headers of every response of the admin site.
GUARDS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" browsers send forms of the site's own pages with "Origin: null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
}


def send(
    request: Request, status: int, body: bytes = b"", media_type: str | None = None, **headers: str
) -> bytes:
    """Set status and headers, and return the body for Klein."""
    request.setResponseCode(status)
    for name, value in GUARDS.items():
        request.setHeader(name, value)
    for name, value in headers.items():
        request.setHeader(name.replace("_", "-"), value)
    if media_type is not None:
        request.setHeader("Content-Type", media_type)
    if status not in {204, 304}:  # these have no body to tell the length of (RFC 9110 §8.6)
        request.setHeader("Content-Length", str(len(body)))
    return body


def send_json(request: Request, status: int, value: object) -> bytes:
    """Send a value as JSON."""
    return send(request, status, json.dumps(value).encode() + b"\n", JSON)


def send_error(request: Request, error: CacheError) -> bytes:
    """Send an error, in the original's form: ``{"errors": [{code, message, detail}]}``."""
    entry = {"code": error.code, "message": error.message, "detail": error.detail}
    body = send(request, error.status, error_body(entry, getattr(request, "request_id", "")), JSON)
    set_headers_of(request, error)
    if error.status == 401:  # noqa: PLR2004
        request.setHeader("WWW-Authenticate", _challenge(request))
        request.setHeader("Vary", "Sec-Fetch-Dest")
    return body


def set_headers_of(request: Request, error: CacheError) -> None:
    """Set the headers that belong to an error, such as ``Retry-After``."""
    for name, value in error.headers.items():
        request.responseHeaders.setRawHeaders(name, lines_of(value))


def check_acceptable(request: Request) -> None:
    """:raises NotAcceptable: the client takes no JSON (RFC 9110 §12.5.1)."""
    if not accepts_json(request.requestHeaders.getRawHeaders("Accept") or ()):
        raise NotAcceptable(f"answers are {JSON} here")


def client_address(request: Request) -> str:
    """Return the client's address; empty for one of a Unix socket."""
    return str(getattr(request.getClientAddress(), "host", ""))


def timestamp(seconds: float) -> str:
    """
    Format seconds since the epoch (RFC 3339).

    >>> timestamp(0.5)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _challenge(request: Request) -> str:
    """
    The challenge to a client. To a script in a page it is not ``Basic``: the browser would ask its user for a
    password in a window of its own, over the page that has a form for that.
    """
    if request.getHeader("Sec-Fetch-Dest") == "empty":
        return 'Bearer realm="Content Cache"'
    return 'Basic realm="Content Cache", charset="UTF-8"'
