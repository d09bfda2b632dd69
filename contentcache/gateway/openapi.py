"""The API's description in OpenAPI 3.1, made from the table that its routes are made from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from contentcache import __version__
from contentcache.gateway.declarations import OPERATIONS, PARAMETERS, PREFIX, SCHEMAS, Operation, Who

_VARIABLE: Final = re.compile(r"\{(\w+)\}")


def document() -> dict[str, Any]:
    """The whole document, as JSON has it."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        item = paths.setdefault(PREFIX + operation.path, {})
        item[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Content Cache",
            "version": __version__,
            "description": "The caches of this registry, and which of them an account pulls from.\n\n"
            "Accounts and passwords are those of the registry. Errors are "
            '`{"errors": [{"code", "message", "detail"}]}`.',
        },
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, "Document": {"type": "object", "required": ["openapi", "paths"]}},
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic", "description": "As for docker login."},
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A token that the registry accepts; its sub is the account.",
                },
            },
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": " ".join(filter(None, (operation.who.value, operation.details))),
        "responses": {str(status): _answer(*words) for status, words in sorted(_answers(operation))},
        "security": [] if operation.who is Who.ANYBODY else [{"password": []}, {"token": []}],
    }
    names = _VARIABLE.findall(operation.path)
    if names:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, **PARAMETERS[name]} for name in names
        ]
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json(operation.body)}
    return described


def _answers(operation: Operation) -> Iterator[tuple[int, tuple[str, str | None]]]:
    yield from operation.answers.items()
    known = set(operation.answers)
    common = {406: "`NOT_ACCEPTABLE`: the client takes no JSON."}
    if operation.who is not Who.ANYBODY:
        common |= {
            401: "`NOT_AUTHENTICATED`: the registry does not accept these credentials.",
            429: "`TOO_MANY_REQUESTS`: there were too many wrong ones.",
            503: "`UNAVAILABLE`: the registry or the database does not answer.",
        }
    if operation.who in {Who.OWNER, Who.ADMIN}:
        common[403] = "`NOT_AUTHORIZED`: " + operation.who.value[:-1].lower() + " may do this."
    if operation.body is not None:
        common |= {
            413: "`SIZE_INVALID`: the body is.",
            415: "`UNSUPPORTED_MEDIA_TYPE`: the body is not `application/json`.",
        }
    yield from ((status, (words, "Errors")) for status, words in common.items() if status not in known)


def _answer(words: str, schema: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": words or HTTPStatus.OK.phrase}
    if schema is not None:
        answer["content"] = _json(schema)
    return answer


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
