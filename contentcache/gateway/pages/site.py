"""
The pages themselves. All of them work with plain forms: each is sent with ``POST`` and answered with
a redirect to the page that shows what has become of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen
from klein import Klein
from twisted.logger import Logger
from twisted.web.http import Request

from contentcache.core.errors import CacheError
from contentcache.core.header_policy import lines_of
from contentcache.gateway.accounts import Accounts
from contentcache.gateway.credentials import make_basic
from contentcache.gateway.directory import Cache, id_of
from contentcache.gateway.errors import InvalidContentCache, NoSuchContentCache, NotAuthenticated
from contentcache.gateway.liveness import State
from contentcache.gateway.pages.forms import check_sender, fields
from contentcache.gateway.pages.shell import Shell
from contentcache.gateway.roster import Roster
from contentcache.gateway.sessions import Session

_PLACES: Final = ("/settings", "/caches")
_log = Logger()

Form = dict[str, str]
Reply = Awaitable[bytes]


@frozen
class Line:
    """A cache as the pages show it: ``word`` is its state."""

    cache: Cache
    word: str
    text: str
    since: str | None = None
    why: str | None = None


class Pages:
    """``/api``, ``/settings``, ``/caches``, and signing in and out."""

    def __init__(self, shell: Shell, accounts: Accounts, roster: Roster) -> None:
        self._shell = shell
        self._accounts = accounts
        self._roster = roster

    def add_routes(self, app: Klein) -> None:
        """One route for each page and each form."""
        pages: dict[str, Callable[..., Any]] = {
            "/api": lambda request: self._shell.page(request, "api"),
            "/settings": self._settings,
            "/caches": self._caches,
            "/api/assets/<name>": self._shell.asset,
        }
        forms: dict[str, Callable[..., Reply]] = {
            "/settings/sign-in": self._sign_in,
            "/settings/sign-out": self._sign_out,
            "/settings": self._choose,
            "/caches": self._add,
            "/caches/<cache_id>/test": self._test,
            "/caches/<cache_id>/remove": self._remove,
        }
        for path, show in pages.items():
            app.route(path, methods=["GET"], endpoint=f"show {path}")(self._guarded(show))
        for path, act in forms.items():
            app.route(path, methods=["POST"], endpoint=f"act {path}")(self._guarded(self._form(act)))

    def _guarded(self, show: Callable[..., Any]) -> Callable[..., Reply]:
        async def answer(request: Request, **variables: str) -> bytes:
            try:
                result: Any = show(request, **variables)
                return result if isinstance(result, bytes) else await result
            except CacheError as error:
                for name, value in error.headers.items():
                    request.responseHeaders.setRawHeaders(name, lines_of(value))
                return self._shell.page(request, "trouble", error.status, fault=error.message)

        return answer

    def _form(self, act: Callable[..., Reply]) -> Callable[..., Reply]:
        async def answer(request: Request, **variables: str) -> bytes:
            check_sender(request, secure=self._shell.secure)
            form = fields(request)
            self._shell.check(request, form)
            return await act(request, form, **variables)

        return answer

    async def _sign_in(self, request: Request, form: Form) -> bytes:
        place = form.get("next", "")
        place = place if place in _PLACES else _PLACES[0]
        username = form.get("username", "").strip()
        said = make_basic(username, form.get("password", ""))
        try:
            if said is None:
                raise NotAuthenticated("the registry does not accept this account, or not with this password")
            address = getattr(request.getClientAddress(), "host", "")
            account = await self._accounts.who(said.authorization, address)
        except CacheError as error:
            for name, value in error.headers.items():
                request.responseHeaders.setRawHeaders(name, lines_of(value))
            # 401 would have to say how to authenticate, and the browser would ask in a window of its own.
            status = 403 if isinstance(error, NotAuthenticated) else error.status
            return self._shell.page(
                request, "sign-in", status, next=place, fault=error.message, username=username
            )
        self._shell.sign_in(request, self._shell.sessions.begin(account, self._shell.monotonic()))
        _log.info("account signed in", account=account.name)
        return self._shell.go(request, place)

    async def _sign_out(self, request: Request, _form: Form) -> bytes:
        self._shell.sign_out(request)
        return self._shell.go(request, "/settings")

    async def _settings(self, request: Request) -> bytes:
        session = self._shell.session(request)
        if session is None:
            return self._ask_to_sign_in(request)
        address = getattr(request.getClientAddress(), "host", "")
        return self._shell.page(
            request,
            "settings",
            lines=await self._lines(),
            choice=await self._roster.choice(session.account.name),
            default=await self._roster.default(address),
        )

    async def _choose(self, request: Request, form: Form) -> bytes:
        session = self._shell.session(request)
        if session is None:
            return self._shell.go(request, "/settings")
        wanted = form.get("cache", "")
        cache = await self._roster.cache(id_of(wanted)) if wanted else None
        if not await self._roster.choose(session.account.name, None if cache is None else cache.id):
            raise NoSuchContentCache("this cache has just been removed")
        words = "You pull from the registry now." if cache is None else f"You pull through {cache.name} now."
        session.notice = ("good", words)
        return self._shell.go(request, "/settings")

    async def _caches(self, request: Request) -> bytes:
        session = self._shell.session(request)
        if session is None:
            return self._ask_to_sign_in(request)
        if not session.account.is_admin:
            return self._shell.page(request, "trouble", 403, fault="Only administrators may see this page.")
        return self._shell.page(request, "caches", lines=await self._lines(), form={})

    async def _add(self, request: Request, form: Form) -> bytes:
        session = self._administrator(request)
        if session is None:
            return self._shell.go(request, "/caches")
        try:
            cache = await self._roster.add(form.get("name", "").strip(), form.get("host", "").strip())
        except InvalidContentCache as error:
            lines = await self._lines()
            return self._shell.page(request, "caches", 400, lines=lines, form=form, fault=error.message)
        _log.info("cache added", account=session.account.name, cache=cache.name, host=cache.host)
        _cache, state = await self._roster.test(cache.id)
        session.notice = _told(cache, state, "is added")
        return self._shell.go(request, "/caches")

    async def _test(self, request: Request, _form: Form, cache_id: str) -> bytes:
        session = self._administrator(request)
        if session is not None:
            session.notice = _told(*await self._roster.test(id_of(cache_id)), "was asked")
        return self._shell.go(request, "/caches")

    async def _remove(self, request: Request, _form: Form, cache_id: str) -> bytes:
        session = self._administrator(request)
        if session is not None:
            await self._roster.remove(id_of(cache_id))
            _log.info("cache removed", account=session.account.name, id=cache_id)
            session.notice = ("good", "The cache is removed.")
        return self._shell.go(request, "/caches")

    def _administrator(self, request: Request) -> Session | None:
        """The session, if it may do what administrators do; the page says the rest."""
        session = self._shell.session(request)
        return session if session is not None and session.account.is_admin else None

    def _ask_to_sign_in(self, request: Request) -> bytes:
        place = request.path.decode("latin-1")
        return self._shell.page(request, "sign-in", next=place, username="")

    async def _lines(self) -> list[Line]:
        states = self._roster.states
        return [_line(cache, states.get(cache.id)) for cache in await self._roster.caches()]


def _line(cache: Cache, state: State | None) -> Line:
    if state is None:
        return Line(cache, "unknown", "not asked yet")
    since = datetime.fromtimestamp(state.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if state.alive:
        return Line(cache, "alive", "alive", since)
    return Line(cache, "dead", "dead", since, state.why or "it has to answer twice to be alive again")


def _told(cache: Cache, state: State, done: str) -> tuple[str, str]:
    if state.why is None:
        return "good", f"{cache.name} {done}, and it answers."
    return "bad", f"{cache.name} {done}, but it does not answer: {state.why}."
