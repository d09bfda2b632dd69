"""
JWK sets (RFC 7517 §5): an origin's keys for blob tokens, and the keys of a registry's token server.

Rules for an origin's set:

* a key's algorithm follows from its type, and from nothing that a token says (RFC 8725 §3.1);
* an unusable key is skipped, with a reason for the log: the set may hold keys for other purposes;
* a duplicate ``kid`` names no key, even if one of the two is unusable: which one was meant is a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import Certificate

from contentcache.core.errors import SignatureRefused
from contentcache.jose.jwa import PublicKey, is_supported, verify_signature
from contentcache.jose.jwk import (
    PRIVATE_MEMBERS,
    InvalidJWKError,
    check_rsa_bits,
    derived_kids,
    encode_der,
    is_kid,
    parse_public_key,
    public_members,
    shown,
)
from contentcache.jose.jws import compact_json
from contentcache.jose.strict_json import InvalidJSONError, parse_json

BlobTokenAlgorithm = Literal["ES256", "EdDSA", "RS256"]

MAX_SET_BYTES: Final = 64 << 10
MAX_KEYS: Final = 64

_CURVES: Final = ("P-256", "Ed25519")
_NAMED: Final = "the token of this URL names a key"
_RETRY: Final = "ask the origin for the blob again"


class UnknownKeyError(SignatureRefused):
    """A key set has no key with this ``kid``, or several."""


@frozen
class VerificationKey:
    """
    A public key of an origin, and the only algorithm that it is for.

    :raises InvalidJWKError: ``algorithm`` is not that of ``public``, or ``kid`` is not short and printable.
    """

    kid: str
    algorithm: BlobTokenAlgorithm
    public: PublicKey

    def __attrs_post_init__(self) -> None:
        if not is_kid(self.kid):
            raise InvalidJWKError("'kid' is not a short printable string")
        if (actual := algorithm_of(self.public)) != self.algorithm:
            raise InvalidJWKError(f"the key is for {actual}, not for {self.algorithm}")

    def verifies(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether the owner of this key made ``signature``."""
        return verify_signature(self.algorithm, self.public, signing_input, signature)


@frozen
class KeySet:
    """The keys of an origin by ``kid``, each ``kid`` that is duplicate, and why keys were skipped."""

    keys: Mapping[str, VerificationKey] = field(factory=lambda: MappingProxyType({}))
    duplicates: frozenset[str] = frozenset()
    skipped: tuple[str, ...] = ()

    def find(self, kid: str) -> VerificationKey:
        """
        The key with this ``kid``.

        :raises UnknownKeyError: there is none, or more than one. Only in the first case may a newer set help.
        """
        if kid in self.duplicates:
            raise UnknownKeyError(f"{_NAMED} that the origin has twice; {_RETRY}")
        if (key := self.keys.get(kid)) is None:
            raise UnknownKeyError(f"{_NAMED} that the origin does not have; {_RETRY}")
        return key


def parse_key_set(document: bytes) -> KeySet:
    """
    Parse the JWK set of an origin.

    :raises InvalidJWKError: not a JWK set, or more than :data:`MAX_SET_BYTES` or :data:`MAX_KEYS`.

    >>> parse_key_set(b'{"keys": [{"kid": "a", "kty": "oct"}]}').skipped
    ("keys[0]: 'kty' is 'oct', not EC, OKP or RSA",)
    >>> parse_key_set(b"[]")
    Traceback (most recent call last):
    ...
    contentcache.jose.jwk.InvalidJWKError: the JWK set is not a JSON object with a list of keys
    """
    if len(document) > MAX_SET_BYTES:
        raise InvalidJWKError(f"the JWK set is larger than {MAX_SET_BYTES} bytes")
    entries = entries_of(document)
    if len(entries) > MAX_KEYS:
        raise InvalidJWKError(f"the JWK set has more than {MAX_KEYS} keys")
    keys: dict[str, VerificationKey] = {}
    counts: Counter[str] = Counter()
    skipped: list[str] = []
    for number, entry in enumerate(entries):
        try:
            jwk, kid = _named(entry)
            counts[kid] += 1
            public = _verification_key(jwk)
            keys[kid] = VerificationKey(kid, algorithm_of(public), public)
        except InvalidJWKError as error:
            skipped.append(f"keys[{number}]: {error}")
    duplicates = frozenset(kid for kid, count in counts.items() if count > 1)
    skipped += [f"'kid' {kid!r} is there {counts[kid]} times, so none is used" for kid in sorted(duplicates)]
    usable = {kid: key for kid, key in keys.items() if kid not in duplicates}
    return KeySet(MappingProxyType(usable), duplicates, tuple(skipped))


def entries_of(document: bytes) -> list[object]:
    """
    The entries of a JWK set, whatever they are.

    :raises InvalidJWKError: it is not a JWK set.
    """
    try:
        value = parse_json(document)
    except InvalidJSONError as error:
        raise InvalidJWKError(f"the JWK set {error}") from None
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise InvalidJWKError("the JWK set is not a JSON object with a list of keys")
    return entries


