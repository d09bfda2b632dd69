"""What all pages have in common: templates, assets, what a browser may do on them, forms, cookies, the session."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from attrs import field, frozen
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from twisted.web.http import Request

from contentcache.core.errors import CacheError
from contentcache.core.ports import Clock
from contentcache.gateway.admin.answers import send
from contentcache.gateway.admin.openapi import LARGEST_BODY
from contentcache.gateway.admin.sessions import Session, Sessions, equal_in_constant_time
from contentcache.gateway.authentication import User
from contentcache.gateway.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
#: In requests of the API page: the token of its session. Pages of other sites cannot send such a header.
SCRIPT_HEADER: Final = "X-CSRF-Token"
_HTML: Final = "text/html; charset=utf-8"
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 20
_HERE: Final = Path(__file__).parent
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SWAGGER: Final = ("swagger-ui.css", "swagger-ui-bundle.js")


class ForeignForm(CacheError):
    """A form was not sent by a page of this site, or its page is too old."""

    code = "NOT_AUTHORIZED"
    status = 403


@frozen
class Asset:
    """A file that pages refer to. ``etag`` follows its content."""

    content: bytes
    media_type: str
    etag: str


@frozen
class PageFrame:
    """Renders pages. ``secure`` says that browsers come over TLS."""

    sessions: Sessions
    monotonic: Clock
    secure: bool
    templates: Environment = field(repr=False)
    assets: Mapping[str, Asset] = field(repr=False)

    @classmethod
    def load(cls, sessions: Sessions, monotonic: Clock, *, secure: bool) -> PageFrame:
        """
        Read all files; blocks. Everything that is put into a template is escaped.

        :raises OSError: a file is missing: the program is not installed completely.
        """
        templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        paths = [path for path in (_HERE / "static").iterdir() if path.suffix in _MEDIA_TYPES]
        paths += [_swagger_folder() / name for name in _SWAGGER]
        assets = {path.name: _read_asset(path) for path in paths}
        return cls(sessions, monotonic, secure, templates, assets)

    def page(self, request: Request, name: str, status: int = 200, **values: Any) -> bytes:
        """Send the page of template ``name`` with ``values``, and what every page shows."""
        session = self.session(request)
        notice = None
        if session is not None and request.method == b"GET" and not _is_script(request):
            notice, session.notice = session.notice, None
        values = {"notice": notice, "fault": None, "faults": {}, "form": {}, **values}
        template = self.templates.get_template(f"{name}.html")
        text = template.render(
            here=name, account=session and session.user, csrf=self._csrf(request, session), **values
        )
        return send(request, status, text.encode(), _HTML, Content_Security_Policy=POLICY)

    def asset(self, request: Request, name: str) -> bytes:
        """Send a file that pages refer to; 404 if there is none."""
        asset = self.assets.get(name)
        if asset is None:
            return self.page(request, "nothing", 404)
        is_cached = request.setETag(asset.etag.encode()) is not None
        if is_cached:
            return send(request, 304, Cache_Control="no-cache")
        return send(request, 200, asset.content, asset.media_type, Cache_Control="no-cache")

    def redirect(self, request: Request, path: str) -> bytes:
        """Redirect to a page, after a form."""
        return send(request, 303, Location=path)

    # The session.

    def session(self, request: Request) -> Session | None:
        """Return the session of a request. Requests of the pages' own script do not prolong it."""
        session_id = _cookie(request, self._cookie_name("session"))
        return self.sessions.find(session_id, self.monotonic(), touch=not _is_script(request))

    def script_user(self, request: Request) -> User | None:
        """The user in whose session a script of this site's pages sends a request; it knows the page's token."""
        token = request.getHeader(SCRIPT_HEADER)
        session = self.sessions.find(_cookie(request, self._cookie_name("session")), self.monotonic())
        if token is None or session is None or not equal_in_constant_time(token, session.csrf):
            return None
        return session.user if request.getHeader("Sec-Fetch-Site") in {None, "same-origin"} else None

    def sign_in(self, request: Request, session_id: str) -> None:
        """Set the cookie of a session, and end the one that the browser had before."""
        self.sessions.end(_cookie(request, self._cookie_name("session")))
        self._set_cookie(request, "session", session_id)

    def sign_out(self, request: Request) -> None:
        """End the session, and delete its cookie."""
        self.sessions.end(_cookie(request, self._cookie_name("session")))
        self._set_cookie(request, "session", "", "; Max-Age=0")

    # Forms.

    def read_form(self, request: Request) -> dict[str, str]:
        """
        Return the fields of a form that a page of this site has sent.

        :raises ForeignForm: it comes from elsewhere, or lacks the token of its page.
        """
        check_sender(request, secure=self.secure)
        form = form_fields(request)
        session = self.session(request)
        noise = _cookie(request, self._cookie_name("form"))
        if session is not None:
            expected: str | None = session.csrf
        else:
            expected = None if noise is None else self.sessions.form_token(noise)
        if expected is None or not equal_in_constant_time(form.get("csrf", ""), expected):
            raise ForeignForm("this page was too old; load it again, and then once more please")
        return form

    def _csrf(self, request: Request, session: Session | None) -> str:
        if session is not None:
            return session.csrf
        noise = _cookie(request, self._cookie_name("form"))
        if noise is None:
            noise = self.sessions.noise()
            self._set_cookie(request, "form", noise)
        return self.sessions.form_token(noise)

    def _cookie_name(self, name: str) -> str:
        # Browsers accept a cookie with this prefix only over TLS, for this host alone and all its paths.
        return f"__Host-{name}" if self.secure else f"contentcache-{name}"

    def _set_cookie(self, request: Request, name: str, value: str, more: str = "") -> None:
        line = f"{self._cookie_name(name)}={value}; Path=/; HttpOnly; SameSite=Strict{more}"
        request.responseHeaders.addRawHeader("Set-Cookie", line + ("; Secure" if self.secure else ""))


