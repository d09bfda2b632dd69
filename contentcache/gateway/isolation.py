"""
Isolates what the registry behind sends from the gateway's own web origin, where people are signed in.

Whoever may push can choose a media type, and with some registries a body too. A browser that opens such a
response must not run it as one of the gateway's pages:

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

from contentcache.gateway.proxy_request import Field

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
    """Yield a client's fields without the admin site's cookies, which sign whoever has them in."""
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