def algorithm_of(public: object) -> BlobTokenAlgorithm:
    """
    The only algorithm that a key of an origin is for.

    :raises InvalidJWKError: there is none: other types, other curves, RSA that is too short or too long.
    """
    if isinstance(public, ec.EllipticCurvePublicKey):
        if not isinstance(public.curve, ec.SECP256R1):
            raise InvalidJWKError(f"the curve is {public.curve.name}, not P-256")
        return "ES256"
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "EdDSA"
    if isinstance(public, rsa.RSAPublicKey):
        check_rsa_bits(public.key_size)
        return "RS256"
    raise InvalidJWKError("the key is neither EC on P-256, nor Ed25519, nor RSA")


def encode_jwk(public: PublicKey, kid: str) -> dict[str, str]:
    """
    A key as a set has it, with ``alg`` and ``use``.

    :raises InvalidJWKError: the key is not usable for blob tokens.
    """
    key = VerificationKey(kid, algorithm_of(public), public)
    return {**public_members(public), "kid": key.kid, "alg": key.algorithm, "use": "sig"}


def encode_key_set(keys: Iterable[VerificationKey]) -> bytes:
    """A JWK set in the order of ``keys``, always in the same bytes."""
    return compact_json({"keys": [encode_jwk(key.public, key.kid) for key in keys]}, sort_keys=True)


@frozen
class TrustedKey:
    """A key of a token server, and the only algorithm that it is for, if its JWK says so."""

    public: PublicKey
    algorithm: str | None = None


@frozen
class TrustedKeys:
    """The keys of a token server by ``kid``, and the certificates at which an ``x5c`` chain may end."""

    by_kid: Mapping[str, TrustedKey]
    roots: tuple[Certificate, ...] = ()
    _by_der: Mapping[bytes, TrustedKey] = field(init=False)

    @_by_der.default
    def _encoded(self) -> Mapping[bytes, TrustedKey]:
        return {encode_der(key.public): key for key in self.by_kid.values()}

    def find_equal(self, public: PublicKey) -> TrustedKey | None:
        """The trusted key that equals ``public``, if any."""
        return self._by_der.get(encode_der(public))


def certified_keys(certificates: Sequence[Certificate]) -> dict[str, TrustedKey]:
    """
    The usable keys of certificates under each ``kid`` that they may have.

    The dates of a certificate do not matter where a token names its key, as in docker/distribution.
    """
    found: dict[str, TrustedKey] = {}
    for certificate in certificates:
        try:
            public = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            continue
        if is_supported(public):
            found.update(dict.fromkeys(derived_kids(public), TrustedKey(public)))
    return found


def trusted_keys(document: bytes) -> dict[str, TrustedKey]:
    """
    The usable keys of a token server's JWK set; others may be in it (RFC 7517 §5).

    :raises InvalidJWKError: it is not a JWK set, or a ``kid`` has two keys.
    """
    found: dict[str, TrustedKey] = {}
    for entry in entries_of(document):
        if not isinstance(entry, dict) or not is_kid(entry.get("kid")) or entry.get("use", "sig") != "sig":
            continue
        try:
            public = parse_public_key(entry, unpadded=True)
        except InvalidJWKError:
            continue
        kid, algorithm = entry["kid"], entry.get("alg")
        key = TrustedKey(public, algorithm if isinstance(algorithm, str) else None)
        if found.setdefault(kid, key) != key:
            raise InvalidJWKError(f"the JWK set has two keys with the 'kid' {kid!r}; give each its own")
    return found


def _named(entry: object) -> tuple[Mapping[str, object], str]:
    """A JWK and its ``kid``."""
    if not isinstance(entry, dict):
        raise InvalidJWKError("not a JSON object")
    kid = entry.get("kid")
    if not isinstance(kid, str) or not is_kid(kid):
        raise InvalidJWKError("'kid' is not a short printable string")
    return entry, kid


def _verification_key(jwk: Mapping[str, object]) -> PublicKey:
    """The key of a JWK that is meant for verifying signatures, and for nothing else."""
    kty = jwk.get("kty")
    if kty in ("EC", "OKP", "RSA") and (private := sorted(PRIVATE_MEMBERS & jwk.keys())):
        raise InvalidJWKError(
            f"it holds {private[0]!r}, which is secret; publish the public key, and replace this one"
        )
    if jwk.get("use", "sig") != "sig":
        raise InvalidJWKError(f"'use' is {shown(jwk['use'])}, not 'sig'")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise InvalidJWKError("'key_ops' is not a list with 'verify' in it")
    public = parse_public_key(jwk, curves=_CURVES)
    if "alg" in jwk and jwk["alg"] != algorithm_of(public):
        raise InvalidJWKError(f"'alg' is {shown(jwk['alg'])}, not the key's {algorithm_of(public)}")
    return public
