"""
The claims of a JWT (RFC 7519 §4) by their types. Whether they are true is not judged here.

A claim that is absent or ``null`` has the default, where the caller names one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from attrs import frozen


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
