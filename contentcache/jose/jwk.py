"""
Public keys as JSON Web Keys (RFC 7517, RFC 7518 §6, RFC 8037 §2), and the names that follow from a key.

PyJWT writes them. It does not read them: it accepts what RFC 7518 forbids.
"""

from __future__ import annotations

import hashlib
from base64 import b32encode
from collections.abc import Collection, Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from contentcache.core.base64url import base64url_encode
from contentcache.jose.jwa import RSA_BITS, PublicKey
from contentcache.jose.jws import InvalidJWSError, base64url_decode, compact_json

MAX_KID: Final = 256
MAX_EXPONENT: Final = (1 << 31) - 1
#: Members of JWKs that nobody should see (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
KEY_TYPES: Final = ("EC", "OKP", "RSA")
CURVES: Final = ("P-256", "P-384", "P-521", "Ed25519")

_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_ED25519_BYTES: Final = 32
_LIBTRUST_BYTES: Final = 30
#: The members that a thumbprint is made of (RFC 7638 §3.2, RFC 8037 §2).
_REQUIRED: Final = ("crv", "e", "kty", "n", "x", "y")


class InvalidJWKError(ValueError):
    """A JWK or JWK set is invalid, or a key is unusable. The message is one sentence without secrets."""


def is_kid(value: object) -> bool:
    """
    Whether a text may be a ``kid``: short and printable.

    >>> is_kid("2026-01"), is_kid(""), is_kid("a\\n"), is_kid(7)
    (True, False, False, False)
    """
    return isinstance(value, str) and 0 < len(value) <= MAX_KID and value.isprintable()


def parse_public_key(
    jwk: Mapping[str, object], *, curves: Collection[str] = CURVES, unpadded: bool = False
) -> PublicKey:
    """
    The public key of a JWK. Members that are not part of the key are ignored.

    :param unpadded: accept coordinates without their leading zeros, as docker/distribution writes them.
    :raises InvalidJWKError: another type or curve, or no valid key.

    >>> parse_public_key({"kty": "oct"})
    Traceback (most recent call last):
    ...
    contentcache.jose.jwk.InvalidJWKError: 'kty' is 'oct', not EC, OKP or RSA
    """
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if kty not in KEY_TYPES:
        raise InvalidJWKError(f"'kty' is {shown(kty)}, not EC, OKP or RSA")
    fitting = [curve for curve in curves if (curve in _CURVES) == (kty == "EC")]
    if kty != "RSA" and crv not in fitting:
        raise InvalidJWKError(f"'crv' is {shown(crv)}, not {' or '.join(map(repr, fitting))}")
    try:
        if kty == "RSA":
            return _rsa(jwk)
        if kty == "EC":
            return _elliptic(jwk, _CURVES[str(crv)], unpadded=unpadded)
        return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk, "x", _ED25519_BYTES))
    except InvalidJWKError:
        raise
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidJWKError(f"no valid {kty} key") from None


def public_members(public: PublicKey) -> dict[str, str]:
    """The members that make up the key and no others, in the order of RFC 7638."""
    if isinstance(public, rsa.RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {name: str(jwk[name]) for name in _REQUIRED if name in jwk}


def thumbprint(public: PublicKey) -> str:
    """The key's JWK thumbprint with SHA-256 (RFC 7638), in base64url."""
    return _thumbprint(public_members(public))


def derived_kids(public: PublicKey) -> tuple[str, ...]:
    """
    Each ``kid`` that a token server may give to this key: libtrust's fingerprint, and its thumbprint.

    docker/distribution makes thumbprints of coordinates without leading zeros, against RFC 7518 §6.2.1.2.
    """
    members = public_members(public)
    unpadded = {name: _unpadded(value) if name in {"x", "y"} else value for name, value in members.items()}
    names = [libtrust_fingerprint(public), _thumbprint(members)]
    return tuple(dict.fromkeys([*names, _thumbprint(unpadded)] if members["kty"] == "EC" else names))


def libtrust_fingerprint(public: PublicKey) -> str:
    """The key ID of docker/libtrust: 240 bits of the SHA-256 of the DER, base32 in groups of four."""
    text = b32encode(hashlib.sha256(encode_der(public)).digest()[:_LIBTRUST_BYTES]).decode("ascii")
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


def encode_der(public: PublicKey) -> bytes:
    """A SubjectPublicKeyInfo, by which keys compare."""
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def shown(value: object) -> str:
    """A member's value for an error message: no more than a short text of it."""
    return repr(value)[:80] if isinstance(value, str) else "missing" if value is None else "not a string"


def _elliptic(
    jwk: Mapping[str, object], curve: ec.EllipticCurve, *, unpadded: bool
) -> ec.EllipticCurvePublicKey:
    size = (curve.key_size + 7) // 8
    x, y = (_octets(jwk, name, size, unpadded=unpadded) for name in ("x", "y"))
    point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
    return point.public_key()


def _rsa(jwk: Mapping[str, object]) -> rsa.RSAPublicKey:
    modulus, exponent = (int.from_bytes(_octets(jwk, name), "big") for name in ("n", "e"))
    # Before OpenSSL sees it: what is too large costs it time.
    check_rsa_bits(modulus.bit_length())
    if exponent > MAX_EXPONENT:
        raise InvalidJWKError("'e' is too large; use 65537")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def check_rsa_bits(bits: int) -> None:
    """
    Check the size of an RSA key.

    :raises InvalidJWKError: it is not within :data:`RSA_BITS`.
    """
    if bits not in RSA_BITS:
        raise InvalidJWKError(f"the RSA key has {bits} bits; use {RSA_BITS[0]} to {RSA_BITS[-1]}")


def _octets(
    jwk: Mapping[str, object], name: str, size: int | None = None, *, unpadded: bool = False
) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise InvalidJWKError(f"{name!r} is not a string")
    try:
        octets = base64url_decode(value)
    except InvalidJWSError as error:
        raise InvalidJWKError(f"{name!r} {error}") from None
    if size is not None and (len(octets) > size or (len(octets) < size and not unpadded)):
        raise InvalidJWKError(f"{name!r} has {len(octets)} bytes, not {size}")
    return octets


def _thumbprint(members: Mapping[str, str]) -> str:
    return base64url_encode(hashlib.sha256(compact_json(members, sort_keys=True)).digest())


def _unpadded(coordinate: str) -> str:
    return base64url_encode(base64url_decode(coordinate).lstrip(b"\0"))
