"""
Credentials: a client's ``Authorization`` as it came, a signed URL, or the cache's own account.

A credential is in memory while its client is attached to a download; whatever is cached for longer is under
:meth:`Credential.key`, a keyed hash.
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

    ``signed`` is the token of a signed URL, which has been verified: it allows its bearer one blob.
    ``locally_authorized`` says that a local authenticator has verified a token that allows just this request:
    that is a grant by itself, for the cache's own account, whose requests to the origin it shares.
    """

    authorization: str | None = field(default=None, repr=False)
    own: bool = False
    signed: str | None = field(default=None, repr=False)
    locally_authorized: bool = field(default=False, eq=False)

    @property
    def lasting(self) -> bool:
        """
        Whether the credential has no expiry: its grants count for longer while the origin is down. How long
        one of any other scheme than ``Basic`` is valid is not known here.
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
        # A tab is no space (RFC 9110 §11.4), but some registries accept it.
        return "".join((self.authorization or "").split(maxsplit=1)[:1]).lower()


ANONYMOUS: Final = Credential()
OWN: Final = Credential(own=True)
LOCALLY_AUTHORIZED: Final = Credential(own=True, locally_authorized=True)
