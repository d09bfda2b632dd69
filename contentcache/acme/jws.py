"""
The account's key, and requests that are signed with it (RFC 7515, RFC 8555 §6.2).
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Final, Self

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from contentcache.config.model import ExternalAccount

Json = Mapping[str, object]

#: Bytes of a coordinate, and of each half of a signature, on P-256 (RFC 7518 §3.4).
_P256: Final = 32


class KeyUnusable(ValueError):
    """A file holds no key that an account can have; the sentence says why."""


def b64(content: bytes) -> str:
    """
    base64url without padding (RFC 7515 §2).

    >>> b64(b"?>>")
    'Pz4-'
    """
    return urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


@frozen
class AccountKey:
    """
    An account's private key: P-256, or RSA for those that come from elsewhere.
    """

    _key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """
        A fresh one.
        """
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, content: bytes) -> Self:
        """
        Read it. Raises ``KeyUnusable``.
        """
        try:
            key = load_pem_private_key(content, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise KeyUnusable("it holds no private key in PEM form, or a damaged or encrypted one") from None
        if isinstance(key, rsa.RSAPrivateKey) or (
            isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        ):
            return cls(key)
        raise KeyUnusable("its key is of a kind that is not supported; P-256 and RSA are")

    def pem(self) -> bytes:
        """
        The key as a file has it.
        """
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def jwk(self) -> dict[str, str]:
        """
        The public half (RFC 7517), its members in the order of RFC 7638.
        """
        if isinstance(self._key, rsa.RSAPrivateKey):
            numbers = self._key.public_key().public_numbers()
            return {"e": b64(_bytes(numbers.e)), "kty": "RSA", "n": b64(_bytes(numbers.n))}
        point = self._key.public_key().public_numbers()
        x, y = (b64(each.to_bytes(_P256, "big")) for each in (point.x, point.y))
        return {"crv": "P-256", "kty": "EC", "x": x, "y": y}

    def thumbprint(self, hash_function: object = None) -> bytes:  # noqa: ARG002  # txacme names SHA-256
        """
        What challenges are answered with (RFC 7638).
        """
        return sha256(_compact(self.jwk())).digest()

    def signed(self, url: str, payload: Json | None, nonce: str, kid: str | None) -> bytes:
        """
        The body of a request to ``url``. Without ``payload`` it is a *POST-as-GET* (RFC 8555 §6.3); without
        ``kid``, the account's URL, the key itself is in it.
        """
        head: dict[str, object] = {"alg": self._alg, "nonce": nonce, "url": url}
        head.update({"jwk": self.jwk()} if kid is None else {"kid": kid})
        protected, content = _encoded(head), "" if payload is None else _encoded(payload)
        signature = b64(self._sign(f"{protected}.{content}".encode("ascii")))
        return _compact({"protected": protected, "payload": content, "signature": signature})

    def bound_to(self, account: ExternalAccount, url: str) -> dict[str, str]:
        """
        What ties the account to one that the authority knows already; ``url`` is that for new accounts
        (RFC 8555 §7.3.4).
        """
        protected = _encoded({"alg": "HS256", "kid": account.kid, "url": url})
        content = _encoded(self.jwk())
        signature = hmac.digest(account.hmackey, f"{protected}.{content}".encode("ascii"), "sha256")
        return {"protected": protected, "payload": content, "signature": b64(signature)}

    @property
    def _alg(self) -> str:
        return "RS256" if isinstance(self._key, rsa.RSAPrivateKey) else "ES256"

    def _sign(self, content: bytes) -> bytes:
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(content, padding.PKCS1v15(), SHA256())
        r, s = decode_dss_signature(self._key.sign(content, ec.ECDSA(SHA256())))
        return r.to_bytes(_P256, "big") + s.to_bytes(_P256, "big")


def _encoded(value: Mapping[str, object]) -> str:
    return b64(_compact(value))


def _compact(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
