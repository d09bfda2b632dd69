"""
Bearer tokens that others verify (RFC 6750): what they claim, parsed leniently.

Nothing is granted on these claims alone: the origin that accepted the token has verified it.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any, Final

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
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
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