def form_fields(request: Request) -> dict[str, str]:
    """Return the fields of a form; of a field that is there twice the first one counts."""
    if (request.getHeader("Content-Type") or "").partition(";")[0].strip().lower() != _FORM:
        raise UnsupportedMediaType(f"forms come as {_FORM}")
    content: Any = request.content
    raw = content.read(LARGEST_BODY + 1)
    if len(raw) > LARGEST_BODY:
        raise BodyTooLarge(f"a form has at most {LARGEST_BODY} bytes here")
    try:
        pairs = parse_qsl(
            raw.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise InvalidRequest("this is not what a form looks like") from None
    return dict(reversed(pairs))


def check_sender(request: Request, *, secure: bool) -> None:
    """
    Check which page sends a form: browsers say it, and a page cannot change what they say.

    ``Origin`` must be the gateway's own host; browsers that do not send it must say
    ``Sec-Fetch-Site: same-origin``.

    :raises ForeignForm: it is another one, or nothing is said.
    """
    site = request.getHeader("Sec-Fetch-Site")
    origin = request.getHeader("Origin")
    if site not in {None, "same-origin"} or (origin is None and site is None):
        raise ForeignForm("this form was sent from another page")
    if origin is not None and not _is_own(origin, request.getHeader("Host") or "", secure=secure):
        raise ForeignForm("this form was sent from another site")


def _is_own(origin: str, host: str, *, secure: bool) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return bool(host) and parts.netloc.lower() == host.lower() and (parts.scheme == "https" or not secure)


def _is_script(request: Request) -> bool:
    return request.getHeader("Sec-Fetch-Dest") == "empty"


def _cookie(request: Request, name: str) -> str | None:
    value = request.getCookie(name.encode())
    return value.decode("latin-1") if value else None


def _read_asset(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _swagger_folder() -> Path:
    """Return where the package has its files. It is not imported, since only they are needed."""
    found = find_spec("swagger_ui")
    places = None if found is None else found.submodule_search_locations
    if not places:
        raise FileNotFoundError("swagger-ui-py is not installed")
    return Path(places[0]) / "static"
