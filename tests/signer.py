"""
An origin that signs URLs by hand, from the RFCs (7515 to 7519, 8037): what it makes checks the code, and does
not repeat it.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm

Json = dict[str, Any]


def b64(content: bytes) -> str:
    """base64url without padding."""
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def number(value: int, size: int | None = None) -> str:
    """A number as JWKs have it."""
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


@frozen
class Keys:
    """The origin's keys, and one of each kind that is not the origin's."""

    es: ec.EllipticCurvePrivateKey
    ed: ed25519.Ed25519PrivateKey
    rs: rsa.RSAPrivateKey
    p384: ec.EllipticCurvePrivateKey
    first: ec.EllipticCurvePrivateKey
    second: ec.EllipticCurvePrivateKey
    stranger: ec.EllipticCurvePrivateKey
    strange_ed: ed25519.Ed25519PrivateKey
    strange_rs: rsa.RSAPrivateKey


@cache
def keys() -> Keys:
    """The same keys for a whole run: those of RSA take a while."""
    one, first, second, stranger = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
    return Keys(
        es=one,
        ed=ed25519.Ed25519PrivateKey.generate(),
        rs=rsa.generate_private_key(65537, 2048),
        p384=ec.generate_private_key(ec.SECP384R1()),
        first=first,
        second=second,
        stranger=stranger,
        strange_ed=ed25519.Ed25519PrivateKey.generate(),
        strange_rs=rsa.generate_private_key(65537, 2048),
    )


def es256(
    signed: bytes, key: ec.EllipticCurvePrivateKey, algorithm: HashAlgorithm | None = None, size: int = 32
) -> bytes:
    """r and s, side by side (RFC 7518 §3.4)."""
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(algorithm or SHA256())))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def rs256(signed: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """RSASSA-PKCS1-v1_5 (RFC 7518 §3.3)."""
    return key.sign(signed, padding.PKCS1v15(), SHA256())


Sign = Callable[[bytes], bytes]


@frozen
class Signer:
    """
    An origin that signs one blob's URL at ``now`` (seconds since the epoch).

    Its JWK set has the kids ``es``, ``ed``, ``rs``; ``p384``, which is of no use; and ``twice``, two times.
    """

    issuer: str
    repository: str
    digest: str
    now: float
    keys: Keys = field(factory=keys, repr=False)

    def jwks(self) -> bytes:
        """The set that the origin shows."""
        shown = [
            elliptic(self.keys.es.public_key(), "es"),
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": b64(self.keys.ed.public_key().public_bytes_raw()),
                "kid": "ed",
            },
            {
                "kty": "RSA",
                "n": number(self.keys.rs.public_key().public_numbers().n),
                "e": "AQAB",
                "kid": "rs",
            },
            elliptic(self.keys.p384.public_key(), "p384"),
            elliptic(self.keys.first.public_key(), "twice"),
            elliptic(self.keys.second.public_key(), "twice"),
        ]
        return json.dumps({"keys": shown}).encode()

    def header(self, **changes: object) -> Json:
        """A good header, with changes."""
        return {"typ": "JWT", "alg": "ES256", "kid": "es", **changes}

    def claims(self, **changes: object) -> Json:
        """Good claims, with changes."""
        now = int(self.now)
        access = [{"type": "repository", "name": self.repository, "actions": ["pull"]}]
        good = {
            "iss": self.issuer,
            "aud": "contentcache",
            "sub": "jane",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "digest": self.digest,
            "access": access,
        }
        return {**good, **changes}

    def by_es(self, signed: bytes) -> bytes:
        """Sign with ``es``."""
        return es256(signed, self.keys.es)

    def by_ed(self, signed: bytes) -> bytes:
        """Sign with ``ed``."""
        return self.keys.ed.sign(signed)

    def by_rs(self, signed: bytes) -> bytes:
        """Sign with ``rs``."""
        return rs256(signed, self.keys.rs)

    def token(
        self,
        header: Mapping[str, object] | None = None,
        claims: Mapping[str, object] | None = None,
        sign: Sign | None = None,
    ) -> str:
        """A token of any header and claims; without arguments, a good one."""
        return self.raw(
            json.dumps(self.header() if header is None else header).encode(),
            json.dumps(self.claims() if claims is None else claims).encode(),
            sign,
        )

    def raw(self, header: bytes, claims: bytes, sign: Sign | None = None) -> str:
        """A token of any two texts."""
        return self.spelt(b64(header), b64(claims), sign)

    def spelt(self, header: str, claims: str, sign: Sign | None = None) -> str:
        """A token of any two parts, signed as they are spelt."""
        signed = f"{header}.{claims}"
        return f"{signed}.{b64((sign or self.by_es)(signed.encode()))}"

    def saying(self, **changes: object) -> str:
        """A token, well signed, with other claims."""
        return self.token(claims=self.claims(**changes))

    def without(self, claim: str) -> str:
        """A token, well signed, that lacks a claim."""
        return self.token(claims={name: value for name, value in self.claims().items() if name != claim})


def elliptic(public: ec.EllipticCurvePublicKey, kid: str) -> Json:
    """A key on a curve as JWK."""
    point, size = public.public_numbers(), (public.key_size + 7) // 8
    curve = f"P-{public.key_size}"
    return {
        "kty": "EC",
        "crv": curve,
        "x": number(point.x, size),
        "y": number(point.y, size),
        "kid": kid,
        "use": "sig",
    }
