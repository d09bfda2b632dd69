"""For how long a document that was fetched may be used without asking again (RFC 9111 §4.2)."""

from __future__ import annotations

import re
from typing import Final

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
