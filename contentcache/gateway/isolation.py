"""
Keep what the registry behind sends apart from the gateway's own web origin, where people are signed in.

Whoever may push can choose a media type, and with some registries a body too. A browser that opens such an
answer must not run it as one of our pages:

* answers of the registry's API get a policy that lets nothing run (``sandbox``, CSP 3 §6.3.2), are never
  sniffed, and have a type where the registry gave none;
* pages of the registry that the operator has listed under ``paths`` keep their own policy, and are not
  sniffed;
* no answer of the registry sets a cookie of ours, or a cookie that browsers store under another name than the
  one that is read here;
* promises about a whole host (``Strict-Transport-Security``, ``Clear-Site-Data`` and the like) end here: the
  host is the gateway's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from contentcache.gateway.question import Field

#: For answers in which nothing may run, our own in the registry's API included.
SANDBOX: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
}
OCTETS: Final = "application/octet-stream"

#: Of a registry: about a whole host, or able to act on what else the host serves.
_ABOUT_HOSTS: Final = frozenset(
    {"alt-svc", "strict-transport-security", "public-key-pins", "public-key-pins-report-only", "expect-ct"}
    | {"clear-site-data", "service-worker-allowed", "nel", "report-to", "reporting-endpoints"}
    | {"accept-ch", "critical-ch", "origin-agent-cluster", "set-login"}
)
#: What is said anew of answers of the API. ``Refresh`` is a redirect that no client of a registry follows.
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
    The fields of a registry's answer as browsers may see them; ``is_page`` for what the operator has listed.

    >>> html = [("Content-Type", "text/html"), ("Set-Cookie", "__Host-session=x")]
    >>> [name for name, value in isolated(html, method="GET", status=200)]
    ['Content-Type', 'X-Content-Type-Options', 'Content-Security-Policy']
    """
    ended = _ABOUT_HOSTS | (frozenset({"x-content-type-options"}) if is_page else _OF_API)
    kept = [
        (name, value)
        for name, value in fields
        if name.lower() not in ended and not (name.lower() == "set-cookie" and not _may_set(value))
    ]
    typed = any(name.lower() == "content-type" and value.strip() for name, value in kept)
    # An answer to HEAD has nothing to be sniffed, and clients take the type of a manifest from it.
    if not typed and method != "HEAD" and status not in _NO_BODY:
        kept = [field for field in kept if field[0].lower() != "content-type"] + [("Content-Type", OCTETS)]
    guards = {"X-Content-Type-Options": "nosniff"} if is_page else SANDBOX
    return [*kept, *guards.items()]


def foreign_cookies(fields: Iterable[Field]) -> Iterator[Field]:
    """A client's fields, and of cookies those that are not our own pages': whoever has them is signed in there."""
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

    One without a name is refused: browsers send ``=a=b`` back as ``a=b``, so that its value is a cookie of
    any name.

    >>> _may_set("sid=1; Path=/"), _may_set("contentcache-Session =1"), _may_set("=__Host-session=1")
    (True, False, False)
    """
    return _COOKIE.match(cookie) is not None and _OUR_COOKIE.match(cookie.partition(";")[0]) is None
