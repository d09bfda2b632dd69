"""
Errors as clients see them: the one place that makes answers of them.

The body is that of the distribution spec (1.1, "Error Codes"): ``{"errors": [{code, message, detail}]}``.
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

#: Header that keeps a browser from reading an answer as anything else than its ``Content-Type`` says.
NO_SNIFFING: Final = ("X-Content-Type-Options", "nosniff")
#: Headers of every answer of a registry.
EVERYWHERE: Final[Mapping[str, str]] = dict(
    [("Docker-Distribution-Api-Version", "registry/2.0"), NO_SNIFFING]
)
_CODES: Final[Mapping[int, tuple[str, str]]] = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("NOT_FOUND", "the origin does not have it"),
    429: ("TOOMANYREQUESTS", "the origin asks for patience"),
}
#: What is said where a refusal of the origin came without its body, and the route says more than the status.
_MESSAGES: Final[Mapping[str, str]] = {
    "BLOB_UNKNOWN": "blob unknown to the origin",
    "MANIFEST_UNKNOWN": "manifest unknown to the origin",
}


#: No header of the configuration.
NO_HEADERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


@frozen
class ErrorAnswer:
    """Status, headers and body of an error."""

    status: int
    headers: Headers
    body: bytes


def as_answer(error: CacheError) -> ErrorAnswer:
    """The answer that an error is. The origin's own refusals keep their status, their headers and their body."""
    status = {"Cache-Status": _cache_status(error)}
    if isinstance(error, OriginRefused) and error.body:
        headers = {"Content-Type": "application/json", **error.headers, **status}
        return ErrorAnswer(error.status, headers, error.body)
    code, message = error.code, _for_strangers(error)
    if isinstance(error, OriginRefused):
        code, message = _CODES.get(error.status, ("UNKNOWN", error.message))
        if error.code in _MESSAGES:
            code, message = error.code, _MESSAGES[error.code]
    entry: dict[str, object] = {"code": code, "message": message}
    if error.detail is not None:
        entry["detail"] = error.detail
    body = json.dumps({"errors": [entry]}).encode() + b"\n"
    return ErrorAnswer(error.status, {**error.headers, "Content-Type": "application/json", **status}, body)


def as_response(
    answer: ErrorAnswer, *, is_head: bool, extra: Mapping[str, tuple[str, ...]] = NO_HEADERS
) -> bytes:
    """
    A whole response that ends its connection, for errors before there is a request to answer. ``extra`` are
    the headers that every answer has by the configuration; those of the answer itself win.
    """
    ours: Headers = {
        **answer.headers,
        "Content-Length": str(len(answer.body)),
        **EVERYWHERE,
        "Connection": "close",
    }
    taken = {name.lower() for name in ours}
    fields: Headers = {
        **{name: values for name, values in extra.items() if name.lower() not in taken},
        **ours,
    }
    head = [
        f"HTTP/1.1 {answer.status} {phrase(answer.status)}",
        *(f"{name}: {value}" for name, values in fields.items() for value in lines_of(values)),
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + (b"" if is_head else answer.body)


def phrase(status: int) -> str:
    """
    The words beside a status, which an origin may have made up.

    >>> phrase(508), phrase(499)
    ('Loop Detected', 'Unknown Status')
    """
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown Status"


def _for_strangers(error: CacheError) -> str:
    """The sentence without the names of the hosts behind us: those are for the log."""
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
    """Whose error it is (RFC 9211 §2.2, §2.3)."""
    if isinstance(error, OriginRefused):
        old = first(error.headers, "Cache-Status")  # since the origin cannot be asked
        if old is not None:
            return old
        return f"contentcache; fwd=request; fwd-status={error.status}"
    if isinstance(error, UpstreamBroken | UpstreamTimeout | UpstreamUnavailable):
        return "contentcache; fwd=request; detail=failed"
    return "contentcache; detail=refused"
