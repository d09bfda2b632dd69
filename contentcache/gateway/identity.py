"""
Whose request it is, by the credential that the registry has just accepted.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final

#: More is no name of anybody.
_LONGEST: Final = 255
_JWT_PARTS: Final = 3
#: Where registries' tokens name the account (RFC 7519 §4.1.2), and where others do.
_CLAIMS: Final = ("sub",)


def account_of(authorization: str | None) -> str | None:
    """
    The account that a value of ``Authorization`` names, ``None`` for the anonymous and whoever cannot be
    told.

    Nothing is verified: only to be asked of credentials that the registry has accepted.

    >>> account_of("Basic YW5uOnNlY3JldA==")
    'ann'
    >>> account_of(None) is None
    True
    """
    scheme, _, rest = (authorization or "").strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "basic":
        name: object = _user(rest)
    elif scheme.lower() == "bearer":
        name = _subject(rest)
    else:
        return None
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST or not name.isprintable():
        return None
    return name


def _user(encoded: str) -> str | None:
    try:
        user, colon, _ = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None
    return user if colon else None


def _subject(token: str) -> object:
    parts = token.split(".")
    if len(parts) != _JWT_PARTS:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    return next((claims[name] for name in _CLAIMS if claims.get(name)), None)
