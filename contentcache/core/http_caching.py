"""
HTTP caching: conditional requests (RFC 9110 §13) and freshness (RFC 9111 §4.2).

A content never changes: its digest is its strong ETag. A condition is evaluated only when the client may have
the content: a 304 is an answer, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

Outcome: TypeAlias = Literal["go on", "not modified", "failed"]

# Empty elements of a list are passed over (RFC 9110 §5.6.1.2).
_TAG = re.compile(r'[ \t,]*(?P<weak>W/)?"(?P<opaque>[^"\x00-\x20\x7f]*)"[ \t]*(?:,|\Z)', re.ASCII)


def etag(digest: str) -> str:
    """
    The ETag of a content.

    >>> etag("sha256:ab")
    '"sha256:ab"'
    """
    return f'"{digest}"'


def evaluate(digest: str, if_match: str | None, if_none_match: str | None) -> Outcome:
    """
    What becomes of a ``GET`` or ``HEAD`` (RFC 9110 §13.2.2); dates play no part, for there is no
    ``Last-Modified``.

    >>> evaluate("sha256:ab", None, 'W/"sha256:ab", "x"')
    'not modified'
    """
    if if_match is not None and not _names(if_match, digest, weak_counts=False):
        return "failed"
    if if_none_match is not None and _names(if_none_match, digest, weak_counts=True):
        return "not modified"
    return "go on"


def range_holds(digest: str, if_range: str | None) -> bool:
    """
    Whether ``Range`` is to be respected (RFC 9110 §13.1.5): only a strong match counts, and a date
    never does.

    >>> range_holds("sha256:ab", '"sha256:ab"'), range_holds("sha256:ab", 'W/"sha256:ab"')
    (True, False)
    """
    return if_range is None or if_range.strip(" \t") == etag(digest)


def _names(value: str, digest: str, *, weak_counts: bool) -> bool:
    # The registry's old clients send the bare digest.
    if value.strip(" \t") in {"*", digest}:
        return True
    return any(opaque == digest and (weak_counts or not weak) for weak, opaque in _tags(value))


def _tags(value: str) -> Iterator[tuple[bool, str]]:
    position = 0
    while (match := _TAG.match(value, position)) is not None and match.end() > position:
        yield match["weak"] is not None, match["opaque"]
        position = match.end()


_DIRECTIVE = re.compile(r"\s*+(?P<name>[A-Za-z-]++)\s*+(?:=\s*+\"?(?P<value>[^\",]*+)\"?)?\s*+")
_SECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
#: Where nothing is said of it.
DEFAULT_AGE: Final = 300.0
#: However much is said.
LONGEST_AGE: Final = 86400.0


def max_age(cache_control: str | None) -> float:
    """
    The lifetime that a server gives its answer, in seconds; none where it must not be kept.

    >>> max_age("public, max-age=60"), max_age("no-store"), max_age(None)
    (60.0, 0.0, 300.0)
    """
    found = DEFAULT_AGE
    for part in (cache_control or "").split(","):
        directive = _DIRECTIVE.fullmatch(part)
        if directive is None:
            continue
        name = directive["name"].lower()
        if name in {"no-store", "no-cache"}:
            return 0.0
        if name == "max-age":
            found = _seconds(directive["value"])
    return min(found, LONGEST_AGE)


def age(value: str | None) -> float:
    """
    How old an answer was when it was sent (``Age``, RFC 9111 §5.1), in seconds.

    >>> age("30"), age("soon"), age(None)
    (30.0, 0.0, 0.0)
    """
    return min(_seconds(value), LONGEST_AGE)


def _seconds(value: str | None) -> float:
    stripped = (value or "").strip()
    return float(stripped) if _SECONDS.fullmatch(stripped) else 0.0
