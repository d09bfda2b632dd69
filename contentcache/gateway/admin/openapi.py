"""The admin API in one table: it makes both the routes and the document in OpenAPI 3.1 that describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from http import HTTPStatus
from typing import Any, Final

from attrs import field, frozen

from contentcache import __version__
from contentcache.gateway.directory import (
    HOST_PATTERN,
    LONGEST_ACCOUNT,
    LONGEST_HOST,
    LONGEST_NAME,
    NAME_PATTERN,
)

PREFIX: Final = "/api/v0"
#: Largest body of a request, in bytes.
LARGEST_BODY: Final = 64 << 10
_VARIABLE: Final = re.compile(r"\{(\w+)\}")


class Permission(Enum):
    """Who may call an operation; the value is a sentence for people."""

    ANYBODY = "Anybody."
    USER = "Any account of the registry."
    OWNER = "The account itself, and administrators."
    ADMIN = "Administrators."


@frozen
class Operation:
    """
    One row: ``name`` is the method of the API, ``body`` and ``answers`` name schemas below.

    ``answers`` has what is particular to it; :func:`document` adds what every operation may answer.
    """

    name: str
    method: str
    path: str
    permission: Permission
    summary: str
    answers: Mapping[int, tuple[str, str | None]]
    body: str | None = None
    details: str = field(default="")

    @property
    def tag(self) -> str:
        """The heading under which it is described."""
        return {"content_caches": "Caches", "accounts": "Settings"}.get(
            self.path.split("/")[1], "This document"
        )


SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "ContentCache": {
        "type": "object",
        "required": ["id", "name", "host"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "format": "uuid"},
            "name": {"type": "string"},
            "host": {"type": "string", "format": "uri", "description": "scheme, host and port"},
        },
        "example": {
            "id": "7f3c1a52-8f0f-4f5b-9a57-0f6d5e1c2b3a",
            "name": "region-us",
            "host": "https://us.cache.example.com",
        },
    },
    "ContentCaches": {"type": "array", "items": {"$ref": "#/components/schemas/ContentCache"}},
    "ContentCacheHealth": {
        "type": "object",
        "required": ["state", "since", "checked", "reason"],
        "additionalProperties": False,
        "properties": {
            "state": {
                "type": "string",
                "enum": ["healthy", "unhealthy", "unknown"],
                "description": "whether clients are sent there; unknown before the first answer",
            },
            "since": {"type": ["string", "null"], "format": "date-time"},
            "checked": {"type": ["string", "null"], "format": "date-time"},
            "reason": {"type": ["string", "null"], "description": "what was wrong when it was last asked"},
        },
        "example": {
            "state": "unhealthy",
            "since": "2026-11-30T09:15:00Z",
            "checked": "2026-11-30T09:20:10Z",
            "reason": "it cannot be connected to in time",
        },
    },
    "NewContentCache": {
        "type": "object",
        "required": ["name", "host"],
        "additionalProperties": False,
        "properties": {
            "name": {
                "type": "string",
                "minLength": 1,
                "maxLength": LONGEST_NAME,
                "pattern": NAME_PATTERN,
                "description": "unique, whatever the case",
            },
            "host": {
                "type": "string",
                "maxLength": LONGEST_HOST,
                "pattern": HOST_PATTERN,
                "description": "https:// or http://, a host, and a port if it is not the scheme's own",
            },
        },
        "example": {"name": "region-us", "host": "https://us.cache.example.com"},
    },
    "UserSettings": {
        "type": "object",
        "required": ["ContentCacheUUID"],
        "additionalProperties": False,
        "properties": {
            "ContentCacheUUID": {
                "type": "string",
                "description": "the id of the cache that was chosen; empty if none was",
            }
        },
        "example": {"ContentCacheUUID": "7f3c1a52-8f0f-4f5b-9a57-0f6d5e1c2b3a"},
    },
    "NewUserSettings": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "contentCacheUUID": {
                "type": ["string", "null"],
                "description": "the id of a cache; empty or null for none. Left out, nothing changes",
            }
        },
        "example": {"contentCacheUUID": "7f3c1a52-8f0f-4f5b-9a57-0f6d5e1c2b3a"},
    },
    "Errors": {
        "type": "object",
        "required": ["errors"],
        "properties": {
            "errors": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["code", "message", "detail"],
                    "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "detail": {}},
                },
            },
            "request_id": {"type": "string", "description": "the request in the gateway's log"},
        },
    },
}

PARAMETERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "id": {
        "schema": {"type": "string", "minLength": 1},
        "description": "A cache's id, a UUID. Nothing else is one's.",
        "example": "7f3c1a52-8f0f-4f5b-9a57-0f6d5e1c2b3a",
    },
    "username": {
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_ACCOUNT},
        "description": "An account of the registry.",
        "example": "alice",
    },
}

_NO_CACHE: Final = ("`NO_SUCH_CONTENT_CACHE`: no cache has this id.", "Errors")
_NO_USER: Final = ("`NO_SUCH_USER`: this account was never seen here.", "Errors")

OPERATIONS: Final = (
    Operation(
        "list_caches",
        "GET",
        "/content_caches",
        Permission.USER,
        "List the caches",
        {200: ("All caches, by name.", "ContentCaches")},
    ),
    Operation(
        "add_cache",
        "POST",
        "/content_caches",
        Permission.ADMIN,
        "Add a cache",
        {
            201: ("The cache, with its id.", "ContentCache"),
            400: ("`INVALID_CONTENT_CACHE`: the details are wrong, or the name is taken.", "Errors"),
        },
        "NewContentCache",
    ),
    Operation(
        "show_cache",
        "GET",
        "/content_caches/{id}",
        Permission.USER,
        "Show one cache",
        {200: ("The cache.", "ContentCache"), 404: _NO_CACHE},
    ),
    Operation(
        "show_health",
        "GET",
        "/content_caches/{id}/health",
        Permission.USER,
        "Show whether a cache is healthy",
        {200: ("Its state, as this gateway knows it.", "ContentCacheHealth"), 404: _NO_CACHE},
        details="Healthy is what answers, and serves what this gateway signs.",
    ),
    Operation(
        "remove_cache",
        "DELETE",
        "/content_caches/{id}",
        Permission.ADMIN,
        "Remove a cache",
        {204: ("It is gone, or was gone already.", None)},
        details="Whoever had chosen it has chosen nothing now, and pulls from the registry.",
    ),
    Operation(
        "show_settings",
        "GET",
        "/accounts/{username}/settings",
        Permission.OWNER,
        "Show an account's settings",
        {200: ("The settings.", "UserSettings"), 404: _NO_USER},
        details="An account is known here once it has signed in, or used this API, with success.",
    ),
    Operation(
        "change_settings",
        "PATCH",
        "/accounts/{username}/settings",
        Permission.OWNER,
        "Choose an account's cache",
        {
            200: ("The settings as they are now.", "UserSettings"),
            400: ("`INVALID_USER_SETTINGS`: they are wrong, or there is no such cache.", "Errors"),
            404: _NO_USER,
        },
        "NewUserSettings",
    ),
    Operation(
        "describe",
        "GET",
        "/openapi.json",
        Permission.ANYBODY,
        "Show this document",
        {200: ("The OpenAPI document.", "Document")},
    ),
)


def document() -> dict[str, Any]:
    """Return the whole document, as values for JSON."""
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
        "description": " ".join(filter(None, (operation.permission.value, operation.details))),
        "responses": {str(status): _answer(*words) for status, words in sorted(_answers(operation))},
        "security": [] if operation.permission is Permission.ANYBODY else [{"password": []}, {"token": []}],
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
    if operation.permission is not Permission.ANYBODY:
        common |= {
            401: "`NOT_AUTHENTICATED`: the registry does not accept these credentials.",
            429: "`TOO_MANY_REQUESTS`: there were too many wrong ones.",
            503: "`UNAVAILABLE`: the registry or the database does not answer.",
        }
    if operation.permission in {Permission.OWNER, Permission.ADMIN}:
        common[403] = "`NOT_AUTHORIZED`: " + operation.permission.value[:-1].lower() + " may do this."
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
