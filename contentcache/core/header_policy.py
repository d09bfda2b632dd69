"""
Which headers of an origin's response are sent to a client.

:data:`RULES` is the one declaration: the allow-list works from it, and the table in ``docs/clients.rst`` is
compared with it. A header that no rule names is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from attrs import frozen

#: The value of a header, or its values where it has several lines: those stay apart, and in order.
HeaderValue: TypeAlias = str | tuple[str, ...]
Headers: TypeAlias = Mapping[str, HeaderValue]

NO_HEADERS: Final[Headers] = MappingProxyType({})

Fate: TypeAlias = Literal["passed", "rewritten", "dropped"]

#: Lines of one answer that pass, and characters in one of them: a client bounds the head that it reads.
MOST_LINES: Final = 64
LONGEST_LINE: Final = 8 << 10


@frozen
class HeaderRule:
    """
    What becomes of one header of the origin, or of a family of them (``RateLimit-*``).

    A ``notice`` is about the request itself (a deprecation, a rate limit): it also passes if only the request for
    authorization went upstream and the content is in the store.
    """

    name: str
    fate: Fate
    why: str
    notice: bool = False

    def covers(self, name: str) -> bool:
        """
        Whether the rule is about a header.

        >>> HeaderRule("RateLimit-*", "passed", "").covers("ratelimit-policy")
        True
        """
        lower, own = name.lower(), self.name.lower()
        return lower.startswith(own[:-1]) if own.endswith("*") else lower == own


RULES: Final = (
    HeaderRule(
        "WWW-Authenticate",
        "passed",
        "the origin's challenges, each line as it came; not where the cache uses an account of its own, or a "
        "signed URL was shown",
    ),
    HeaderRule(
        "Content-Type", "passed", "of manifests, lists and errors; a blob is application/octet-stream"
    ),
    HeaderRule("Docker-Content-Digest", "passed", "of a content: the digest that was verified"),
    HeaderRule("Warning", "passed", 'deprecations (distribution-spec 1.1, "Warnings")', notice=True),
    HeaderRule("RateLimit", "passed", "how much the origin still answers this client", notice=True),
    HeaderRule("RateLimit-*", "passed", "the same", notice=True),
    HeaderRule(
        "Docker-RateLimit-Source", "passed", "whom Docker Hub counts the request against", notice=True
    ),
    HeaderRule(
        "OCI-*", "passed", "what later specifications add: OCI-Filters-Applied, OCI-Subject", notice=True
    ),
    HeaderRule("Link", "rewritten", "made relative, so that the next page is asked of this cache"),
    HeaderRule("Retry-After", "rewritten", "of a 429 in seconds, at most ten minutes; of a 503 as it came"),
    HeaderRule("Content-Length", "rewritten", "the length that is known to be true, or none"),
    HeaderRule("ETag", "rewritten", "of a content: its digest"),
    HeaderRule("Cache-Control", "rewritten", "of a content: what is named by a digest never changes"),
    HeaderRule("Accept-Ranges", "rewritten", "of blobs: bytes, whether the origin answers ranges or not"),
    HeaderRule("Content-Range", "rewritten", "of a part: of the blob as it is stored here"),
    HeaderRule("Docker-Distribution-Api-Version", "rewritten", "registry/2.0 with every answer"),
    HeaderRule("X-Request-Id", "rewritten", "the id by which this cache has logged the request"),
    HeaderRule("X-Content-Type-Options", "rewritten", "nosniff with every answer"),
    HeaderRule("Date", "rewritten", "when this cache answered"),
    HeaderRule("Vary", "rewritten", "Accept, of a tag"),
    HeaderRule(
        "Content-Encoding", "dropped", "what an upstream compressed on its own account is decoded here"
    ),
    HeaderRule("Location", "dropped", "redirects are followed here"),
    HeaderRule("Set-Cookie", "dropped", "a cookie of the origin is not this host's"),
    HeaderRule("Alt-Svc", "dropped", "it names other servers than this one"),
    HeaderRule("Strict-Transport-Security", "dropped", "a promise about the origin's transport, not ours"),
    HeaderRule("Server", "dropped", "it names the origin's software"),
    HeaderRule("Connection", "dropped", "it is about one connection (RFC 9110 §7.6.1)"),
    HeaderRule("Transfer-Encoding", "dropped", "the same"),
)


@lru_cache(256)
def rule_for(name: str) -> HeaderRule | None:
    """
    The rule about a header, ``None`` where there is none and it is dropped.

    >>> rule_for("set-cookie").fate, rule_for("X-Powered-By")
    ('dropped', None)
    """
    return next((rule for rule in RULES if rule.covers(name)), None)


#: Those that come from the origin's response, rewritten or not; the others are made here.
_TAKEN: Final = frozenset({"Link", "Retry-After"}) | {rule.name for rule in RULES if rule.fate == "passed"}


def passed(raw: Iterable[tuple[bytes, Iterable[bytes]]], *, notices_only: bool = False) -> Headers:
    """
    What may reach a client of an answer's headers, ``raw`` by name. Bytes beyond ASCII are read as latin-1.

    >>> passed([(b"warning", [b"299 - a", b"299 - b"]), (b"set-cookie", [b"a=b"])])
    {'Warning': ('299 - a', '299 - b')}
    """
    found: dict[str, HeaderValue] = {}
    left = MOST_LINES
    for name, values in raw:
        spelt = name.decode("latin-1")
        rule = rule_for(spelt)
        if rule is None or rule.name not in _TAKEN or (notices_only and not rule.notice):
            continue
        lines = tuple(value.decode("latin-1") for value in values if len(value) <= LONGEST_LINE)[:left]
        left -= len(lines)
        if lines:
            found[_spelling(rule, spelt)] = lines[0] if len(lines) == 1 else lines
    return found


def notices_of(headers: Headers) -> Headers:
    """
    The notices among headers that may reach a client: they pass with a response from the store, too.

    >>> notices_of({"RateLimit": "9", "Content-Type": "text/html"})
    {'RateLimit': '9'}
    """
    rules = {name: rule_for(name) for name in headers}
    return {name: value for name, value in headers.items() if (rule := rules[name]) and rule.notice}


def _spelling(rule: HeaderRule, name: str) -> str:
    if not rule.name.endswith("*"):
        return rule.name
    family = rule.name[:-1]
    return family + name[len(family) :]


def first(headers: Headers, name: str) -> str | None:
    """
    The first value of a header.

    >>> first({"A": ("b", "c")}, "A"), first({}, "A")
    ('b', None)
    """
    value = headers.get(name)
    return value if isinstance(value, str) or value is None else value[0]


def lines_of(value: HeaderValue) -> tuple[str, ...]:
    """
    The values of a header, one for each line.

    >>> lines_of("a"), lines_of(("a", "b"))
    (('a',), ('a', 'b'))
    """
    return (value,) if isinstance(value, str) else tuple(value)
