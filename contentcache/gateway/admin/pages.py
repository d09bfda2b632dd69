"""
The pages of the admin site. They work with plain forms, which are sent with ``POST`` and answered with a
redirect to the page that shows the outcome.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

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
from contentcache.gateway.errors import InvalidContentCache, NoSuchContentCache, NotAuthenticated
from contentcache.gateway.liveness import CacheState

_PAGES: Final = ("/settings", "/caches")
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


class Pages:
    """``/api``, ``/settings``, ``/caches``, and signing in and out."""

    def __init__(self, frame: PageFrame, authenticator: Authenticator, directory: CacheDirectory) -> None:
        self._frame = frame
        self._authenticator = authenticator
        self._directory = directory

    def add_routes(self, app: Klein) -> None:
        """Add a route for each page and each form."""
        pages: dict[str, Callable[..., Any]] = {
            "/api": lambda request: self._frame.page(request, "api"),
            "/settings": self._settings,
            "/caches": self._caches,
            "/api/assets/<name>": self._frame.asset,
        }
        forms: dict[str, Callable[..., Body]] = {
            "/settings/sign-in": self._sign_in,
            "/settings/sign-out": self._sign_out,
            "/settings": self._choose,
            "/caches": self._add,
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
        page = form.get("next", "")
        page = page if page in _PAGES else _PAGES[0]
        username = form.get("username", "").strip()
        credentials = make_basic(username, form.get("password", ""))
        try:
            if credentials is None:
                raise NotAuthenticated("the registry does not accept this account, or not with this password")
            address = client_address(request)
            user = await self._authenticator.authenticate(credentials.authorization, address)
        except CacheError as error:
            set_headers_of(request, error)
            # 401 has to say how to authenticate, and the browser would ask in a window of its own.
            status = 403 if isinstance(error, NotAuthenticated) else error.status
            return self._frame.page(
                request, "sign-in", status, next=page, fault=error.message, username=username
            )
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
        return self._frame.page(
            request,
            "settings",
            lines=await self._rows(),
            choice=await self._directory.choice(session.user.name),
            default=await self._directory.default(client_address(request)),
        )

    async def _choose(self, request: Request, form: Form) -> bytes:
        session = self._frame.session(request)
        if session is None:
            return self._frame.redirect(request, "/settings")
        wanted = form.get("cache", "")
        cache = await self._directory.cache(parse_id(wanted)) if wanted else None
        if not await self._directory.choose(session.user.name, None if cache is None else cache.id):
            raise NoSuchContentCache("this cache has just been removed")
        words = "You pull from the registry now." if cache is None else f"You pull through {cache.name} now."
        session.notice = ("good", words)
        return self._frame.redirect(request, "/settings")

    async def _caches(self, request: Request) -> bytes:
        session = self._frame.session(request)
        if session is None:
            return self._sign_in_page(request)
        if not session.user.is_admin:
            return self._frame.page(request, "trouble", 403, fault="Only administrators may see this page.")
        return self._frame.page(request, "caches", lines=await self._rows(), form={})

    async def _add(self, request: Request, form: Form) -> bytes:
        session = self._administrator(request)
        if session is None:
            return self._frame.redirect(request, "/caches")
        try:
            cache = await self._directory.add(form.get("name", "").strip(), form.get("host", "").strip())
        except InvalidContentCache as error:
            lines = await self._rows()
            return self._frame.page(request, "caches", 400, lines=lines, form=form, fault=error.message)
        _log.info("cache added", account=session.user.name, cache=cache.name, host=cache.host)
        _cache, state = await self._directory.check(cache.id)
        session.notice = _notice(cache, state, "is added")
        return self._frame.redirect(request, "/caches")

    async def _test(self, request: Request, _form: Form, cache_id: str) -> bytes:
        session = self._administrator(request)
        if session is not None:
            session.notice = _notice(*await self._directory.check(parse_id(cache_id)), "was asked")
        return self._frame.redirect(request, "/caches")

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

    def _sign_in_page(self, request: Request) -> bytes:
        return self._frame.page(request, "sign-in", next=request.path.decode("latin-1"), username="")

    async def _rows(self) -> list[CacheRow]:
        states = self._directory.states
        return [_row(cache, states.get(cache.id)) for cache in await self._directory.caches()]


def _row(cache: Cache, state: CacheState | None) -> CacheRow:
    if state is None:
        return CacheRow(cache, "unknown", "not asked yet")
    since = timestamp(state.since)
    if state.alive:
        return CacheRow(cache, "alive", "alive", since)
    return CacheRow(cache, "dead", "dead", since, state.why or "it has to answer twice to be alive again")


def _notice(cache: Cache, state: CacheState, done: str) -> tuple[str, str]:
    if state.why is None:
        return "good", f"{cache.name} {done}, and it answers."
    return "bad", f"{cache.name} {done}, but it does not answer: {state.why}."
