"""
Which header fields are forwarded, how those that name a host are rewritten, and what browsers may do with them.

Fields about one connection are removed (RFC 9110 §7.6.1); all others are forwarded unchanged, in both
directions. A ``Location`` or ``Link`` that names the registry behind becomes relative: that leads back to the
gateway, by whatever name the client knows it. A realm must be a whole URL, so it gets the gateway's own.

What the registry sends is isolated from the gateway's own web origin, where people are signed in. Whoever may
push can choose a media type, and with some registries a body too. A browser that opens such a response must not
run it as one of the gateway's pages:

* responses of the registry's API get a policy that lets nothing run (``sandbox``, CSP 3 §6.3.2), are never
  sniffed, and have a type where the registry gave none;
* pages of the registry that the operator has listed under ``paths`` keep their own policy, and are not
  sniffed;
* no response of the registry sets a cookie of the gateway, or a cookie that browsers store under another name
  than the one that is checked here;
* statements about a whole host (``Strict-Transport-Security``, ``Clear-Site-Data`` and the like) are removed:
  the host is the gateway's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen
from twisted.web.http_headers import Headers

from contentcache.core.errors import RequestMalformed
from contentcache.gateway.proxy_request import Field
from contentcache.server.public_name import Caller

#: About one connection only, or set by the gateway.
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization"}
    | {"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
#: Of a client: who asks whom is stated by the gateway, which also answers ``Expect``.
_OF_CLIENTS: Final = frozenset(
    {"host", "expect", "content-length", "forwarded", "via"}
    # Ids of requests are for the caches that the gateway redirects to.
    | {"x-request-id", "traceparent", "tracestate"}
    | {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip"}
    # Some servers use the path in these instead of the request's, or a proxy for their own requests.
    | {"x-original-url", "x-rewrite-url", "proxy"}
)
#: What ``Connection`` may not name: an intermediary that removes these changes who asks, or for what
#: (RFC 9110 §7.6.1: never a field that is meant for all recipients).
_NEVER_HOP_BY_HOP: Final = re.compile(
    r"authorization|host|cookie|via|forwarded|x-forwarded-.*|x-real-ip|origin|referer|expect|date"
    r"|user-agent|range|if-.*|accept.*|content-.*|cache-control|pragma|docker-.*|sec-.*|contentcache-.*",
    re.ASCII,
)
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

_ABSOLUTE = re.compile(r"(?:https?:)?//(?P<authority>[^/?#]*)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_LINK = re.compile(r"<(?P<url>[^<>]*)>")
_REALM = re.compile(r'(?P<before>\brealm[ \t]*=[ \t]*)(?P<quote>"?)(?P<url>https?://[^",\s]*)', re.IGNORECASE)
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

#: For responses in which nothing may run, the gateway's own in the registry's API included.
SANDBOX: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}
OCTETS: Final = "application/octet-stream"

#: Fields about a whole host, or with an effect on what else the host serves.
_HOST_WIDE: Final = frozenset(
    {"alt-svc", "strict-transport-security", "public-key-pins", "public-key-pins-report-only", "expect-ct"}
    | {"clear-site-data", "service-worker-allowed", "nel", "report-to", "reporting-endpoints"}
    | {"accept-ch", "critical-ch", "origin-agent-cluster", "set-login"}
)
#: What the gateway sets for responses of the API. ``Refresh`` is a redirect that no client of a registry follows.
_OF_API: Final = frozenset(
    {"content-security-policy", "content-security-policy-report-only", "x-content-type-options", "refresh"}
)
_NO_BODY: Final = frozenset({204, 304})
#: A cookie that every browser stores under the name that stands before its first ``=`` (RFC 6265 §4.1.1).
_COOKIE: Final = re.compile(r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=")
_OUR_COOKIE: Final = re.compile(
    r"[ \t]*(?:__Host-|contentcache-)(?:session|form)[ \t]*(?:=|$)", re.IGNORECASE
)


def check_fields(headers: Headers) -> None:
    """
    Refuse a head that cannot be forwarded, or would mean another request then.

    :raises RequestMalformed: a field's name is no token, its value has control characters (RFC 9110 §5.1,
        §5.5), or ``Connection`` names a field that is meant for the registry.
    """
    for name, values in headers.getAllRawHeaders():
        if _NAME.fullmatch(name) is None or any(_CONTROLS.search(value) for value in values):
            raise RequestMalformed("a header has a name or a value that HTTP does not allow")
    for value in headers.getRawHeaders(b"Connection") or ():
        for option in value.decode("latin-1").split(","):
            if _NEVER_HOP_BY_HOP.fullmatch(option.strip().lower()) is not None:
                raise RequestMalformed("Connection names a header that is not about the connection")


def end_to_end(fields: Iterable[Field]) -> list[Field]:
    """
    The fields that are not about one connection.

    >>> end_to_end([("Connection", "close, X-Mine"), ("X-Mine", "1"), ("Accept", "*/*")])
    [('Accept', '*/*')]
    """
    given = list(fields)
    named = {
        option.strip().lower()
        for name, value in given
        if name.lower() == "connection"
        for option in value.split(",")
    }
    ended = _HOP_BY_HOP | named
    return [(name, value) for name, value in given if not {name.lower(), _as_variable(name)} & ended]


def _as_variable(name: str) -> str:
    """
    A field's name in servers that know fields as variables (RFC 3875 §4.1.18): both spellings are one.

    >>> _as_variable("X_Forwarded-For")
    'x-forwarded-for'
    """
    return name.lower().replace("_", "-")


@frozen
class HeaderRewriter:
    """
    Rewrites header fields between two base URLs: ``registry`` behind, and ``public``, the gateway's own.

    ``prefix`` is where the API is mounted at the gateway, without a slash at the end.
    """

    registry: str
    public: str
    prefix: str = ""

    def to_registry(self, fields: Iterable[Field], caller: Caller, via: str) -> list[Field]:
        """
        Return a client's fields as the registry gets them, without those that frame the body.

        The registry is told by which name clients know it: docker-registry makes URLs of that. What the
        client itself, or a proxy that is not trusted, says of such things is removed.
        """
        hops = [address or "unknown" for address in (caller.address, *caller.proxies)]
        return [
            ("Host", _authority_of(self.registry)),
            *without_own_cookies(
                (name, value) for name, value in end_to_end(fields) if _as_variable(name) not in _OF_CLIENTS
            ),
            ("X-Forwarded-For", ", ".join(hops)),
            ("X-Forwarded-Host", caller.host or _authority_of(self.public)),
            ("X-Forwarded-Proto", caller.scheme),
            ("Via", via),
        ]

    def to_client(self, fields: Iterable[Field], host: str) -> list[Field]:
        """Return the registry's fields as a client gets them that has asked for ``host``."""
        given = list(fields)
        # A body in chunks has no other length, whatever is said beside them (RFC 9112 §6.1).
        in_chunks = any(name.lower() == "transfer-encoding" for name, _value in given)
        return [
            (name, self._rewritten(name.lower(), value, host))
            for name, value in end_to_end(given)
            if not (in_chunks and name.lower() == "content-length")
        ]

    @property
    def registry_authority(self) -> str:
        """The host of the registry, and its port where the URL has one."""
        return _authority_of(self.registry)

    def registry_path(self, url: str) -> str | None:
        """
        Return the path of a URL that names the registry behind, or its gateway; ``None`` for all others.

        >>> HeaderRewriter("http://r:5000", "https://g.example").registry_path("http://r:5000/token?x=1")
        '/token'
        """
        rest = self._after_host(url, "")
        return None if rest is None else urlsplit(rest).path or "/"

    def _rewritten(self, name: str, value: str, host: str) -> str:
        if name in {"location", "content-location"}:
            return self._relative(value, host)
        if name == "link":
            return _LINK.sub(lambda match: f"<{self._relative(match['url'], host)}>", value)
        if name == "www-authenticate":
            return _REALM.sub(self._realm, value)
        return value

    def _relative(self, url: str, host: str) -> str:
        rest = self._after_host(url, host)
        if rest is None:
            return url if not self.prefix or not url.startswith("/v2/") else self.prefix + url
        if rest[1:2] in {"/", "\\"}:
            return self.public + rest  # "//elsewhere" alone would lead there
        return (self.prefix if rest.startswith("/v2/") else "") + rest

    def _realm(self, match: re.Match[str]) -> str:
        rest = self._after_host(match["url"], "")
        url = match["url"] if rest is None else self.public + rest
        return match["before"] + match["quote"] + url

    def _after_host(self, url: str, host: str) -> str | None:
        """What follows the host in a URL of the registry."""
        match = _ABSOLUTE.fullmatch(url)
        if match is None:
            return None
        own = {_plain(_authority_of(base)) for base in (self.registry, self.public)} | {_plain(host)}
        if _plain(match["authority"]) not in own - {""}:
            return None
        rest = match["rest"]
        return rest if rest.startswith("/") else "/" + rest


