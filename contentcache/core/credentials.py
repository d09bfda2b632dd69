"""
Who asks: a client's ``Authorization``, as it came, a signed URL, or the cache's own account.

A credential is kept in memory while its client is attached to a transfer; everything that is remembered
longer is kept under :meth:`Credential.key`, a keyed hash.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

_BEARER: Final = "bearer"
_JWT_PARTS: Final = 3
_FAR_AWAY: Final = 1e12


@frozen
class Credential:
    """
    One identity. ``authorization`` is the header's value, ``None`` for the anonymous; for the cache's own
    account (``own``) it is ``None`` too, because the account is added where the request leaves.

    ``signed`` is the token of a signed URL, which has been verified here: it says by itself that its bearer
    may have one blob. ``vouched`` says that the client has been judged here, by a token that allows just
    this: that is a grant by itself, in the name of the cache's own account, whose questions it shares.
    """

    authorization: str | None = field(default=None, repr=False)
    own: bool = False
    signed: str | None = field(default=None, repr=False)
    vouched: bool = field(default=False, eq=False)

    @property
    def lasting(self) -> bool:
        """
        Whether the identity outlives a token: such a one may be served for longer while the origin is away.
        """
        return self.signed is None and (self.authorization is None or self._scheme() != _BEARER)

    def key(self, secret: bytes, *where: str) -> bytes:
        """
        A keyed hash of the credential at a place, for tables that must not hold credentials.

        :param secret: at most 64 bytes that nobody else knows.
        """
        digest = hashlib.blake2b(key=secret, digest_size=32)
        who = "" if self.authorization is None else "=" + self.authorization
        token = () if self.signed is None else (self.signed,)
        for part in (*where, str(self.own), who, *token):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big"))
            digest.update(encoded)
        return digest.digest()

    def expires(self) -> float | None:
        """
        When a bearer token ends by its own account (``exp``, RFC 7519 §4.1.4; seconds since the epoch).

        The signature is not looked at: the origin does that. ``None`` where the token does not say.
        """
        if self.authorization is None or self._scheme() != _BEARER:
            return None
        moment = said_by("".join(self.authorization.split(maxsplit=1)[1:])).get("exp")
        if isinstance(moment, bool) or not isinstance(moment, int | float):
            return None
        # Not a number ends at once; what is farther away than a float can tell is far enough.
        return float(min(max(0.0, moment), _FAR_AWAY))

    def _scheme(self) -> str:
        # A tab is no space (RFC 9110 §11.4), but there are registries that do not mind.
        return "".join((self.authorization or "").split(maxsplit=1)[:1]).lower()


def said_by(token: str) -> Mapping[str, Any]:
    """
    What a JWT says (RFC 7519), whoever has written it and however oddly; nothing if it is none.
    """
    parts = token.split(".")
    if len(parts) != _JWT_PARTS:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


ANONYMOUS: Final = Credential()
OWN: Final = Credential(own=True)
VOUCHED: Final = Credential(own=True, vouched=True)
