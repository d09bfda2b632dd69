"""
What the token of a signed URL says: the header's part, and claims of the right types. Nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast, get_args

from attrs import frozen

from contentcache.core.jwks import Algorithm
from contentcache.core.jws import JwsFaulty, is_kid

_ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
#: Members of a header that change what is signed, or lead to another key
#: (RFC 7515 §4.1, RFC 7516 §4.1, RFC 7797 §3).
_UNWELCOME: Final = frozenset(
    {"b64", "crit", "cty", "enc", "jku", "jwk", "x5c", "x5t", "x5t#S256", "x5u", "zip"}
)


@frozen
class Access:
    """
    What may be done, as the registry's own tokens say it: ``actions`` on a thing of a kind.
    """

    kind: str
    name: str
    actions: Sequence[str]


@frozen
class Claims:
    """
    A token's claims (RFC 7519 §4.1), each of its type. Times are seconds since the epoch.
    """

    issuer: str
    subject: str
    audience: Sequence[str]
    issued: float
    begins: float
    expires: float
    digest: str
    access: Sequence[Access]


def key_of(header: Mapping[str, object]) -> tuple[str, Algorithm]:
    """
    The key's name and the algorithm that a header gives.

    :raises JwsFaulty: they are not there, or the header leads elsewhere.
    """
    for algorithm in _ALGORITHMS:
        if header.get("alg") == algorithm:
            break
    else:
        raise JwsFaulty(f"is not signed with one of {', '.join(_ALGORITHMS)} ('alg')")
    kid = header.get("kid")
    if not isinstance(kid, str) or not is_kid(kid):
        raise JwsFaulty("does not name its key ('kid')")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper() != "JWT":
        raise JwsFaulty("is not a JWT ('typ')")
    if unwelcome := sorted(_UNWELCOME & header.keys()):
        raise JwsFaulty(f"has a header with {unwelcome[0]!r}, which is not taken here")
    return kid, algorithm


def claims_of(claims: Mapping[str, object]) -> Claims:
    """
    All the claims that a signed URL needs; others are let be (RFC 7519 §4).

    :raises JwsFaulty: one is missing, or not of its type.
    """
    return Claims(
        issuer=_text(claims, "iss"),
        subject=_text(claims, "sub"),
        audience=_audience(claims.get("aud")),
        issued=_time(claims, "iat"),
        begins=_time(claims, "nbf"),
        expires=_time(claims, "exp"),
        digest=_text(claims, "digest"),
        access=_access(claims.get("access")),
    )


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise JwsFaulty(f"has no text for {name!r}")
    return value


def _time(claims: Mapping[str, object], name: str) -> float:
    """
    A NumericDate (RFC 7519 §2): seconds since the epoch, fractions allowed.
    """
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise JwsFaulty(f"has no time for {name!r}")
    return float(value)


def _audience(value: object) -> Sequence[str]:
    """
    ``aud`` is one text or a list of them (RFC 7519 §4.1.3).
    """
    if isinstance(value, str):
        return [value]
    if (several := _texts(value)) is None:
        raise JwsFaulty("has no text or list of texts for 'aud'")
    return several


def _access(value: object) -> Sequence[Access]:
    if not isinstance(value, list):
        raise JwsFaulty("has no list for 'access'")
    return [_entry(entry) for entry in value]


def _entry(entry: object) -> Access:
    if isinstance(entry, dict):
        kind, name, actions = entry.get("type"), entry.get("name"), _texts(entry.get("actions"))
        if isinstance(kind, str) and isinstance(name, str) and actions is not None:
            return Access(kind, name, actions)
    raise JwsFaulty("has an entry in 'access' that is not a type, a name and a list of actions")


def _texts(value: object) -> Sequence[str] | None:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return cast("list[str]", value)
    return None
