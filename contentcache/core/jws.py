"""
A JWS in its compact form (RFC 7515 §7.1) that carries claims (RFC 7519), read without any leniency.

What could be read in two ways is refused: a second spelling of the same base64url, a member that stands
twice (RFC 8725 §2.4), numbers and nesting beyond any honest token. Whether the signature is good, and
whether the claims are, is not judged here.
"""

from __future__ import annotations

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Final, NoReturn, cast

from attrs import field, frozen

LONGEST_TOKEN: Final = 8 << 10
DEEPEST: Final = 32
LONGEST_NUMBER: Final = 64
LONGEST_KID: Final = 256

_PARTS: Final = 3
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


class JwsFaulty(ValueError):
    """
    Something is not in the form that the RFC gives it. The message is the end of a sentence about the thing
    ("is not base64url"), and repeats nothing of it.
    """


@frozen
class Jws:
    """
    A token's two objects, the bytes that are signed, and the signature: well-formed, and nothing more.
    """

    header: Mapping[str, object] = field(repr=False)
    claims: Mapping[str, object] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def read_jws(text: str) -> Jws:
    """
    Take a token apart.

    :raises JwsFaulty: anything but three parts of base64url, the first two of them JSON objects.
    """
    if len(text) > LONGEST_TOKEN:
        raise JwsFaulty(f"is longer than {LONGEST_TOKEN} characters")
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise JwsFaulty("is not made of three parts")
    header, claims, signature = (from_base64url(part) for part in parts)
    return Jws(
        header=_json_object(header, "header"),
        claims=_json_object(claims, "payload"),
        signed=text.rpartition(".")[0].encode("ascii"),
        signature=signature,
    )


def read_json(document: bytes) -> object:
    """
    A JSON text (RFC 8259) within the bounds of I-JSON (RFC 7493 §2): UTF-8 without a byte order mark, no
    member twice, no number that a float cannot hold, no half of a surrogate pair.

    :raises JwsFaulty: all others.
    """
    try:
        text = document.decode("utf-8")
        value: object = json.loads(
            _shallow(text),
            object_pairs_hook=_members,
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_constant,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except JwsFaulty:
        raise
    except (ValueError, RecursionError):
        # Not chained: the cause quotes what it could not read.
        raise JwsFaulty("is not JSON in UTF-8") from None
    return value


def from_base64url(text: str) -> bytes:
    """
    Decode base64url as a JWS has it (RFC 7515 §2): no padding, and only the one spelling of each value.

    :raises JwsFaulty: all others.

    >>> from_base64url("_w"), from_base64url("")
    (b'\\xff', b'')
    >>> from_base64url("_x")
    Traceback (most recent call last):
    ...
    contentcache.core.jws.JwsFaulty: is not base64url, or not in its shortest spelling
    """
    if _BASE64URL.fullmatch(text) and len(text) % 4 != 1:
        content = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if base64url(content) == text:
            return content
    raise JwsFaulty("is not base64url, or not in its shortest spelling")


def base64url(content: bytes) -> str:
    """
    Encode without padding.

    >>> base64url(b"\\xff")
    '_w'
    """
    return urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def is_kid(value: object) -> bool:
    """
    Whether a key may be called so: a short text that can be printed.

    >>> is_kid("2026-01"), is_kid(""), is_kid("a\\n"), is_kid(7)
    (True, False, False, False)
    """
    return isinstance(value, str) and 0 < len(value) <= LONGEST_KID and value.isprintable()


def _json_object(document: bytes, name: str) -> Mapping[str, object]:
    try:
        value = read_json(document)
    except JwsFaulty as faulty:
        raise JwsFaulty(f"has a {name} that {faulty}") from None
    if not isinstance(value, dict):
        raise JwsFaulty(f"has a {name} that is not a JSON object")
    return cast("dict[str, object]", value)


def _shallow(text: str) -> str:
    """
    ``text``, if its brackets do not go too deep: Python's own parser recurses.
    """
    if text.count("[") + text.count("{") > DEEPEST:
        depth = 0
        for character in _STRING.sub("", text):
            depth += (character in "[{") - (character in "]}")
            if depth > DEEPEST:
                raise JwsFaulty(f"is nested more than {DEEPEST} deep")
    return text


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JwsFaulty("has a member twice")
    return members


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise JwsFaulty("has a number beyond all bounds")
    return int(digits)


def _fraction(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JwsFaulty("has a number beyond all bounds")
    return number


def _constant(_name: str) -> NoReturn:
    raise JwsFaulty("has a number that is none")
