"""The description of the admin API (OpenAPI 3.1), made from the classes of its values."""

from __future__ import annotations

from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import attrs

from contentcache import __version__
from contentcache.admin.status import DownloadStatus, ReloadStatus, Status, UpstreamStatus

_SIMPLE: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
}
_ERRORS: Final = {
    "type": "object",
    "required": ["errors"],
    "properties": {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            },
        }
    },
}
_HEALTH: Final = {
    "type": "object",
    "required": ["status", "checks"],
    "properties": {
        "status": {"enum": ["ok", "warn", "fail"]},
        "checks": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["state", "detail"],
                "properties": {
                    "state": {"enum": ["ok", "warn", "fail"]},
                    "detail": {"type": "string"},
                    "hosts": {"type": "array", "items": {"type": "object", "required": ["host", "healthy"]}},
                },
            },
        },
    },
}


@lru_cache
def document() -> dict[str, Any]:
    """Return the whole description."""
    schemas: dict[str, Any] = {"Errors": _ERRORS, "Health": _HEALTH, "OpenAPI": {"type": "object"}}
    status, reload = schema_of(Status, schemas), schema_of(ReloadStatus, schemas)
    downloads = _list_of("downloads", DownloadStatus, schemas)
    upstreams = _list_of("upstreams", UpstreamStatus, schemas)
    unhealthy = {"503": _response("Clients are not served", _ref("Health"))}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Content Cache admin API",
            "version": __version__,
            "description": "Served at the admin socket; the debug address serves what can be read. Names of "
            "repositories, tags and digests are null there, but for this machine or with http.debug.names.",
        },
        "paths": {
            "/v1/status": {"get": _operation("status", "What the daemon knows of itself", status)},
            "/v1/health": {"get": _operation("health", "The health checks", _ref("Health"), unhealthy)},
            "/v1/downloads": {"get": _operation("downloads", "Running downloads", downloads)},
            "/v1/upstreams": {"get": _operation("upstreams", "Upstream hosts and their health", upstreams)},
            "/v1/openapi.json": {"get": _operation("openapi", "This description", _ref("OpenAPI"))},
            "/v1/reload": {"post": _operation("reload", "Read the configuration again", reload)},
        },
        "components": {"schemas": schemas},
    }


def schema_of(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """
    The JSON Schema of a type; those of classes are added to ``schemas``.

    >>> schema_of(tuple[int, ...], {})
    {'type': 'array', 'items': {'type': 'integer'}}
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if origin is Annotated:
        return {"type": "string", "format": "date-time"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is UnionType or str(origin) == "typing.Union":
        return {"anyOf": [schema_of(each, schemas) for each in arguments]}
    if origin is tuple:
        return {"type": "array", "items": schema_of(arguments[0], schemas)}
    if kind.__name__ not in schemas:
        schemas[kind.__name__] = {}  # classes may refer to each other
        hints = get_type_hints(kind, include_extras=True)
        fields = [field.name for field in attrs.fields(kind)]
        schemas[kind.__name__] = {
            "type": "object",
            "description": " ".join((kind.__doc__ or "").split()),
            "required": fields,
            "properties": {name: schema_of(hints[name], schemas) for name in fields},
        }
    return _ref(kind.__name__)


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(name: str, kind: type, schemas: dict[str, Any]) -> dict[str, Any]:
    items = {"type": "array", "items": schema_of(kind, schemas)}
    return {"type": "object", "required": [name], "properties": {name: items}}


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _operation(
    name: str, summary: str, schema: dict[str, Any], others: dict[str, Any] | None = None
) -> dict[str, Any]:
    failed = {"default": _response("The request failed", _ref("Errors"))}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": _response(summary, schema), **(others or {}), **failed},
    }
