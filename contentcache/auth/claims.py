"""
A registry token taken apart (distribution's "Token Authentication Implementation"), and what it claims.

The registry reads the claims into fixed types, and a token with one of a wrong type is malformed altogether;
what is absent or ``null`` is empty. So it is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from attrs import field, frozen

from contentcache.auth.interfaces import LONGEST_AUTHORIZATION
from contentcache.core.jws import JwsFaulty, from_base64url, read_json

_PARTS: Final = 3
#: Payloads in another form, and tokens in tokens (RFC 7515 §4.1.11, RFC 7516, RFC 7519 §5.2, RFC 7797).
_UNWELCOME: Final = frozenset({"b64", "crit", "cty", "enc", "zip"})


class TokenRefused(ValueError):
    """
    A token is not good. The message is the end of a sentence about it, and repeats nothing of it.
    """


@frozen
class Presented:
    """
    A token that is well-formed, and nothing more.
    """

    algorithm: str
    header: Mapping[str, object] = field(repr=False)
    payload: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@frozen
class Claims:
    """
    What a token says, as the registry understands it. Times are seconds since the epoch.

    ``access`` has each (type, name, action) that is allowed; ``class`` does not matter here.
    """

    issuer: str
    subject: str
    audience: frozenset[str]
    expires: int
    not_before: int
    access: frozenset[tuple[str, str, str]]


def take_apart(text: str) -> Presented:
    """
    Read the compact form of a token (RFC 7515 §7.1).

    :raises TokenRefused: it is something else.
    """
    if len(text) > LONGEST_AUTHORIZATION:
        raise TokenRefused(f"is longer than {LONGEST_AUTHORIZATION} characters")
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise TokenRefused("is not made of three parts")
    try:
        header, payload, signature = (from_base64url(part) for part in parts)
        members = read_json(header)
    except JwsFaulty as faulty:
        raise TokenRefused(f"has a part that {faulty}") from None
    if not isinstance(members, dict):
        raise TokenRefused("has a header that is not a JSON object")
    if unwelcome := sorted(_UNWELCOME & members.keys()):
        raise TokenRefused(f"has the member {unwelcome[0]!r} in its header")
    algorithm = members.get("alg")
    if not isinstance(algorithm, str):
        raise TokenRefused("does not name its algorithm")
    signed = text.rpartition(".")[0].encode("ascii")
    return Presented(algorithm, cast("dict[str, object]", members), payload, signed, signature)


def read_claims(payload: bytes) -> Claims:
    """
    Read the claims of a token whose signature is good.

    :raises TokenRefused: one of them is malformed.
    """
    try:
        claims = read_json(payload)
    except JwsFaulty as faulty:
        raise TokenRefused(f"has a payload that {faulty}") from None
    if not isinstance(claims, dict):
        raise TokenRefused("has a payload that is not a JSON object")
    _whole(claims, "iat")
    _text(claims, "jti")
    return Claims(
        issuer=_text(claims, "iss"),
        subject=_text(claims, "sub"),
        audience=_audience(claims.get("aud")),
        expires=_whole(claims, "exp"),
        not_before=_whole(claims, "nbf"),
        access=frozenset(
            access for entry in _list(claims.get("access"), "access") for access in _allowed(entry)
        ),
    )


def _allowed(entry: object) -> list[tuple[str, str, str]]:
    if not isinstance(entry, dict):
        raise TokenRefused("has an entry of 'access' that is not a JSON object")
    _text(entry, "class")
    kind, name = _text(entry, "type"), _text(entry, "name")
    return [(kind, name, action) for action in _texts(entry.get("actions"), "actions")]


def _audience(value: object) -> frozenset[str]:
    return frozenset([value] if isinstance(value, str) else _texts(value, "aud"))


def _texts(value: object, name: str) -> list[str]:
    texts = _list(value, name)
    if not all(isinstance(text, str) for text in texts):
        raise TokenRefused(f"has a {name!r} with something else than texts in it")
    return cast("list[str]", texts)


def _list(value: object, name: str) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise TokenRefused(f"has a {name!r} that is not a list")
    return value


def _text(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TokenRefused(f"has a {name!r} that is not a text")
    return value


def _whole(members: Mapping[str, object], name: str) -> int:
    value = members.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise TokenRefused(f"has a {name!r} that is not a whole number")
    return value
