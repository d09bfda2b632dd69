"""JSON without ambiguity: what two parsers could read differently is an error (RFC 8725 §2.4, RFC 7493)."""

from __future__ import annotations

import json
import math
import re
from typing import Final, NoReturn

MAX_DEPTH: Final = 32
MAX_DIGITS: Final = 64

_MAX_DETAIL: Final = 60
# An unterminated string reaches to the end of the text: no string is searched for within it (linear time).
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


class InvalidJSONError(ValueError):
    """
    A document is not JSON, or ambiguous. The message is a predicate for it ("is not UTF-8"), without quotes.

    ``detail`` says where or what, and may quote the document: not for logs where that can hold secrets.
    """

    def __init__(self, message: str, detail: str | None = None) -> None:
        super().__init__(message)
        self.detail = detail


def parse_json(document: bytes) -> object:
    """
    Parse a JSON text (RFC 8259) within I-JSON (RFC 7493 §2).

    :raises InvalidJSONError: invalid JSON, not UTF-8, a byte order mark, a duplicate member, a number that a
        float cannot hold, an unpaired surrogate, or deeper nesting than :data:`MAX_DEPTH`.

    >>> parse_json(b'{"a": [1, null]}')
    {'a': [1, None]}
    >>> parse_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    contentcache.jose.strict_json.InvalidJSONError: has a duplicate member
    """
    try:
        text = document.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJSONError("is not UTF-8") from None
    _check_depth(text)
    try:
        value: object = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except InvalidJSONError:
        raise
    except UnicodeEncodeError:
        raise InvalidJSONError("has an unpaired surrogate") from None
    except (ValueError, RecursionError) as error:
        # Not chained: the cause holds the document.
        raise InvalidJSONError("is not JSON", str(error)) from None
    return value


def _check_depth(text: str) -> None:
    """Bound the recursion of Python's parser; brackets within strings do not count."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for character in _STRING.sub("", text):
        depth += (character in "[{") - (character in "]}")
        if depth > MAX_DEPTH:
            raise InvalidJSONError(f"is nested more than {MAX_DEPTH} levels deep")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            raise InvalidJSONError("has a duplicate member", repr(name[:_MAX_DETAIL]))
        members[name] = value
    return members


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidJSONError(f"has a number of more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidJSONError("has a number that is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise InvalidJSONError("is not JSON", name)
