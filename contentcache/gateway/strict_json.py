"""
JSON as strictly as the RFC allows: what two readers could understand differently is refused.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

_DEEPEST: Final = 32
_LONGEST_NUMBER: Final = 64


class NotJson(ValueError):
    """
    A text is no JSON, or one that is in doubt; the sentence says why.
    """


def parse(raw: bytes) -> Any:
    """
    The value that a text of UTF-8 stands for (RFC 8259).

    >>> parse(b'{"a": [1, null]}')
    {'a': [1, None]}
    >>> parse(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    contentcache.gateway.strict_json.NotJson: the key 'a' is there twice

    :raises NotJson: it is none, holds a key twice, NaN, half a character, or is nested too deep.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise NotJson("the body is not UTF-8") from None
    if _depth(text) > _DEEPEST:
        raise NotJson(f"the body is nested deeper than {_DEEPEST} levels")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
        )
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise NotJson("the body holds half a surrogate pair") from None
    except NotJson:
        raise
    except ValueError as error:
        raise NotJson(f"the body is no JSON: {error}") from None
    return value


def _depth(text: str) -> int:
    """
    How deep the brackets go, those within texts counted too: a bound for the recursion of the parser.
    """
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotJson(f"the key {key[:60]!r} is there twice")
        found[key] = value
    return found


def _constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise NotJson("a number in the body is too long")
    return int(digits)
