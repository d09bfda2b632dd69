"""
The pages of the admin site. They work with plain forms, which are sent with ``POST`` and answered with a
redirect to the page that shows the outcome.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from klein import Klein
from twisted.logger import Logger
from twisted.web.http import Request

from contentcache.core.errors import CacheError
from contentcache.gateway.admin.answers import client_address, set_headers_of, timestamp
from contentcache.gateway.admin.page_frame import PageFrame
from contentcache.gateway.admin.sessions import Session
from contentcache.gateway.authentication import Authenticator
from contentcache.gateway.cache_directory import CacheDirectory
from contentcache.gateway.credentials import make_basic
from contentcache.gateway.directory import Cache, parse_id
from contentcache.gateway.errors import InvalidContentCache, NotAuthenticated
from contentcache.gateway.liveness import CacheState

_PAGES: Final = ("/settings", "/caches", "/api")
_MISSING: Final = {
    "username": "type the user name of your account at the registry",
    "password": "type the password of this account",
}
_log = Logger()

Form = dict[str, str]
Body = Awaitable[bytes]


@frozen
class CacheRow:
    """A cache as the pages show it: ``word`` is the CSS class of its state."""

    cache: Cache
    word: str
    text: str
    since: str | None = None
    why: str | None = None
    users: int = 0


class Pages:
    """
    ``/api``, ``/settings``, ``/caches``, and signing in and out.

    A form that is wrong is shown again with what was typed and all that is wrong with it: ``faults``, by field.
    """

    def __init__(self, frame: PageFrame, authenticator: Authenticator, directory: CacheDirectory) -> None:
        self._frame = frame
        self._authenticator = authenticator
        self._directory = directory

    def add_routes(self, app: Klein) -> None:
        """Add a route for each page and each form."""
        pages: dict[str, Callable[..., Any]] = {
            "/api": lambda request: self._frame.page(request, "api"),
            "/settings": self._settings,
            "/settings/sign-in": self._sign_in_link,
            "/caches": self._caches,
            "/caches/<cache_id>/edit": self._edit,
            "/caches/<cache_id>/remove": self._confirm,
            "/api/assets/<name>": self._frame.asset,
        }
        forms: dict[str, Callable[..., Body]] = {
            "/settings/sign-in": self._sign_in,
            "/settings/sign-out": self._sign_out,
            "/settings": self._choose,
            "/caches": self._add,
            "/caches/<cache_id>/edit": self._change,
            "/caches/<cache_id>/test": self._test,
            "/caches/<cache_id>/remove": self._remove,
        }
        for path, show in pages.items():
            app.route(path, methods=["GET"], endpoint=f"show {path}")(self._with_error_page(show))
        for path, act in forms.items():
            app.route(path, methods=["POST"], endpoint=f"act {path}")(self._with_error_page(self._form(act)))

    def _with_error_page(self, show: Callable[..., Any]) -> Callable[..., Body]:
        async def answer(request: Request, **variables: str) -> bytes:
            try:
                result: Any = show(request, **variables)
                return result if isinstance(result, bytes) else await result
            except CacheError as error:
                set_headers_of(request, error)
                return self._frame.page(request, "trouble", error.status, fault=error.message)

        return answer

    def _form(self, act: Callable[..., Body]) -> Callable[..., Body]:
        async def answer(request: Request, **variables: str) -> bytes:
            return await act(request, self._frame.read_form(request), **variables)

        return answer

    async def _sign_in(self, request: Request, form: Form) -> bytes:
        page = _next_page(form.get("next", ""))
        username, password = form.get("username", "").strip(), form.get("password", "")
        again: dict[str, Any] = {"next": page, "form": {"username": username}}
        given = {"username": username, "password": password}
        missing = {name: text for name, text in _MISSING.items() if not given[name]}
        if missing:
            return self._frame.page(request, "sign-in", 400, **again, faults=missing)
        credentials = make_basic(username, password)
        try:
            authorization = None if credentials is None else credentials.authorization
            user = await self._authenticator.authenticate(authorization, client_address(request))
        except NotAuthenticated as error:
            set_headers_of(request, error)
            # 401 has to say how to authenticate, and the browser would ask in a window of its own.
            return self._frame.page(request, "sign-in", 403, **again, faults={"password": error.message})
        except CacheError as error:
            set_headers_of(request, error)
            return self._frame.page(request, "sign-in", error.status, **again, fault=error.message)
        self._frame.sign_in(request, self._frame.sessions.start(user, self._frame.monotonic()))
        _log.info("account signed in", account=user.name)
        return self._frame.redirect(request, page)

    async def _sign_out(self, request: Request, _form: Form) -> bytes:
        self._frame.sign_out(request)
        return self._frame.redirect(request, "/settings")

    async def _settings(self, request: Request) -> bytes:
        session = self._frame.session(request)
        if session is None:
            return self._sign_in_page(request)
        return await self._settings_page(request, session)

    async def _settings_page(
        self, request: Request, session: Session, status: int = 200, **values: Any
    ) -> bytes:
        return self._frame.page(
            request,
            "settings",
            status,
            lines=await self._rows(),
            choice=await self._directory.choice(session.user.name),
            default=await self._directory.default(client_address(request)),
            **values,
        )

    async def _choose(self, request: Request, form: Form) -> bytes:
        session = self._frame.session(request)
        if session is None:
            return self._frame.redirect(request, "/settings")
        wanted = form.get("cache", "")
        cache_id = parse_id(wanted)
        if (wanted and cache_id is None) or not await self._directory.choose(session.user.name, cache_id):
            faults = {"cache": "this cache has just been removed: choose another one"}
            return await self._settings_page(request, session, 404, faults=faults)
        cache = None if cache_id is None else await self._directory.cache(cache_id)
        words = "You pull from the registry now." if cache is None else f"You pull through {cache.name} now."
        session.notice = ("good", words)
        return self._frame.redirect(request, "/settings")

    async def _caches(self, request: Request) -> bytes:
        return self._refusal(request) or await self._caches_page(request)

    async def _caches_page(self, request: Request, status: int = 200, **values: Any) -> bytes:
        lines = await self._rows(await self._directory.users())
        return self._frame.page(request, "caches", status, lines=lines, **values)

    async def _add(self, request: Request, form: Form) -> bytes:
        session = self._administrator(request)
        if session is None:
            return self._frame.redirect(request, "/caches")
        name, host = form.get("name", "").strip(), form.get("host", "").strip()
        try:
            cache = await self._directory.add(name, host)
        except InvalidContentCache:
            faults = await self._directory.faults(name, host)
            return await self._caches_page(request, 400, form=form, faults=faults)
        _log.info("cache added", account=session.user.name, cache=cache.name, host=cache.host)
        _cache, state = await self._directory.check(cache.id)
        session.notice = _notice(cache, state, "is added")
        return self._frame.redirect(request, "/caches")

    async def _edit(self, request: Request, cache_id: str) -> bytes:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        cache = await self._directory.cache(parse_id(cache_id))
        return await self._edit_page(request, cache, form={"name": cache.name, "host": cache.host})

    async def _edit_page(self, request: Request, cache: Cache, status: int = 200, **values: Any) -> bytes:
        users = (await self._directory.users()).get(cache.id, 0)
        return self._frame.page(request, "edit", status, cache=cache, users=users, **values)

    async def _change(self, request: Request, form: Form, cache_id: str) -> bytes:
        session = self._administrator(request)
        if session is None:
            return self._frame.redirect(request, "/caches")
        before = await self._directory.cache(parse_id(cache_id))
        name, host = form.get("name", "").strip(), form.get("host", "").strip()
        try:
            cache = await self._directory.change(before.id, name, host)
        except InvalidContentCache:
            faults = await self._directory.faults(name, host, before.id)
            return await self._edit_page(request, before, 400, form=form, faults=faults)
        _log.info("cache changed", account=session.user.name, cache=cache.name, host=cache.host)
        _cache, state = await self._directory.check(cache.id)
        session.notice = _notice(cache, state, "is changed")
        return self._frame.redirect(request, "/caches")

    async def _test(self, request: Request, _form: Form, cache_id: str) -> bytes:
        session = self._administrator(request)
        if session is not None:
            session.notice = _notice(*await self._directory.check(parse_id(cache_id)), "was asked")
        return self._frame.redirect(request, "/caches")

    async def _confirm(self, request: Request, cache_id: str) -> bytes:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        cache = await self._directory.cache(parse_id(cache_id))
        users = (await self._directory.users()).get(cache.id, 0)
        return self._frame.page(request, "remove", cache=cache, users=users)

    async def _remove(self, request: Request, _form: Form, cache_id: str) -> bytes:
        session = self._administrator(request)
        if session is not None:
            await self._directory.remove(parse_id(cache_id))
            _log.info("cache removed", account=session.user.name, id=cache_id)
            session.notice = ("good", "The cache is removed.")
        return self._frame.redirect(request, "/caches")

    def _administrator(self, request: Request) -> Session | None:
        """The session of an administrator, else ``None``; the page then says why."""
        session = self._frame.session(request)
        return session if session is not None and session.user.is_admin else None

    def _refusal(self, request: Request) -> bytes | None:
        """The page that somebody gets who is no administrator."""
        session = self._frame.session(request)
        if session is None:
            return self._sign_in_page(request)
        if not session.user.is_admin:
            return self._frame.page(request, "trouble", 403, fault="Only administrators may see this page.")
        return None

    def _sign_in_link(self, request: Request) -> bytes:
        wanted = _next_page(request.args.get(b"next", [b""])[0].decode("latin-1"))
        if self._frame.session(request) is not None:
            return self._frame.redirect(request, wanted)
        return self._frame.page(request, "sign-in", next=wanted)

    def _sign_in_page(self, request: Request) -> bytes:
        return self._frame.page(request, "sign-in", next=_next_page(request.path.decode("latin-1")))

    async def _rows(self, users: Mapping[UUID, int] | None = None) -> list[CacheRow]:
        states, count = self._directory.states, users or {}
        return [
            _row(cache, states.get(cache.id), count.get(cache.id, 0))
            for cache in await self._directory.caches()
        ]


def _next_page(path: str) -> str:
    """The page to show after signing in: this one, or the one that it belongs to."""
    return next((page for page in _PAGES if path == page or path.startswith(page + "/")), _PAGES[0])


def _row(cache: Cache, state: CacheState | None, users: int) -> CacheRow:
    if state is None:
        return CacheRow(cache, "unknown", "not asked yet", users=users)
    since = timestamp(state.since)
    if state.alive:
        return CacheRow(cache, "alive", "alive", since, users=users)
    why = state.why or "it has to answer twice to be alive again"
    return CacheRow(cache, "dead", "dead", since, why, users)


def _notice(cache: Cache, state: CacheState, done: str) -> tuple[str, str]:
    if state.why is None:
        return "good", f"{cache.name} {done}, and it answers."
    return "bad", f"{cache.name} {done}, but it does not answer: {state.why}."
