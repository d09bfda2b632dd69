"""
Local authentication by registry tokens (section ``auth.token``).

Rules, besides those of :mod:`contentcache.jose.registry_tokens`:

* a token is from ``issuer`` for ``service``;
* a scope is allowed by an entry of ``access`` of the same type and name with that action, or ``*``;
* the keys are those of certificates (``rootcertbundle``) and of a JWK set (``jwks``), read again when they change;
* a verified token is cached under a keyed hash, until it expires or the keys change: a pull costs one
  verification.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import Certificate, load_pem_x509_certificates
from twisted.logger import Logger

from contentcache.auth.interfaces import AuthFault, Scope, Unauthorized, quoted, read_file
from contentcache.config.model import TokenAuth
from contentcache.core.http_auth import credentials_for
from contentcache.core.lru import LruCache
from contentcache.core.ports import Clock, Run, Timer
from contentcache.jose.jwa import ALGORITHMS
from contentcache.jose.jwk import InvalidJWKError
from contentcache.jose.keyset import TrustedKeys, certified_keys, trusted_keys
from contentcache.jose.registry_tokens import (
    InvalidTokenError,
    RegistryTokenClaims,
    VerifiedRegistryToken,
    check_claims,
    verify_registry_token,
)
from contentcache.persist.watched_file import WatchedFiles

_log = Logger()

#: Number of verified tokens in memory.
_MOST_VERIFIED: Final = 10_000
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


class TokenAuthenticator:
    """
    A :class:`contentcache.auth.interfaces.LocalAuthenticator` for bearer tokens.

    :param wall: seconds since the epoch.
    :param secret: at most 64 bytes that nobody else knows.
    :raises AuthFault: the files of keys cannot be used, or no algorithm is left.
    """

    def __init__(self, settings: TokenAuth, *, run: Run, wall: Clock, timer: Timer, secret: bytes) -> None:
        self._settings = settings
        self._wall = wall
        self._secret = secret
        self._algorithms = _algorithms(settings)
        self._verified: LruCache[bytes, VerifiedRegistryToken] = LruCache(_MOST_VERIFIED)
        paths = [path for path in (settings.rootcertbundle, settings.jwks) if path is not None]
        self._keys = WatchedFiles(paths, partial(read_keys, settings), run=run, timer=timer)
        self._verified_with = self._keys.latest

    async def authenticate(
        self, authorization: str | None, scope: Scope | None, base: str, address: str = ""
    ) -> str:
        """
        Authenticate the bearer of a valid token that allows ``scope``.

        :raises Unauthorized: the token is missing, invalid, or does not allow it.
        """
        token = credentials_for("Bearer", authorization)
        if token is None:
            raise Unauthorized("no token is shown", self._challenge(scope, base), scope)
        try:
            claims = self._claims(token, await self._keys.current())
        except InvalidTokenError as error:
            reason = f"the token {error}"
            _log.info("registry token refused", client=address, reason=error)
            raise Unauthorized(reason, self._challenge(scope, base, "invalid_token"), scope) from None
        if scope is not None and not _allows(claims, scope):
            reason = f"the token does not allow {scope}"
            raise Unauthorized(reason, self._challenge(scope, base, "insufficient_scope"), scope)
        return claims.subject

    def allows_cached(self, authorization: str | None, scope: Scope) -> bool:
        """Whether this token was verified with the current keys, and still allows ``scope``."""
        token = credentials_for("Bearer", authorization)
        if token is None or self._keys.at_hand() is not self._verified_with:
            return False
        name = self._name(token)
        verified = self._verified.peek(name)
        if verified is None or self._wall() > verified.key_expires or not _allows(verified.claims, scope):
            return False
        try:
            self._check(verified.claims)
        except InvalidTokenError:
            return False
        self._verified.touch(name)
        return True

    def _claims(self, token: str, keys: TrustedKeys) -> RegistryTokenClaims:
        """The claims of a valid token, from the cache or verified now."""
        if keys is not self._verified_with:
            self._verified.clear()
            self._verified_with = keys
        name = self._name(token)
        verified = self._verified.get(name)
        if verified is None or self._wall() > verified.key_expires:
            verified = verify_registry_token(token, keys, algorithms=self._algorithms, now=self._wall())
        self._check(verified.claims)
        self._verified.put(name, verified)
        return verified.claims

    def _name(self, token: str) -> bytes:
        encoded = token.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(encoded, key=self._secret, digest_size=32).digest()

    def _check(self, claims: RegistryTokenClaims) -> None:
        settings = self._settings
        check_claims(claims, issuer=settings.issuer, service=settings.service, now=self._wall())

    def _challenge(self, scope: Scope | None, base: str, error: str | None = None) -> str:
        """The value of ``WWW-Authenticate``: where to get a token, and for what (RFC 6750 §3)."""
        settings = self._settings
        parameters = {
            "realm": f"{base}/{settings.autoredirectpath.lstrip('/')}"
            if settings.autoredirect
            else settings.realm,
            "service": settings.service,
        }
        if scope is not None:
            parameters["scope"] = str(scope)
        if error is not None:
            parameters["error"] = error
        return "Bearer " + ",".join(f"{name}={quoted(value)}" for name, value in parameters.items())


def _algorithms(settings: TokenAuth) -> frozenset[str]:
    """The algorithms that are allowed. The registry has ``HS256`` and its kind too, but no key for them."""
    if not settings.signingalgorithms:
        return ALGORITHMS
    allowed = ALGORITHMS.intersection(settings.signingalgorithms)
    if not allowed:
        known = ", ".join(sorted(ALGORITHMS))
        raise AuthFault("auth.token.signingalgorithms", f"auth.token.signingalgorithms: use some of {known}")
    return allowed


def _allows(claims: RegistryTokenClaims, scope: Scope) -> bool:
    return claims.allows(scope.type, scope.name, scope.action)


def read_keys(settings: TokenAuth) -> TrustedKeys:
    """
    Read the files that the settings name.

    :raises AuthFault: one of them cannot be used, or there is no key in them.
    """
    roots = () if settings.rootcertbundle is None else _read_bundle(settings.rootcertbundle)
    keys = certified_keys(roots)
    if settings.jwks is not None:
        try:
            keys |= trusted_keys(read_file(settings.jwks))
        except InvalidJWKError as error:
            raise AuthFault(settings.jwks, f"{settings.jwks} cannot be used: {error}") from None
    if not keys:
        where = settings.rootcertbundle or settings.jwks or "auth.token"
        raise AuthFault(where, f"{where} holds no key that tokens are signed with; use RSA, ECDSA or Ed25519")
    return TrustedKeys(keys, roots)


def _read_bundle(path: str) -> tuple[Certificate, ...]:
    content = read_file(path)
    if _PEM not in content:
        raise AuthFault(path, f"{path} holds no certificate in PEM form")
    try:
        return tuple(load_pem_x509_certificates(content))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AuthFault(path, f"{path} holds a certificate that is malformed: {error}") from error
