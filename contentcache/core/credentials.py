"""
Credentials (a client's ``Authorization`` as it came, a signed URL, the cache's own account) and their subjects.

A credential is in memory while its client is attached to a download; whatever is cached for longer is under
:meth:`Credential.key`, a keyed hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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

    @property
    def has_password(self) -> bool:
        """
        Whether it is an account with its password, the cache's own or the client's.

        >>> Credential("Basic YTpi").has_password, Credential("Bearer x").has_password, Credential().has_password
        (True, False, False)
        """
        return self.own or self._scheme() == _BASIC

    def key(self, secret: bytes, *where: str) -> bytes:
        """
        A keyed hash of the credential at a place, for tables that must not hold credentials.

        :param secret: at most 64 bytes that nobody else knows.
        """
        who = "" if self.authorization is None else "=" + self.authorization
        token = () if self.signed is None else (self.signed,)
        return _keyed_hash(secret, (*where, str(self.own), who, *token))

    def _scheme(self) -> str:
        # A tab is no space (RFC 9110 §11.4), but some registries accept it.
        return "".join((self.authorization or "").split(maxsplit=1)[:1]).lower()


@frozen
class Subject:
    """
    Whom a decision is about: a credential at an origin, in one of its repositories (``None``: in none of them).

    ``key`` is a keyed hash of all three, ``identity`` of origin and credential alone: whatever outlives the
    request (grants, negative cache entries, rate limits, shared requests) is under one of them.
    """

    origin: str
    repository: str | None
    credential: Credential
    identity: bytes = field(repr=False)
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes, origin: str, repository: str | None, credential: Credential) -> Subject:
        """A subject with its keys; ``secret`` is at most 64 bytes that nobody else knows."""
        identity = credential.key(secret, origin)
        key = identity if repository is None else credential.key(secret, origin, repository)
        return cls(origin, repository, credential, identity, key)

    def derive(self, *parts: str) -> bytes:
        """A keyed hash of this subject and further parts."""
        return _keyed_hash(self.key, parts)


def _keyed_hash(key: bytes, parts: Iterable[str]) -> bytes:
    digest = hashlib.blake2b(key=key, digest_size=32)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()


ANONYMOUS: Final = Credential()
OWN: Final = Credential(own=True)
LOCALLY_AUTHORIZED: Final = Credential(own=True, locally_authorized=True)
