"""
Local authorization with registry tokens (section ``auth.token``).

Rules, besides those of :mod:`contentcache.jose.registry_tokens`:

* a token is from ``issuer`` for ``service``;
* a need is met by an entry of ``access`` of the same type and name with that action, or ``*``;
* a verified token is cached under a keyed hash, until it expires or the keys change: a pull costs one
  verification.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Final

from twisted.logger import Logger

from contentcache.auth.interfaces import AuthFault, Identity, Need, Unauthorized, quoted
from contentcache.auth.keys import read_keys
from contentcache.config.model import TokenAuth
from contentcache.core.http_auth import credentials_for
from contentcache.core.lru import LruCache
from contentcache.core.ports import Clock, Run, Timer
from contentcache.jose.jwa import ALGORITHMS
from contentcache.jose.keyset import TrustedKeys
from contentcache.jose.registry_tokens import (
    InvalidTokenError,
    RegistryTokenClaims,
    VerifiedRegistryToken,
    check_claims,
    verify_registry_token,
)
from contentcache.persist.watched_file import WatchedFiles

_log = Logger()

MOST_REMEMBERED: Final = 10_000


class TokenJudge:
    """
    A :class:`contentcache.auth.interfaces.Judge` of bearer tokens.

    :param wall: seconds since the epoch.
    :param secret: at most 64 bytes that nobody else knows.
    :raises AuthFault: the files of keys cannot be used, or no algorithm is left.
    """

    def __init__(self, settings: TokenAuth, *, run: Run, wall: Clock, timer: Timer, secret: bytes) -> None:
        self._settings = settings
        self._wall = wall
        self._secret = secret
        self._algorithms = _algorithms(settings)
        self._good: LruCache[bytes, VerifiedRegistryToken] = LruCache(MOST_REMEMBERED)
        paths = [path for path in (settings.rootcertbundle, settings.jwks) if path is not None]
        self._keys = WatchedFiles(paths, partial(read_keys, settings), run=run, timer=timer)
        self._good_under = self._keys.latest

    async def admit(
        self,
        authorization: str | None,
        need: Need | None,
        base: str,
        address: str = "",
    ) -> Identity:
        """
        Authenticate the bearer of a valid token that allows what is needed.

        :raises Unauthorized: the token is missing, invalid, or does not allow it.
        """
        token = credentials_for("Bearer", authorization)
        if token is None:
            raise Unauthorized("no token is shown", self._challenge(need, base), need)
        try:
            claims = self._verified(token, await self._keys.current())
        except InvalidTokenError as error:
            reason = f"the token {error}"
            _log.info(
                'registry token refused client={client} reason="{reason}"', client=address, reason=str(error)
            )
            raise Unauthorized(reason, self._challenge(need, base, "invalid_token"), need) from None
        if need is not None and not _allows(claims, need):
            reason = f"the token does not allow {need.scope}"
            raise Unauthorized(reason, self._challenge(need, base, "insufficient_scope"), need)
        return Identity(claims.subject)

    def remembers(self, authorization: str | None, need: Need) -> bool:
        """Whether this token was verified with the current keys, and still allows what is needed."""
        token = credentials_for("Bearer", authorization)
        if token is None or self._keys.at_hand() is not self._good_under:
            return False
        name = self._name(token)
        good = self._good.peek(name)
        if good is None or self._wall() > good.key_expires or not _allows(good.claims, need):
            return False
        try:
            self._check(good.claims)
        except InvalidTokenError:
            return False
        self._good.touch(name)
        return True

    def _verified(self, token: str, keys: TrustedKeys) -> RegistryTokenClaims:
        """The claims of a valid token, from the cache or verified now."""
        if keys is not self._good_under:
            self._good.clear()
            self._good_under = keys
        name = self._name(token)
        good = self._good.get(name)
        if good is None or self._wall() > good.key_expires:
            good = verify_registry_token(token, keys, algorithms=self._algorithms, now=self._wall())
        self._check(good.claims)
        self._good.put(name, good)
        return good.claims

    def _name(self, token: str) -> bytes:
        encoded = token.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(encoded, key=self._secret, digest_size=32).digest()

    def _check(self, claims: RegistryTokenClaims) -> None:
        settings = self._settings
        check_claims(claims, issuer=settings.issuer, service=settings.service, now=self._wall())

    def _challenge(self, need: Need | None, base: str, error: str | None = None) -> str:
        """The value of ``WWW-Authenticate``: where to get a token, and for what (RFC 6750 §3)."""
        settings = self._settings
        parameters = {
            "realm": f"{base}/{settings.autoredirectpath.lstrip('/')}"
            if settings.autoredirect
            else settings.realm,
            "service": settings.service,
        }
        if need is not None:
            parameters["scope"] = need.scope
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


def _allows(claims: RegistryTokenClaims, need: Need) -> bool:
    return claims.allows(need.type, need.name, need.action)
