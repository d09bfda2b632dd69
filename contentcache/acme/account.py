"""The private key of the ACME account, and requests signed with it (RFC 8555 §6.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from contentcache.config.model import ExternalAccount
from contentcache.jose.jwk import public_members, thumbprint
from contentcache.jose.jws import base64url_decode, compact_json, flattened

Json = Mapping[str, object]


class AccountKeyError(ValueError):
    """A file holds no usable account key; the message says why."""


@frozen
class AccountKey:
    """An account's private key: P-256, or RSA for keys made by other ACME clients."""

    _key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        """Generate a P-256 key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, content: bytes) -> Self:
        """
        Load a key from PEM.

        :raises AccountKeyError: it is not a private key of a supported type.
        """
        try:
            key = load_pem_private_key(content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise AccountKeyError(
                "it holds no private key in PEM form, or a damaged or encrypted one"
            ) from None
        if isinstance(key, rsa.RSAPrivateKey) or (
            isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        ):
            return cls(key)
        raise AccountKeyError("its key is of a kind that is not supported; P-256 and RSA are")

    def pem(self) -> bytes:
        """The key as PKCS #8 in PEM."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def jwk(self) -> dict[str, str]:
        """The public key as JWK (RFC 7517)."""
        return public_members(self._key.public_key())

    def thumbprint(self, hash_function: object = None) -> bytes:  # noqa: ARG002  # txacme names SHA-256
        """The bytes of the JWK thumbprint, a part of key authorizations (RFC 8555 §8.1)."""
        return base64url_decode(thumbprint(self._key.public_key()))

    def sign(self, url: str, payload: Json | None, nonce: str, kid: str | None) -> bytes:
        """
        The signed body of a request to ``url``.

        Without ``payload`` it is a *POST-as-GET* (RFC 8555 §6.3). The header names the account's URL ``kid``,
        or else holds the public key.
        """
        header: dict[str, object] = {"alg": self._algorithm, "nonce": nonce, "url": url}
        header.update({"jwk": self.jwk()} if kid is None else {"kid": kid})
        return compact_json(flattened(header, b"" if payload is None else compact_json(payload), self._key))

    def bind(self, account: ExternalAccount, url: str) -> dict[str, str]:
        """An external account binding (RFC 8555 §7.3.4); ``url`` is the server's ``newAccount``."""
        header = {"alg": "HS256", "kid": account.kid, "url": url}
        return flattened(header, compact_json(self.jwk()), account.hmackey)

    @property
    def _algorithm(self) -> str:
        return "RS256" if isinstance(self._key, rsa.RSAPrivateKey) else "ES256"
