"""Answers of the API: JSON, and errors in the form that the original gave them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from twisted.web.http import Request

from contentcache.core.errors import CacheError
from contentcache.core.header_policy import lines_of
from contentcache.gateway.errors import NotAcceptable

JSON: Final = "application/json"
_MOST_KINDS: Final = 100

#: With every answer of the gateway's own.
GUARDS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" browsers say of our own forms that they come from nowhere (Origin: null).
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
}


def send(request: Request, status: int, body: bytes = b"", kind: str | None = None, **headers: str) -> bytes:
    """Status, headers and the body to give back to Klein."""
    request.setResponseCode(status)
    for name, value in GUARDS.items():
        request.setHeader(name, value)
    for name, value in headers.items():
        request.setHeader(name.replace("_", "-"), value)
    if kind is not None:
        request.setHeader("Content-Type", kind)
    if status not in {204, 304}:  # these have no body to tell the length of (RFC 9110 §8.6)
        request.setHeader("Content-Length", str(len(body)))
    return body


def send_json(request: Request, status: int, value: object) -> bytes:
    """A value as JSON."""
    return send(request, status, json.dumps(value).encode() + b"\n", JSON)


def send_error(request: Request, error: CacheError) -> bytes:
    """An error, in the original's form: ``{"errors": [{code, message, detail}]}``."""
    entry = {"code": error.code, "message": error.message, "detail": error.detail}
    body = send_json(request, error.status, {"errors": [entry]})
    for name, value in error.headers.items():
        request.responseHeaders.setRawHeaders(name, lines_of(value))
    if error.status == 401:  # noqa: PLR2004
        request.setHeader("WWW-Authenticate", _challenge(request))
        request.setHeader("Vary", "Sec-Fetch-Dest")
    return body


def check_acceptable(request: Request) -> None:
    """:raises NotAcceptable: the client takes no JSON (RFC 9110 §12.5.1)."""
    fields: Any = request.requestHeaders.getRawHeaders("Accept") or ()
    if fields and not _takes_json(",".join(fields)):
        raise NotAcceptable(f"answers are {JSON} here")


def _takes_json(accept: str) -> bool:
    """
    Whether the most particular range that has ``application/json`` allows it.

    >>> _takes_json("text/html, */*;q=0.1"), _takes_json("application/json;q=0, */*"), _takes_json("text/*")
    (True, False, False)
    """
    ranks = {JSON: 2, "application/*": 1, "*/*": 0}
    best = (-1, False)
    for kind in accept.split(",")[:_MOST_KINDS]:
        name, *parameters = (part.strip().lower() for part in kind.split(";"))
        if name in ranks:
            weights = [p.partition("=")[2].strip() for p in parameters if p.partition("=")[0].strip() == "q"]
            best = max(best, (ranks[name], not weights or weights[0].strip("0.") != ""))
    return best[1]


def _challenge(request: Request) -> str:
    """
    What a client should show. To a script in a page this is not ``Basic``: the browser would ask its
    user for a password in a window of its own, over the page that has a form for that.
    """
    if request.getHeader("Sec-Fetch-Dest") == "empty":
        return 'Bearer realm="Content Cache"'
    return 'Basic realm="Content Cache", charset="UTF-8"'
