"""What all pages have in common: the frame, what a browser may do on them, cookies, the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen
from jinja2 import Environment
from twisted.web.http import Request

from contentcache.core.ports import Clock
from contentcache.gateway.answers import send
from contentcache.gateway.pages.files import Asset
from contentcache.gateway.pages.forms import ForeignForm
from contentcache.gateway.sessions import Session, Sessions, same

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HTML: Final = "text/html; charset=utf-8"


@frozen
class Shell:
    """Renders pages. ``secure`` says that browsers come over TLS."""

    sessions: Sessions
    monotonic: Clock
    secure: bool
    templates: Environment = field(repr=False)
    assets: Mapping[str, Asset] = field(repr=False)

    def page(self, request: Request, name: str, status: int = 200, **values: Any) -> bytes:
        """One page: template ``name`` with ``values``, and what every page shows."""
        session = self.session(request)
        notice = None
        if session is not None and request.method == b"GET" and not _is_script(request):
            notice, session.notice = session.notice, None
        values = {"notice": notice, "fault": None, **values}
        template = self.templates.get_template(f"{name}.html")
        text = template.render(
            here=name, account=session and session.account, csrf=self._token(request, session), **values
        )
        return send(request, status, text.encode(), _HTML, Content_Security_Policy=POLICY)

    def asset(self, request: Request, name: str) -> bytes:
        """A file that pages refer to; 404 if there is none."""
        asset = self.assets.get(name)
        if asset is None:
            return self.page(request, "nothing", 404)
        is_known = request.setETag(asset.etag.encode()) is not None
        if is_known:
            return send(request, 304, Cache_Control="no-cache")
        return send(request, 200, asset.content, asset.kind, Cache_Control="no-cache")

    def go(self, request: Request, place: str) -> bytes:
        """After a form: get that page."""
        return send(request, 303, Location=place)

    def session(self, request: Request) -> Session | None:
        """Who is signed in here. Our script's looking again does not count as a click."""
        found = _cookie(request, self._name("session"))
        return self.sessions.find(found, self.monotonic(), touch=not _is_script(request))

    def sign_in(self, request: Request, session_id: str) -> None:
        """From now on the browser shows this id, and no older one is good."""
        self.sessions.end(_cookie(request, self._name("session")))
        self._set_cookie(request, "session", session_id)

    def sign_out(self, request: Request) -> None:
        """Forget the session, here and there."""
        self.sessions.end(_cookie(request, self._name("session")))
        self._set_cookie(request, "session", "", "; Max-Age=0")

    def check(self, request: Request, form: Mapping[str, str]) -> None:
        """:raises ForeignForm: the form lacks what its page had put into it."""
        session = self.session(request)
        noise = _cookie(request, self._name("form"))
        wanted = (
            session.csrf if session is not None else None if noise is None else self.sessions.sealed(noise)
        )
        if wanted is None or not same(form.get("csrf", ""), wanted):
            raise ForeignForm("this page was too old; load it again, and then once more please")

    def _token(self, request: Request, session: Session | None) -> str:
        if session is not None:
            return session.csrf
        name = self._name("form")
        noise = _cookie(request, name)
        if noise is None:
            noise = self.sessions.noise()
            self._set_cookie(request, "form", noise)
        return self.sessions.sealed(noise)

    def _name(self, name: str) -> str:
        # Browsers take a cookie with this prefix only over TLS, for this host alone and all its paths.
        return f"__Host-{name}" if self.secure else f"contentcache-{name}"

    def _set_cookie(self, request: Request, name: str, value: str, more: str = "") -> None:
        line = f"{self._name(name)}={value}; Path=/; HttpOnly; SameSite=Strict{more}"
        request.responseHeaders.addRawHeader("Set-Cookie", line + ("; Secure" if self.secure else ""))


def _is_script(request: Request) -> bool:
    return request.getHeader("Sec-Fetch-Dest") == "empty"


def _cookie(request: Request, name: str) -> str | None:
    found = request.getCookie(name.encode())
    return found.decode("latin-1") if found else None
