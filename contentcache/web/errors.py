"""
Errors as clients see them: the one place that makes answers of them.

The body is that of the distribution spec (1.1, "Error Codes"): ``{"errors": [{code, message, detail}]}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from attrs import frozen

from contentcache.core.errors import CacheError, OriginRefused

API_VERSION: Final = "registry/2.0"
_CODES: Final[Mapping[int, tuple[str, str]]] = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("NOT_FOUND", "the origin does not have it"),
    429: ("TOOMANYREQUESTS", "the origin asks for patience"),
}


@frozen
class ErrorAnswer:
    """
    Status, headers and body of an error.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def as_answer(error: CacheError) -> ErrorAnswer:
    """
    The answer that an error is. The origin's own refusals keep their status, their headers and their body.
    """
    if isinstance(error, OriginRefused) and error.body:
        return ErrorAnswer(error.status, {"Content-Type": "application/json", **error.headers}, error.body)
    if isinstance(error, OriginRefused):
        code, message = _CODES.get(error.status, ("UNKNOWN", error.message))
        headers = {name: value for name, value in error.headers.items() if name != "Content-Type"}
    else:
        code, message, headers = error.code, error.message, dict(error.headers)
    entry: dict[str, object] = {"code": code, "message": message}
    if error.detail is not None:
        entry["detail"] = error.detail
    body = json.dumps({"errors": [entry]}).encode() + b"\n"
    return ErrorAnswer(error.status, {"Content-Type": "application/json", **headers}, body)


def as_response(error: CacheError) -> bytes:
    """
    A whole response that ends its connection, for errors before there is a request to answer.
    """
    answer = as_answer(error)
    head = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    fields = {
        **answer.headers,
        "Content-Length": str(len(answer.body)),
        "Docker-Distribution-Api-Version": API_VERSION,
        "Connection": "close",
    }
    head += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*head, "", ""]).encode("latin-1", "replace") + answer.body
