"""
The keys that sign registry tokens: from certificates (``rootcertbundle``), from a JWK set (``jwks``).

A certificate's key has two names: the fingerprint of Docker's libtrust, which token servers for registries
up to 2.8 write into ``kid``, and the thumbprint of RFC 7638, for 3.x. As in the registry, the dates of a
certificate in the bundle do not matter where a token names its key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Final, cast

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import Certificate, load_pem_x509_certificates

from contentcache.auth.interfaces import AuthFault
from contentcache.auth.signatures import RSA_BITS, PublicKey, is_usable
from contentcache.auth.watching import read_file
from contentcache.config.model import TokenAuth
from contentcache.core.jws import JwsFaulty, base64url, from_base64url, is_kid, read_json

_LIBTRUST_BYTES: Final = 30
_LARGEST_EXPONENT: Final = (1 << 31) - 1
_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, int]]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@frozen
class TrustedKey:
    """
    A key, and the only algorithm that it is for, if its JWK says so.
    """

    public: PublicKey
    algorithm: str | None = None


@frozen
class TrustedKeys:
    """
    The keys by ``kid``, and the certificates that a token's own chain may lead to.
    """

    by_name: Mapping[str, TrustedKey]
    roots: tuple[Certificate, ...] = ()
    _encoded: Mapping[bytes, TrustedKey] = field(init=False)

    def __attrs_post_init__(self) -> None:
        encoded = {encode(key.public): key for key in self.by_name.values()}
        object.__setattr__(self, "_encoded", encoded)

    def same(self, public: PublicKey) -> TrustedKey | None:
        """
        The trusted key that ``public`` is, if any.
        """
        return self._encoded.get(encode(public))


def read_keys(settings: TokenAuth) -> TrustedKeys:
    """
    Read the files that the settings name.

    :raises AuthFault: one of them cannot be used, or there is no key in them.
    """
    roots = () if settings.rootcertbundle is None else _read_bundle(settings.rootcertbundle)
    keys: dict[str, TrustedKey] = {}
    for certificate in roots:
        public = _public_of(certificate)
        if public is not None:
            keys.update(dict.fromkeys(names_of(public), TrustedKey(public)))
    if settings.jwks is not None:
        keys.update(_read_jwks(settings.jwks))
    if not keys:
        where = settings.rootcertbundle or settings.jwks or "auth.token"
        raise AuthFault(where, f"{where} holds no key that tokens are signed with; use RSA, ECDSA or Ed25519")
    return TrustedKeys(keys, roots)


def public_key(jwk: Mapping[str, object]) -> PublicKey:
    """
    The public key of a JWK (RFC 7518 §6, RFC 8037 §2). Its other members are not looked at.

    :raises ValueError: it is none of those that tokens may be signed with.
    """
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if kty == "RSA":
        exponent, modulus = _number(jwk, "e"), _number(jwk, "n")
        # Before OpenSSL sees it: what is too large costs it time.
        if exponent > _LARGEST_EXPONENT or modulus.bit_length() not in RSA_BITS:
            raise ValueError("an RSA key of 2048 to 8192 bits is wanted")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    if kty == "EC" and isinstance(crv, str) and crv in _CURVES:
        curve, length = _CURVES[crv]
        x, y = _octets(jwk, "x"), _octets(jwk, "y")
        # The registry leaves leading zeros out, against RFC 7518 §6.2.1.2.
        if max(len(x), len(y)) > length:
            raise ValueError("the point is not on its curve")
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
        return numbers.public_key()
    if kty == "OKP" and crv == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk, "x"))
    raise ValueError("neither RSA, nor EC on a curve of NIST, nor Ed25519")


def names_of(public: PublicKey) -> tuple[str, ...]:
    """
    What a ``kid`` may call a key that has no other name.
    """
    return tuple(
        dict.fromkeys([fingerprint(public), *(_thumbprint(members) for members in _spellings(public))])
    )


def fingerprint(public: PublicKey) -> str:
    """
    libtrust's name of a key: 240 bits of the SHA-256 of its DER, in base 32 and groups of four.
    """
    text = base64.b32encode(hashlib.sha256(encode(public)).digest()[:_LIBTRUST_BYTES]).decode("ascii")
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


def encode(public: PublicKey) -> bytes:
    """
    A key in a form that compares.
    """
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _spellings(public: PublicKey) -> list[dict[str, str]]:
    """
    The members that make a key (RFC 7638 §3.2): padded as they should be, and as the registry spells them.
    """
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return [{"kty": "RSA", "e": _spelled(numbers.e), "n": _spelled(numbers.n)}]
    if isinstance(public, ec.EllipticCurvePublicKey):
        point, crv = public.public_numbers(), _CURVE_NAMES[public.curve.name]
        lengths = (_CURVES[crv][1], 0)
        return [
            {"kty": "EC", "crv": crv, "x": _spelled(point.x, least), "y": _spelled(point.y, least)}
            for least in lengths
        ]
    return [{"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}]


def _thumbprint(members: Mapping[str, str]) -> str:
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode("ascii")
    return base64url(hashlib.sha256(canonical).digest())


def _spelled(number: int, least: int = 0) -> str:
    return base64url(number.to_bytes(max(least, (number.bit_length() + 7) // 8), "big"))


def _public_of(certificate: Certificate) -> PublicKey | None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return cast("PublicKey", key) if is_usable(key) else None


def _read_bundle(path: str) -> tuple[Certificate, ...]:
    content = read_file(path)
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise AuthFault(path, f"{path} holds no certificate in PEM form")
    try:
        return tuple(load_pem_x509_certificates(content))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthFault(path, f"{path} holds a certificate that is damaged: {error}") from error


def _read_jwks(path: str) -> dict[str, TrustedKey]:
    """
    The usable keys of a set; others may be in it (RFC 7517 §5).
    """
    try:
        document = read_json(read_file(path))
    except JwsFaulty as faulty:
        raise AuthFault(path, f"{path} {faulty}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise AuthFault(path, f"{path} is not a JWK set: a JSON object with a list of keys")
    found: dict[str, TrustedKey] = {}
    for entry in entries:
        kid = entry.get("kid") if isinstance(entry, dict) else None
        if not isinstance(kid, str) or not is_kid(kid) or entry.get("use", "sig") != "sig":
            continue
        try:
            public = public_key(entry)
        except (ValueError, UnsupportedAlgorithm):
            continue
        algorithm = entry.get("alg")
        key = TrustedKey(public, algorithm if isinstance(algorithm, str) else None)
        if found.setdefault(kid, key) != key:
            raise AuthFault(path, f"{path} has two keys with the kid {kid!r}: which one is meant is a guess")
    return found


def _number(jwk: Mapping[str, object], name: str) -> int:
    return int.from_bytes(_octets(jwk, name), "big")


def _octets(jwk: Mapping[str, object], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is not a text")  # noqa: TRY004 - one kind of error for a bad key
    return from_base64url(value)
