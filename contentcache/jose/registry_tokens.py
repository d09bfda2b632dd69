"""
Registry tokens (docker/distribution, "Token Authentication Implementation"), verified as the registry does.

Rules:

* the key is found as in the registry: by the header's ``x5c``, else by its ``jwk``, else by ``kid``. A key
  that comes with the token counts only if a trusted certificate certifies it, or if it equals a trusted key;
* the algorithm is one that the operator allows, and one for this type of key;
* claims have the registry's types: another type makes the token malformed; absent or ``null`` is empty;
* a token has an ``exp``, and all clocks may differ by a minute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, cast

from attrs import frozen

from contentcache.core.http_auth import MAX_CREDENTIALS
from contentcache.jose import claims as read
from contentcache.jose.claims import InvalidClaimError
from contentcache.jose.jwa import verify_signature
from contentcache.jose.jwk import PRIVATE_MEMBERS, InvalidJWKError, encode_der, parse_public_key
from contentcache.jose.jws import (
    UNSUPPORTED_PARAMETERS,
    CompactJWS,
    InvalidJWSError,
    check_header,
    parse_compact,
)
from contentcache.jose.keyset import TrustedKey, TrustedKeys
from contentcache.jose.x5c import InvalidChainError, verify_chain

#: Seconds by which the token server's clock and ours may differ, either way.
LEEWAY: Final = 60

_FOREVER: Final = float("inf")


class InvalidTokenError(ValueError):
    """A registry token is invalid. The message is a predicate for it ("has expired") that quotes nothing."""


@frozen
class RegistryTokenClaims:
    """
    The claims of a registry token. Times are seconds since the epoch.

    ``access`` has each (type, name, action) that is allowed.
    """

    issuer: str
    subject: str
    audience: frozenset[str]
    expires: int
    not_before: int
    access: frozenset[tuple[str, str, str]]

    def allows(self, resource_type: str, name: str, action: str) -> bool:
        """Whether ``access`` has this action, or ``*``, on this resource."""
        return any((resource_type, name, each) in self.access for each in (action, "*"))


@frozen
class VerifiedRegistryToken:
    """A token with a valid signature; ``key_expires`` is when the certificates of its key expire."""

    claims: RegistryTokenClaims
    key_expires: float


def verify_registry_token(
    text: str, keys: TrustedKeys, *, algorithms: Collection[str], now: float
) -> VerifiedRegistryToken:
    """
    Verify who signed a token, and parse its claims. :func:`check_claims` says whether they are for us.

    :param algorithms: those of :data:`contentcache.jose.jwa.ALGORITHMS` that are allowed.
    :param now: seconds since the epoch.
    :raises InvalidTokenError: it is malformed, or its key is not trusted, or its signature is wrong.
    """
    try:
        jws = parse_compact(text, max_length=MAX_CREDENTIALS)
        check_header(jws.header, UNSUPPORTED_PARAMETERS)
        algorithm = jws.header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in algorithms:
            raise InvalidTokenError("is not signed with an algorithm that is allowed here")
        key, key_expires = _key_of(jws, keys, now)
        if key.algorithm not in (None, algorithm):
            raise InvalidTokenError("is signed with another algorithm than its key is for")
        if not verify_signature(algorithm, key.public, jws.signing_input, jws.signature):
            raise InvalidTokenError("has a wrong signature")
        return VerifiedRegistryToken(_claims_of(jws), key_expires)
    except (InvalidJWSError, InvalidChainError, InvalidClaimError) as error:
        raise InvalidTokenError(str(error)) from None


def check_claims(claims: RegistryTokenClaims, *, issuer: str, service: str, now: float) -> None:
    """
    Check that the claims are from ``issuer``, for ``service``, and valid at ``now``.

    :raises InvalidTokenError: they are not.
    """
    if claims.issuer != issuer:
        raise InvalidTokenError("is from another issuer")
    if service not in claims.audience:
        raise InvalidTokenError("is for another service")
    if now > claims.expires + LEEWAY:
        raise InvalidTokenError("has expired")
    if now < claims.not_before - LEEWAY:
        raise InvalidTokenError("is not valid yet")


def _key_of(jws: CompactJWS, keys: TrustedKeys, now: float) -> tuple[TrustedKey, float]:
    """The key that a token is signed with, and when its certificates expire."""
    header = jws.header
    if header.get("x5c") not in (None, []):
        certified = verify_chain(header["x5c"], keys.roots, now)
        return TrustedKey(certified.public), certified.expires
    if header.get("jwk") is not None:
        return _embedded_key(header["jwk"], keys, now)
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise InvalidTokenError("does not name its key")
    known = keys.by_kid.get(kid)
    if known is None:
        raise InvalidTokenError("is signed with a key that is not trusted")
    return known, _FOREVER


def _embedded_key(jwk: object, keys: TrustedKeys, now: float) -> tuple[TrustedKey, float]:
    """The key of the header's ``jwk``, if it is trusted or certified by a chain to a trusted certificate."""
    if not isinstance(jwk, dict) or PRIVATE_MEMBERS & jwk.keys():
        raise InvalidTokenError("has a 'jwk' that is not a public key")
    members = cast("Mapping[str, object]", jwk)
    try:
        public = parse_public_key(members, unpadded=True)
    except InvalidJWKError:
        raise InvalidTokenError("has a 'jwk' that is not a public key") from None
    if members.get("x5c") not in (None, []):
        certified = verify_chain(members["x5c"], keys.roots, now)
        if encode_der(certified.public) != encode_der(public):
            raise InvalidTokenError("has a 'jwk' whose certificate is for another key")
        return TrustedKey(public), certified.expires
    known = keys.find_equal(public)
    if known is None:
        raise InvalidTokenError("is signed with a key that is not trusted")
    return known, _FOREVER


def _claims_of(jws: CompactJWS) -> RegistryTokenClaims:
    claims = jws.claims()
    read.whole_seconds(claims, "iat", 0)
    read.string(claims, "jti", "")
    return RegistryTokenClaims(
        issuer=read.string(claims, "iss", ""),
        subject=read.string(claims, "sub", ""),
        audience=frozenset(read.audience(claims, [])),
        expires=read.whole_seconds(claims, "exp", 0),
        not_before=read.whole_seconds(claims, "nbf", 0),
        access=frozenset(
            (entry.type, entry.name, action)
            for entry in read.lenient_access(claims)
            for action in entry.actions
        ),
    )
