"""
The claims of a JWT (RFC 7519 §4) by their types. Whether they are true is not checked here.

A claim that is absent or ``null`` has the default, where the caller names one. The claims of a bearer token that
others verify (RFC 6750) are parsed leniently; nothing is granted on them alone: the origin that accepted the token
has verified it.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from attrs import frozen

from contentcache.core.base64url import lenient_base64url_decode


class InvalidClaimError(ValueError):
    """A claim is missing or of another type. The message is a predicate for the token that quotes nothing."""


@frozen
class AccessEntry:
    """An entry of ``access``, the claim of docker/distribution: ``actions`` on a resource of a type."""

    type: str
    name: str
    actions: Sequence[str]


def string(claims: Mapping[str, object], name: str, default: str | None = None) -> str:
    """
    A string.

    :raises InvalidClaimError: it is something else.

    >>> string({"iss": "a"}, "iss"), string({}, "sub", "")
    ('a', '')
    """
    value = claims.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise InvalidClaimError(f"has no string for {name!r}")
    return value


def numeric_date(claims: Mapping[str, object], name: str) -> float:
    """
    Seconds since the epoch, fractions allowed (NumericDate, RFC 7519 §2).

    :raises InvalidClaimError: it is something else.
    """
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise InvalidClaimError(f"has no time for {name!r}")
    return float(value)


def whole_seconds(claims: Mapping[str, object], name: str, default: int) -> int:
    """
    Seconds since the epoch, without fractions, as docker/distribution has them.

    :raises InvalidClaimError: it is something else.
    """
    value = claims.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidClaimError(f"has no whole number for {name!r}")
    return value


def audience(claims: Mapping[str, object], default: Sequence[str] | None = None) -> Sequence[str]:
    """
    ``aud``: one string or a list of them (RFC 7519 §4.1.3).

    :raises InvalidClaimError: it is something else.
    """
    value = claims.get("aud")
    return [value] if isinstance(value, str) else _strings(claims, "aud", default)


def access(claims: Mapping[str, object]) -> Sequence[AccessEntry]:
    """
    ``access``, every member of every entry present.

    :raises InvalidClaimError: it is something else.
    """
    return [
        AccessEntry(string(entry, "type"), string(entry, "name"), _strings(entry, "actions", None))
        for entry in _objects(claims, None)
    ]


def lenient_access(claims: Mapping[str, object]) -> Sequence[AccessEntry]:
    """
    ``access`` as docker/distribution reads it: what is absent is empty, ``class`` is a string and ignored.

    :raises InvalidClaimError: a member has another type.
    """
    found = []
    for entry in _objects(claims, []):
        string(entry, "class", "")
        actions = _strings(entry, "actions", [])
        found.append(AccessEntry(string(entry, "type", ""), string(entry, "name", ""), actions))
    return found


def _objects(claims: Mapping[str, object], default: Sequence[object] | None) -> list[Mapping[str, object]]:
    entries = _list(claims, "access", default)
    if not all(isinstance(entry, dict) for entry in entries):
        raise InvalidClaimError("has an entry in 'access' that is not a JSON object")
    return cast("list[Mapping[str, object]]", entries)


def _strings(claims: Mapping[str, object], name: str, default: Sequence[str] | None) -> Sequence[str]:
    values = _list(claims, name, default)
    if not all(isinstance(value, str) for value in values):
        raise InvalidClaimError(f"has something other than strings in {name!r}")
    return cast("Sequence[str]", values)


def _list(claims: Mapping[str, object], name: str, default: Sequence[object] | None) -> Sequence[object]:
    value = claims.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, list):
        raise InvalidClaimError(f"has no list for {name!r}")
    return value


_PARTS: Final = 3
_MAX_EXPIRY: Final = 1e12


def unverified_claims(token: str) -> Mapping[str, Any]:
    """
    The claims of a JWT (RFC 7519), however oddly it is written; empty where it is not a JWT.

    >>> unverified_claims("e30.eyJzdWIiOiAiYWxpY2UifQ==."), unverified_claims("e30.x.")
    ({'sub': 'alice'}, {})
    """
    parts = token.split(".")
    if len(parts) != _PARTS:
        return {}
    try:
        claims = json.loads(lenient_base64url_decode(parts[1]))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def unverified_expiry(authorization: str | None) -> float | None:
    """
    When the bearer token of an ``Authorization`` expires (``exp``, in seconds since the epoch).

    ``None`` for other schemes, and where the token has no ``exp`` that is a number.

    >>> unverified_expiry("Bearer e30.eyJleHAiOiAxLjV9.")
    1.5
    """
    # A tab is no space (RFC 9110 §11.4), but there are registries that accept it.
    scheme, *rest = (authorization or "").split(maxsplit=1)[:2] or [""]
    if scheme.lower() != "bearer":
        return None
    expiry = unverified_claims("".join(rest)).get("exp")
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        return None
    # NaN expires at once; what a float cannot hold is far enough away.
    return float(min(max(0.0, expiry), _MAX_EXPIRY))
