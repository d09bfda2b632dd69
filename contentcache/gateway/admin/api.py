"""
The admin API, which is that of the original product: the caches, and which of them an account pulls from.

A request has its own credentials. Those of the API page may have its session instead, with the token of the page,
so that no page of another site can use the sessions of its visitors.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from klein import Klein
from twisted.logger import Logger
from twisted.web.http import Request

from contentcache.config.faults import suggestion
from contentcache.core.errors import CacheError
from contentcache.gateway.admin.answers import (
    JSON,
    check_acceptable,
    client_address,
    send,
    send_error,
    send_json,
    timestamp,
)
from contentcache.gateway.admin.openapi import (
    LARGEST_BODY,
    OPERATIONS,
    PREFIX,
    SCHEMAS,
    Operation,
    Permission,
    document,
)
from contentcache.gateway.authentication import Authenticator, User
from contentcache.gateway.cache_directory import CacheDirectory
from contentcache.gateway.directory import Cache, parse_id
from contentcache.gateway.errors import (
    BodyTooLarge,
    InvalidContentCache,
    InvalidUserSettings,
    NoSuchUser,
    NotAuthorized,
    UnsupportedMediaType,
)
from contentcache.jose.strict_json import InvalidJSONError, parse_json

#: Names of accounts may have a slash; it is sent encoded, and decoded before routes are matched.
_CONVERTERS: Final = {"id": "<id>", "username": "<path:username>"}
_INVALID: Final = {"NewContentCache": InvalidContentCache, "NewUserSettings": InvalidUserSettings}
_log = Logger()

#: An operation: called with the user, the path's variables and the body, it returns status and value.
Action = Callable[[User, Mapping[str, str], Mapping[str, Any]], Awaitable[tuple[int, object]]]


class Api:
    """The operations that the table lists."""

    def __init__(
        self,
        authenticator: Authenticator,
        directory: CacheDirectory,
        session_user: Callable[[Request], User | None],
    ) -> None:
        self._session_user = session_user
        self._authenticator = authenticator
        self._directory = directory
        self._document = json.dumps(document(), indent=1).encode() + b"\n"

    def add_routes(self, app: Klein) -> None:
        """Add a route for each operation."""
        for operation in OPERATIONS:
            path = PREFIX + operation.path.format_map(_CONVERTERS)
            app.route(path, methods=[operation.method], endpoint=operation.name)(self._route(operation))

    def _route(self, operation: Operation) -> Callable[..., Awaitable[bytes]]:
        async def answer(request: Request, **variables: str) -> bytes:
            try:
                return await self._answer(operation, request, variables)
            except CacheError as error:
                return send_error(request, error)

        return answer

    async def _answer(self, operation: Operation, request: Request, variables: Mapping[str, str]) -> bytes:
        if operation.permission is Permission.ANYBODY:
            check_acceptable(request)
            return send(request, 200, self._document, JSON)
        user = await self._authorize(operation, request, variables)
        check_acceptable(request)
        body = {} if operation.body is None else _body(operation.body, request)
        action: Action = getattr(self, f"_{operation.name}")
        status, value = await action(user, variables, body)
        return send(request, status) if value is None else send_json(request, status, value)

    async def _authorize(self, operation: Operation, request: Request, variables: Mapping[str, str]) -> User:
        authorization = request.getHeader("Authorization")
        user = self._session_user(request) if authorization is None else None
        if user is None:
            user = await self._authenticator.authenticate(authorization, client_address(request))
        is_own = operation.permission is Permission.OWNER and variables["username"] == user.name
        if not (user.is_admin or is_own or operation.permission is Permission.USER):
            raise NotAuthorized(f"only {operation.permission.value[:-1].lower()} may do this")
        return user

    async def _list_caches(self, *_: object) -> tuple[int, object]:
        return 200, [_cache_as_json(cache) for cache in await self._directory.caches()]

    async def _add_cache(
        self, user: User, _variables: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, object]:
        for name in ("name", "host"):
            if not isinstance(body.get(name), str):
                raise InvalidContentCache(f"{name} is missing, or no text", detail={"field": name})
        cache = await self._directory.add(body["name"], body["host"])
        _log.info("cache added", account=user.name, cache=cache.name, host=cache.host)
        return 201, _cache_as_json(cache)

    async def _show_cache(
        self, _user: User, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        return 200, _cache_as_json(await self._directory.cache(parse_id(variables["id"])))

    async def _show_health(
        self, _user: User, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        cache = await self._directory.cache(parse_id(variables["id"]))
        state = self._directory.states.get(cache.id)
        if state is None:
            return 200, {"state": "unknown", "since": None, "checked": None, "reason": None}
        return 200, {
            "state": "healthy" if state.alive else "unhealthy",
            "since": timestamp(state.since),
            "checked": timestamp(state.probed),
            "reason": state.why,
        }

    async def _remove_cache(
        self, user: User, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        cache_id = parse_id(variables["id"])
        await self._directory.remove(cache_id)
        _log.info("cache removed", account=user.name, id=cache_id)
        return 204, None

    async def _show_settings(
        self, user: User, variables: Mapping[str, str], _body: object
    ) -> tuple[int, object]:
        return 200, await self._settings(await self._account(user, variables))

    async def _change_settings(
        self, user: User, variables: Mapping[str, str], body: Mapping[str, Any]
    ) -> tuple[int, object]:
        account = await self._account(user, variables)
        if "contentCacheUUID" in body:
            wanted = body["contentCacheUUID"]
            cache_id = parse_id(wanted) if isinstance(wanted, str) else None
            if cache_id is None and wanted is not None and wanted != "":
                raise InvalidUserSettings("contentCacheUUID is no UUID", detail={"field": "contentCacheUUID"})
            if not await self._directory.choose(account, cache_id):
                raise InvalidUserSettings("no cache has this id", detail={"field": "contentCacheUUID"})
        return 200, await self._settings(account)

    async def _settings(self, account: str) -> Mapping[str, str]:
        choice = await self._directory.choice(account)
        return {"ContentCacheUUID": "" if choice is None else str(choice)}

    async def _account(self, user: User, variables: Mapping[str, str]) -> str:
        """The account of a path: the user's own, or one that the gateway has seen."""
        name = variables["username"]
        if name != user.name and not await self._directory.has_account(name):
            raise NoSuchUser("this account has never signed in here")
        return name


def _cache_as_json(cache: Cache) -> Mapping[str, str]:
    return {"id": str(cache.id), "name": cache.name, "host": cache.host}


def _body(schema: str, request: Request) -> Mapping[str, Any]:
    """Read the body of a request: one JSON object with keys of ``schema``."""
    kind, _, parameter = (request.getHeader("Content-Type") or "").partition(";")
    charset = parameter.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != JSON or charset not in {"", "utf-8"}:
        raise UnsupportedMediaType(f"bodies are {JSON} here, in UTF-8")
    content: Any = request.content
    raw = content.read(LARGEST_BODY + 1)
    if len(raw) > LARGEST_BODY:
        raise BodyTooLarge(f"a body has at most {LARGEST_BODY} bytes here")
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
