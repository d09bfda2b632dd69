"""
The public keys that signatures are checked with: JWK sets (RFC 7517) of ``ES256``, ``EdDSA`` and ``RS256``.

Rules:

* a key's algorithm follows from its kind, and from nothing that a token says (RFC 8725 §3.1);
* a key that is of no use here is passed over, with a reason for the log: sets may hold others for others;
* a ``kid`` that stands twice, even on a key that is of no use, is nobody's: which one was meant is a guess.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from contentcache.core.errors import SignatureRefused
from contentcache.core.jws import JwsFaulty, from_base64url, is_kid, read_json
from contentcache.core.jws import base64url as to_base64url

Algorithm = Literal["ES256", "EdDSA", "RS256"]
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

LARGEST_SET: Final = 64 << 10
MOST_KEYS: Final = 64
#: Shorter ones are forbidden for RS256 (RFC 7518 §3.3); longer ones only cost time.
RSA_BITS: Final = range(2048, 8192 + 1)
LARGEST_EXPONENT: Final = (1 << 31) - 1

_AGAIN: Final = "ask the origin for the blob again"
_COORDINATE: Final = 32  # bytes, on P-256 and Ed25519 alike
#: Members of JWKs that nobody should see (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
_SECRET: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
#: What a thumbprint is made of (RFC 7638 §3.2, RFC 8037 §2).
_ESSENTIAL: Final = ("crv", "e", "kty", "n", "x", "y")


class KeyUnknown(SignatureRefused):
    """The set has no key of that ``kid``, or two."""


class JwksFaulty(ValueError):
    """
    A document is no JWK set, or a key cannot be in one. The message says in one sentence what is wrong.
    """


@frozen
class VerifyingKey:
    """
    A public key, its name, and the only algorithm that it is good for.

    :raises JwksFaulty: ``algorithm`` is not that of ``public``, or ``kid`` no name for a key.
    """

    kid: str
    algorithm: Algorithm
    public: PublicKey

    def __attrs_post_init__(self) -> None:
        if not is_kid(self.kid):
            raise JwksFaulty("'kid' is not a short text that can be printed")
        if (fitting := algorithm_of(self.public)) != self.algorithm:
            raise JwksFaulty(f"the key is one for {fitting}, not for {self.algorithm}")

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """
        Whether this key's owner made ``signature`` (RFC 7518 §3.3, §3.4, RFC 8037 §3.1).
        """
        if isinstance(self.public, rsa.RSAPublicKey):
            return bool(RSAAlgorithm(RSAAlgorithm.SHA256).verify(signed, self.public, signature))
        if isinstance(self.public, ec.EllipticCurvePublicKey):
            return bool(ECAlgorithm(ECAlgorithm.SHA256).verify(signed, self.public, signature))
        return bool(OKPAlgorithm().verify(signed, self.public, signature))


@frozen
class KeySet:
    """
    The keys of a set by ``kid``; the names that stand in it twice; why others were passed over.
    """

    keys: Mapping[str, VerifyingKey] = field(factory=lambda: MappingProxyType({}))
    doubled: frozenset[str] = frozenset()
    passed_over: tuple[str, ...] = ()

    def find(self, kid: str) -> VerifyingKey:
        """
        The key of that name.

        :raises KeyUnknown: there is none, or more than one. Only in the first case a newer set may help.
        """
        if kid in self.doubled:
            raise KeyUnknown(f"the token of this URL names a key that the origin has twice; {_AGAIN}")
        if (key := self.keys.get(kid)) is None:
            raise KeyUnknown(f"the token of this URL names a key that the origin does not have; {_AGAIN}")
        return key


def parse_jwks(document: bytes) -> KeySet:
    """
    Read a JWK set.

    :raises JwksFaulty: it is none, or larger than any honest one.

    >>> parse_jwks(b'{"keys": [{"kid": "a", "kty": "oct"}]}').passed_over
    ("keys[0]: 'kty' is 'oct', not EC, OKP or RSA",)
    >>> parse_jwks(b"[]")
    Traceback (most recent call last):
    ...
    contentcache.core.jwks.JwksFaulty: the JWK set is not a JSON object with a list of keys
    """
    keys: dict[str, VerifyingKey] = {}
    seen: Counter[str] = Counter()
    passed_over: list[str] = []
    for number, entry in enumerate(_entries(document)):
        try:
            jwk, kid = _named(entry)
            seen[kid] += 1
            public = _public(jwk)
            keys[kid] = VerifyingKey(kid, algorithm_of(public), public)
        except JwksFaulty as faulty:
            passed_over.append(f"keys[{number}]: {faulty}")
    doubled = frozenset(kid for kid, times in seen.items() if times > 1)
    passed_over += [f"'kid' {kid!r} is there {seen[kid]} times, so none is used" for kid in sorted(doubled)]
    usable = {kid: key for kid, key in keys.items() if kid not in doubled}
    return KeySet(MappingProxyType(usable), doubled, tuple(passed_over))


def algorithm_of(public: object) -> Algorithm:
    """
    The only algorithm that a public key is good for.

    :raises JwksFaulty: there is none: other kinds, other curves, RSA that is too short or too long.
    """
    if isinstance(public, ec.EllipticCurvePublicKey):
        if not isinstance(public.curve, ec.SECP256R1):
            raise JwksFaulty(f"the curve is {public.curve.name}, not P-256")
        return "ES256"
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size not in RSA_BITS:
            raise JwksFaulty(f"RSA of {public.key_size} bits; use {RSA_BITS[0]} to {RSA_BITS[-1]}")
        return "RS256"
    raise JwksFaulty("the key is neither one on P-256, nor Ed25519, nor RSA")


def as_jwk(public: PublicKey, kid: str) -> dict[str, str]:
    """
    A key as a set has it, with ``alg`` and ``use``.

    :raises JwksFaulty: the key is of no use for signed URLs.
    """
    key = VerifyingKey(kid, algorithm_of(public), public)
    return {**_essential(public), "kid": key.kid, "alg": key.algorithm, "use": "sig"}


def as_jwks(keys: Sequence[VerifyingKey]) -> bytes:
    """
    A JWK set in the order of ``keys``, always in the same bytes.
    """
    return _canonical({"keys": [as_jwk(key.public, key.kid) for key in keys]})


def thumbprint(public: PublicKey) -> str:
    """
    A name that follows from the key itself: base64url of SHA-256 (RFC 7638).
    """
    return to_base64url(hashlib.sha256(_canonical(_essential(public))).digest())


def _entries(document: bytes) -> list[object]:
    if len(document) > LARGEST_SET:
        raise JwksFaulty(f"the JWK set is larger than {LARGEST_SET} bytes")
    try:
        value = read_json(document)
    except JwsFaulty as faulty:
        raise JwksFaulty(f"the JWK set {faulty}") from None
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise JwksFaulty("the JWK set is not a JSON object with a list of keys")
    if len(entries) > MOST_KEYS:
        raise JwksFaulty(f"the JWK set has more than {MOST_KEYS} keys")
    return entries


def _named(entry: object) -> tuple[Mapping[str, object], str]:
    if not isinstance(entry, dict):
        raise JwksFaulty("not a JSON object")
    kid = entry.get("kid")
    if not isinstance(kid, str) or not is_kid(kid):
        raise JwksFaulty("'kid' is not a short text that can be printed")
    return entry, kid


def _public(jwk: Mapping[str, object]) -> PublicKey:
    """
    The key of a JWK that is meant for verifying, and for nothing else.
    """
    kty = jwk.get("kty")
    if kty not in ("EC", "OKP", "RSA"):
        raise JwksFaulty(f"'kty' is {_shown(kty)}, not EC, OKP or RSA")
    if secret := sorted(_SECRET & jwk.keys()):
        raise JwksFaulty(
            f"it holds {secret[0]!r}, which is secret; publish the public key, and replace this one"
        )
    if jwk.get("use", "sig") != "sig":
        raise JwksFaulty(f"'use' is {_shown(jwk['use'])}, not 'sig'")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise JwksFaulty("'key_ops' is not a list with 'verify' in it")
    try:
        public = _rsa(jwk) if kty == "RSA" else _elliptic(jwk) if kty == "EC" else _edwards(jwk)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise error if isinstance(error, JwksFaulty) else JwksFaulty(f"no valid {kty} key") from None
    if "alg" in jwk and jwk["alg"] != algorithm_of(public):
        raise JwksFaulty(f"'alg' is {_shown(jwk['alg'])}, not {algorithm_of(public)}, as the key is")
    return public


def _elliptic(jwk: Mapping[str, object]) -> ec.EllipticCurvePublicKey:
    if jwk.get("crv") != "P-256":
        raise JwksFaulty(f"'crv' is {_shown(jwk.get('crv'))}, not 'P-256'")
    x, y = (int.from_bytes(_octets(jwk, name, _COORDINATE), "big") for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _edwards(jwk: Mapping[str, object]) -> ed25519.Ed25519PublicKey:
    if jwk.get("crv") != "Ed25519":
        raise JwksFaulty(f"'crv' is {_shown(jwk.get('crv'))}, not 'Ed25519'")
    return ed25519.Ed25519PublicKey.from_public_bytes(_octets(jwk, "x", _COORDINATE))


def _rsa(jwk: Mapping[str, object]) -> rsa.RSAPublicKey:
    modulus, exponent = (int.from_bytes(_octets(jwk, name), "big") for name in ("n", "e"))
    # Before OpenSSL sees it: what is too large costs it time.
    if modulus.bit_length() not in RSA_BITS:
        raise JwksFaulty(f"RSA of {modulus.bit_length()} bits; use {RSA_BITS[0]} to {RSA_BITS[-1]}")
    if exponent > LARGEST_EXPONENT:
        raise JwksFaulty("'e' is too large; use 65537")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def _octets(jwk: Mapping[str, object], name: str, length: int | None = None) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise JwksFaulty(f"{name!r} is not a text")
    try:
        octets = from_base64url(value)
    except JwsFaulty as faulty:
        raise JwksFaulty(f"{name!r} {faulty}") from None
    if length is not None and len(octets) != length:
        raise JwksFaulty(f"{name!r} has {len(octets)} bytes, not {length}")
    return octets


def _essential(public: PublicKey) -> dict[str, str]:
    """
    The members that make the key, and no others.
    """
    if isinstance(public, rsa.RSAPublicKey):
        jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {name: str(jwk[name]) for name in _ESSENTIAL if name in jwk}


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def _shown(value: object) -> str:
    return repr(value)[:80] if isinstance(value, str) else "missing" if value is None else "not a text"
