"""
Who asks: a client's ``Authorization``, as it came, a signed URL, or the cache's own account.

A credential is kept in memory while its client is attached to a transfer; everything that is remembered
longer is kept under :meth:`Credential.key`, a keyed hash.
"""

from __future__ import annotations

import hashlib
from typing import Final

from attrs import field, frozen

_BASIC: Final = "basic"


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
        Of any other scheme than ``Basic`` nobody here knows for how long it is good.
        """
        return self.signed is None and (self.authorization is None or self._scheme() == _BASIC)

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

    def _scheme(self) -> str:
        # A tab is no space (RFC 9110 §11.4), but there are registries that do not mind.
        return "".join((self.authorization or "").split(maxsplit=1)[:1]).lower()


ANONYMOUS: Final = Credential()
OWN: Final = Credential(own=True)
VOUCHED: Final = Credential(own=True, vouched=True)
