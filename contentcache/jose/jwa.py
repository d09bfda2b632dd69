"""
The signature algorithms of JWS (RFC 7518 §3, RFC 8037 §3.1), each bound to the keys that it is for.

Nothing here verifies a shared secret: who could verify could also sign (RFC 8725 §2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeGuard

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import Algorithm, get_default_algorithms

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

#: Shorter keys are forbidden (RFC 7518 §3.3, §3.5); longer ones only cost time.
RSA_BITS: Final = range(2048, 8192 + 1)

_CURVES: Final[Mapping[str, type[ec.EllipticCurve]]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

#: Every algorithm that :func:`verify_signature` knows.
ALGORITHMS: Final = frozenset(("EdDSA", *_CURVES, *_RSA))

_IMPLEMENTATIONS: Final[Mapping[str, Algorithm]] = {
    name: implementation
    for name, implementation in get_default_algorithms().items()
    if name in ALGORITHMS or name == "HS256"
}


def is_supported(key: object) -> TypeGuard[PublicKey]:
    """Whether any of :data:`ALGORITHMS` is for such a key."""
    return any(_is_for(algorithm, key) for algorithm in ALGORITHMS)


def verify_signature(algorithm: str, key: PublicKey, signing_input: bytes, signature: bytes) -> bool:
    """Whether ``key`` is one for ``algorithm`` and has made ``signature`` over ``signing_input``."""
    if not _is_for(algorithm, key):
        return False
    try:
        return _IMPLEMENTATIONS[algorithm].verify(signing_input, key, signature)
    except (UnsupportedAlgorithm, ValueError):
        return False


def make_signature(algorithm: str, key: PrivateKey | bytes, signing_input: bytes) -> bytes:
    """
    Sign with a private key, or with a shared secret for ``HS256`` (only ACME's account binding has one).

    >>> make_signature("HS256", b"secret", b"").hex()[:8]
    'f9e66e17'
    """
    return _IMPLEMENTATIONS[algorithm].sign(signing_input, key)


def _is_for(algorithm: str, key: object) -> bool:
    if curve := _CURVES.get(algorithm):
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve)
    if algorithm in _RSA:
        return isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS
    return algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey)
