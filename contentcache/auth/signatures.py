"""
The algorithms of JWS signatures (RFC 7518 §3, RFC 8037 §3.1), each bound to the keys that it is for.

No algorithm with a shared secret is here: what verifies would also sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

#: Shorter ones are forbidden (RFC 7518 §3.3, §3.5); longer ones only cost time.
RSA_BITS: Final = range(2048, 8192 + 1)

_Check = Callable[[PublicKey, bytes, bytes], bool]


def fits(algorithm: str, key: PublicKey, signed: bytes, signature: bytes) -> bool:
    """
    Whether ``key`` is one for ``algorithm`` and has made ``signature`` over ``signed``.
    """
    try:
        return _CHECKS[algorithm](key, signed, signature)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False


def is_usable(key: object) -> bool:
    """
    Whether any algorithm here is for such a key.
    """
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size in RSA_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


def _edwards(key: PublicKey, signed: bytes, signature: bytes) -> bool:
    if not isinstance(key, ed25519.Ed25519PublicKey):
        return False
    key.verify(signature, signed)
    return True


def _elliptic(curve: type[ec.EllipticCurve], hashed: hashes.HashAlgorithm) -> _Check:
    def check(key: PublicKey, signed: bytes, signature: bytes) -> bool:
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
            return False
        half = (key.key_size + 7) // 8
        if len(signature) != 2 * half:
            return False
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashed))
        return True

    return check


def _rsa(padded: padding.AsymmetricPadding, hashed: hashes.HashAlgorithm) -> _Check:
    def check(key: PublicKey, signed: bytes, signature: bytes) -> bool:
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in RSA_BITS:
            return False
        key.verify(signature, signed, padded, hashed)
        return True

    return check


def _pss(hashed: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(hashed), salt_length=hashed.digest_size)


_CHECKS: Final[Mapping[str, _Check]] = {
    "EdDSA": _edwards,
    "ES256": _elliptic(ec.SECP256R1, hashes.SHA256()),
    "ES384": _elliptic(ec.SECP384R1, hashes.SHA384()),
    "ES512": _elliptic(ec.SECP521R1, hashes.SHA512()),
    "RS256": _rsa(padding.PKCS1v15(), hashes.SHA256()),
    "RS384": _rsa(padding.PKCS1v15(), hashes.SHA384()),
    "RS512": _rsa(padding.PKCS1v15(), hashes.SHA512()),
    "PS256": _rsa(_pss(hashes.SHA256()), hashes.SHA256()),
    "PS384": _rsa(_pss(hashes.SHA384()), hashes.SHA384()),
    "PS512": _rsa(_pss(hashes.SHA512()), hashes.SHA512()),
}

#: All that are known here.
ALGORITHMS: Final = frozenset(_CHECKS)
