"""
Turns errors into responses; nothing else does.

The body is that of the distribution spec (1.1, "Error Codes"), ``{"errors": [{code, message, detail}]}``, with the
id of the request beside the errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from attrs import frozen

from contentcache.core.errors import (
    CacheError,
    ContentWrong,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.header_policy import Headers, first, lines_of
from contentcache.telemetry.request_ids import HEADER

#: Keeps a browser from reading a response as anything but its ``Content-Type``.
NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")
#: Headers of every response of a registry.
REGISTRY_HEADERS: Final[Mapping[str, str]] = dict(
    [("Docker-Distribution-Api-Version", "registry/2.0"), NOSNIFF]
)
_CODES: Final[Mapping[int, tuple[str, str]]] = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("NOT_FOUND", "the origin does not have it"),
    429: ("TOOMANYREQUESTS", "the origin asks for patience"),
}
#: Messages for a refusal of the origin without a body, where the route says more than the status.
_MESSAGES: Final[Mapping[str, str]] = {
    "BLOB_UNKNOWN": "blob unknown to the origin",
    "MANIFEST_UNKNOWN": "manifest unknown to the origin",
}
#: No headers from the configuration.
NO_HEADERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


@frozen
class ErrorResponse:
    """The response to a request that failed."""

    status: int
    headers: Headers
    body: bytes


def error_response(error: CacheError, request_id: str) -> ErrorResponse:
    """
    The response for an error, with the id of its request. A refusal by the origin keeps its status, headers and
    body.
    """
    own = {"Cache-Status": _cache_status(error), HEADER: request_id}
    if isinstance(error, OriginRefused) and error.body:
        headers = {"Content-Type": "application/json", **error.headers, **own}
        return ErrorResponse(error.status, headers, error.body)
    code, message = error.code, _public_message(error)
    if isinstance(error, OriginRefused):
        code, message = _CODES.get(error.status, ("UNKNOWN", error.message))
        if error.code in _MESSAGES:
            code, message = error.code, _MESSAGES[error.code]
    entry: dict[str, object] = {"code": code, "message": message}
    if error.detail is not None:
        entry["detail"] = error.detail
    body = error_body(entry, request_id)
    return ErrorResponse(error.status, {**error.headers, "Content-Type": "application/json", **own}, body)


def error_body(entry: Mapping[str, object], request_id: str = "") -> bytes:
    """
    The body of a response with one error: its ``code``, ``message`` and ``detail``. The ``request_id`` is beside
    the errors, where clients ignore it: what ``detail`` is depends on the code.
    """
    beside = {"request_id": request_id} if request_id else {}
    return json.dumps({"errors": [entry], **beside}).encode() + b"\n"


def serialize(
    response: ErrorResponse, *, is_head: bool, extra: Mapping[str, tuple[str, ...]] = NO_HEADERS
) -> bytes:
    """
    The bytes of a response that ends its connection, for errors before a request is complete. ``extra`` are the
    headers of the configuration; those of the response override them.
    """
    own: Headers = {
        **response.headers,
        "Content-Length": str(len(response.body)),
        **REGISTRY_HEADERS,
        "Connection": "close",
    }
    own_names = {name.lower() for name in own}
    fields: Headers = {
        **{name: values for name, values in extra.items() if name.lower() not in own_names},
        **own,
    }
    head = [
        f"HTTP/1.1 {response.status} {reason_phrase(response.status)}",
        *(f"{name}: {value}" for name, values in fields.items() for value in lines_of(values)),
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + (b"" if is_head else response.body)


def reason_phrase(status: int) -> str:
    """
    The reason phrase of a status, which an origin may have made up.

    >>> reason_phrase(508), reason_phrase(499)
    ('Loop Detected', 'Unknown Status')
    """
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown Status"


def _public_message(error: CacheError) -> str:
    """The message without the names of upstream hosts: those are only logged."""
    if isinstance(error, ContentWrong):
        return error.message
    if isinstance(error, UpstreamUnavailable):
        return "no upstream of this cache can be reached now; try again soon"
    if isinstance(error, UpstreamTimeout):
        return "the upstream of this cache did not answer in time; try again soon"
    if isinstance(error, UpstreamBroken):
        return "the upstream of this cache answered with something that cannot be used"
    return error.message


def _cache_status(error: CacheError) -> str:
    """Whether the cache or an upstream caused the error (RFC 9211 §2.2, §2.3)."""
    if isinstance(error, OriginRefused):
        stale = first(error.headers, "Cache-Status")  # a remembered refusal, while the origin is unreachable
        if stale is not None:
            return stale
        return f"contentcache; fwd=request; fwd-status={error.status}"
    if isinstance(error, UpstreamBroken | UpstreamTimeout | UpstreamUnavailable):
        return "contentcache; fwd=request; detail=failed"
    return "contentcache; detail=refused"
