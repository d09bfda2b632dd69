"""
The original's API at the origin: which caches there are, and which of them an account pulls from.

It takes no cookie: who asks says so with each request, and no page of elsewhere can do it in their name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from klein import Klein
from twisted.logger import Logger
from twisted.web.http import Request

from contentcache.config.faults import suggestion
from contentcache.core.errors import CacheError
from contentcache.gateway import openapi
from contentcache.gateway.accounts import Account, Accounts
from contentcache.gateway.answers import JSON, check_acceptable, send, send_error, send_json
from contentcache.gateway.declarations import LARGEST_BODY, OPERATIONS, PREFIX, SCHEMAS, Operation, Who
from contentcache.gateway.directory import Cache, id_of
from contentcache.gateway.errors import (
    InvalidContentCache,
    InvalidUserSettings,
    NoSuchUser,
    NotAuthorized,
    TooLarge,
    UnsupportedMediaType,
)
from contentcache.gateway.roster import Roster
from contentcache.jose.strict_json import InvalidJSONError, parse_json

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
#: Names of accounts may hold a slash; it comes encoded, and is decoded before routes are looked at.
_CONVERTERS: Final = {"id": "<id>", "username": "<path:username>"}
_INVALID: Final = {"NewContentCache": InvalidContentCache, "NewUserSettings": InvalidUserSettings}
_log = Logger()

#: What does an operation: told who asks, the path's variables and the body, it gives status and value.
Act = Callable[[Account, Mapping[str, str], Mapping[str, Any]], Awaitable[tuple[int, object]]]


class Api:
    """Does what the table of declarations lists."""

    def __init__(self, accounts: Accounts, roster: Roster) -> None:
        self._accounts = accounts
        self._roster = roster
        self._document = json.dumps(openapi.document(), indent=1).encode() + b"\n"

    def add_routes(self, app: Klein) -> None:
        """One route for each declaration."""
        for operation in OPERATIONS:
            path = PREFIX + _VARIABLE.sub(lambda variable: _CONVERTERS[variable[1]], operation.path)
            app.route(path, methods=[operation.method], endpoint=operation.name)(self._route(operation))

    def _route(self, operation: Operation) -> Callable[..., Awaitable[bytes]]:
        async def answer(request: Request, **variables: str) -> bytes:
            try:
                return await self._answer(operation, request, variables)
            except CacheError as error:
                return send_error(request, error)

        return answer

    async def _answer(self, operation: Operation, request: Request, variables: Mapping[str, str]) -> bytes:
        if operation.who is Who.ANYBODY:
            check_acceptable(request)
            return send(request, 200, self._document, JSON)
        asking = await self._authorized(operation, request, variables)
        check_acceptable(request)
        body = {} if operation.body is None else _body(operation.body, request)
        act: Act = getattr(self, f"_{operation.name}")
        status, value = await act(asking, variables, body)
        return send(request, status) if value is None else send_json(request, status, value)

    async def _authorized(
        self, operation: Operation, request: Request, variables: Mapping[str, str]
    ) -> Account:
        address = getattr(request.getClientAddress(), "host", "")
        asking = await self._accounts.who(request.getHeader("Authorization"), address)
        is_own = operation.who is Who.OWNER and variables["username"] == asking.name
        if not (asking.is_admin or is_own or operation.who is Who.USER):
            raise NotAuthorized(f"only {operation.who.value[:-1].lower()} may do this")
        return asking

    async def _list_caches(self, *_: object) -> tuple[int, object]:
        return 200, [_shown(cache) for cache in await self._roster.caches()]

    async def _add_cache(
        self, asking: Account, _variables: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, object]:
        for name in ("name", "host"):
            if not isinstance(body.get(name), str):
                raise InvalidContentCache(f"{name} is missing, or no text", detail={"field": name})
        cache = await self._roster.add(body["name"], body["host"])
        _log.info("cache added", account=asking.name, cache=cache.name, host=cache.host)
        return 201, _shown(cache)

    async def _show_cache(
        self, _asking: Account, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        return 200, _shown(await self._roster.cache(id_of(variables["id"])))

    async def _show_health(
        self, _asking: Account, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        cache = await self._roster.cache(id_of(variables["id"]))
        state = self._roster.states.get(cache.id)
        if state is None:
            return 200, {"state": "unknown", "since": None, "checked": None, "reason": None}
        return 200, {
            "state": "healthy" if state.alive else "unhealthy",
            "since": _timestamp(state.since),
            "checked": _timestamp(state.asked),
            "reason": state.why,
        }

    async def _remove_cache(
        self, asking: Account, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        cache_id = id_of(variables["id"])
        await self._roster.remove(cache_id)
        _log.info("cache removed", account=asking.name, id=cache_id)
        return 204, None

    async def _show_settings(
        self, asking: Account, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        return 200, await self._settings(await self._known(asking, variables))

    async def _change_settings(
        self, asking: Account, variables: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, object]:
        account = await self._known(asking, variables)
        if "contentCacheUUID" in body:
            wanted = body["contentCacheUUID"]
            cache_id = id_of(wanted) if isinstance(wanted, str) else None
            if cache_id is None and wanted is not None and wanted != "":
                raise InvalidUserSettings("contentCacheUUID is no UUID", detail={"field": "contentCacheUUID"})
            if not await self._roster.choose(account, cache_id):
                raise InvalidUserSettings("no cache has this id", detail={"field": "contentCacheUUID"})
        return 200, await self._settings(account)

    async def _settings(self, account: str) -> Mapping[str, str]:
        choice = await self._roster.choice(account)
        return {"ContentCacheUUID": "" if choice is None else str(choice)}

    async def _known(self, asking: Account, variables: Mapping[str, str]) -> str:
        """The account of a path. Whoever asks exists; of others the gateway knows those who have been here."""
        name = variables["username"]
        if name != asking.name and not await self._roster.is_known(name):
            raise NoSuchUser("this account has never signed in here")
        return name


def _shown(cache: Cache) -> Mapping[str, str]:
    return {"id": str(cache.id), "name": cache.name, "host": cache.host}


def _timestamp(seconds: float) -> str:
    """
    A moment in seconds since the epoch (RFC 3339).

    >>> _timestamp(0.5)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _body(schema: str, request: Request) -> Mapping[str, Any]:
    """The body of a request: one JSON object with keys of ``schema``."""
    kind, _, parameter = (request.getHeader("Content-Type") or "").partition(";")
    charset = parameter.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != JSON or charset not in {"", "utf-8"}:
        raise UnsupportedMediaType(f"bodies are {JSON} here, in UTF-8")
    content: Any = request.content
    raw = content.read(LARGEST_BODY + 1)
    if len(raw) > LARGEST_BODY:
        raise TooLarge(f"a body has at most {LARGEST_BODY} bytes here")
    invalid = _INVALID[schema]
    try:
        value = parse_json(raw)
    except InvalidJSONError as error:
        detail = "" if error.detail is None else f": {error.detail}"
        raise invalid(f"the body {error}{detail}") from None
    if not isinstance(value, dict):
        raise invalid("the body is no JSON object")
    keys: Mapping[str, Any] = SCHEMAS[schema]["properties"]
    for key in value.keys() - keys.keys():
        raise invalid(f"there is no {key[:60]!r} here{suggestion(key, keys)}", detail={"field": key[:60]})
    return value