def _authority_of(base: str) -> str:
    return base.partition("://")[2]


def _plain(authority: str) -> str:
    """A host without a port that some scheme has anyway."""
    authority = authority.lower()
    for port in _DEFAULT_PORTS.values():
        authority = authority.removesuffix(port)
    return authority


def isolated(fields: Iterable[Field], *, method: str, status: int, is_page: bool = False) -> list[Field]:
    """
    Return the fields of a registry's response that are safe for browsers; ``is_page``: it is a listed page.

    >>> html = [("Content-Type", "text/html"), ("Set-Cookie", "__Host-session=x")]
    >>> [name for name, value in isolated(html, method="GET", status=200)]
    ['Content-Type', 'X-Content-Type-Options', 'Content-Security-Policy']
    """
    removed = _HOST_WIDE | (frozenset({"x-content-type-options"}) if is_page else _OF_API)
    kept = [
        (name, value)
        for name, value in fields
        if name.lower() not in removed and not (name.lower() == "set-cookie" and not _may_set(value))
    ]
    typed = any(name.lower() == "content-type" and value.strip() for name, value in kept)
    # A response to HEAD has nothing to be sniffed, and clients take the type of a manifest from it.
    if not typed and method != "HEAD" and status not in _NO_BODY:
        kept = [field for field in kept if field[0].lower() != "content-type"] + [("Content-Type", OCTETS)]
    guards = {"X-Content-Type-Options": "nosniff"} if is_page else SANDBOX
    return [*kept, *guards.items()]


def without_own_cookies(fields: Iterable[Field]) -> Iterator[Field]:
    """Yield a client's fields without the cookies of the admin site, which are its sessions."""
    for name, value in fields:
        if name.lower() != "cookie":
            yield name, value
            continue
        kept = [each for each in value.split(";") if not _OUR_COOKIE.match(each)]
        if kept:
            yield name, ";".join(kept).strip()


def _may_set(cookie: str) -> bool:
    """
    Whether the registry may set this cookie.

    Not one without a name: browsers send ``=a=b`` back as ``a=b``, so that its value is a cookie of any name.

    >>> _may_set("sid=1; Path=/"), _may_set("contentcache-Session =1"), _may_set("=__Host-session=1")
    (True, False, False)
    """
    return _COOKIE.match(cookie) is not None and _OUR_COOKIE.match(cookie.partition(";")[0]) is None
