"""
Registry tokens, judged here as the registry judges them (section ``auth.token``).

Rules:

* a token is a JWT of ``issuer`` for ``service``, and ends; the registry's minute of leeway holds;
* the key is found as in the registry: by the header's ``x5c``, else by its ``jwk``, else by ``kid``. A key
  that comes with the token counts only if a certificate of ``rootcertbundle`` vouches for it, or it is one
  of the known keys;
* the algorithm is one that the operator allows, and one for this kind of key;
* a need is met by an entry of ``access`` of the same type and name with that action, or ``*``;
* a good token is remembered, under a keyed hash, until it or the keys change: a pull costs one signature.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import partial
from typing import Final, cast

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from twisted.logger import Logger

from contentcache.auth.chains import ChainRefused, follow
from contentcache.auth.claims import Claims, Presented, TokenRefused, read_claims, take_apart
from contentcache.auth.interfaces import AuthFault, Identity, Need, Unauthorized, credentials, quoted
from contentcache.auth.keys import TrustedKey, TrustedKeys, encode, public_key, read_keys
from contentcache.auth.signatures import ALGORITHMS, fits
from contentcache.auth.watching import Watched
from contentcache.config.model import TokenAuth
from contentcache.core.ports import Clock, Run, Timer

_log = Logger()

#: Seconds by which the token server's clock and ours may differ, either way.
LEEWAY: Final = 60
MOST_REMEMBERED: Final = 10_000

_FOREVER: Final = float("inf")
#: Members of JWKs that nobody should see (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
_SECRET: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@frozen
class _Good:
    """
    A token that was verified: its claims, and when the certificates that vouch for its key end.
    """

    claims: Claims
    vouched: float


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
        self._good: OrderedDict[bytes, _Good] = OrderedDict()
        paths = [path for path in (settings.rootcertbundle, settings.jwks) if path is not None]
        self._keys = Watched(paths, partial(read_keys, settings), run=run, timer=timer)
        self._good_under = self._keys.latest

    async def admit(
        self,
        authorization: str | None,
        need: Need | None,
        base: str,
        address: str = "",  # noqa: ARG002  # a signature takes a moment, whoever has it checked
    ) -> Identity:
        """
        Let in whoever shows a good token that allows what is needed.

        :raises Unauthorized: nobody else.
        """
        token = credentials(authorization, "Bearer")
        if token is None:
            raise Unauthorized("no token is shown", self._challenge(need, base), need)
        try:
            claims = self._verified(token, await self._keys.current())
        except TokenRefused as refused:
            reason = f"the token {refused}"
            _log.info("refused: {reason}", reason=reason)
            raise Unauthorized(reason, self._challenge(need, base, "invalid_token"), need) from None
        if need is not None and not _meets(claims, need):
            reason = f"the token does not allow {need.scope}"
            raise Unauthorized(reason, self._challenge(need, base, "insufficient_scope"), need)
        return Identity(claims.subject)

    def remembers(self, authorization: str | None, need: Need) -> bool:
        """
        Whether this token was verified under the keys of now, and still allows what is needed.
        """
        token = credentials(authorization, "Bearer")
        if token is None or self._keys.at_hand() is not self._good_under:
            return False
        name = self._name(token)
        good = self._good.get(name)
        if good is None or self._wall() > good.vouched or not _meets(good.claims, need):
            return False
        try:
            self._check(good.claims)
        except TokenRefused:
            return False
        self._good.move_to_end(name)
        return True

    def _verified(self, token: str, keys: TrustedKeys) -> Claims:
        """
        The claims of a good token, from memory or verified anew.
        """
        if keys is not self._good_under:
            self._good.clear()
            self._good_under = keys
        name = self._name(token)
        good = self._good.get(name)
        if good is None or self._wall() > good.vouched:
            good = self._verify(take_apart(token), keys)
        self._check(good.claims)
        self._good[name] = good
        self._good.move_to_end(name)
        while len(self._good) > MOST_REMEMBERED:
            self._good.popitem(last=False)
        return good.claims

    def _name(self, token: str) -> bytes:
        encoded = token.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(encoded, key=self._secret, digest_size=32).digest()

    def _verify(self, presented: Presented, keys: TrustedKeys) -> _Good:
        """
        Find the key, and try the signature.
        """
        algorithm = presented.algorithm
        if algorithm not in self._algorithms:
            raise TokenRefused("is signed with an algorithm that is not allowed here")
        try:
            key, vouched = _find(presented, keys, self._wall())
        except ChainRefused as refused:
            raise TokenRefused(str(refused)) from None
        if key.algorithm not in (None, algorithm):
            raise TokenRefused("is signed with another algorithm than its key is for")
        if not fits(algorithm, key.public, presented.signed, presented.signature):
            raise TokenRefused("has a wrong signature")
        return _Good(read_claims(presented.payload), vouched)

    def _check(self, claims: Claims) -> None:
        """
        Whether the claims are for us, and for now.
        """
        now = self._wall()
        if claims.issuer != self._settings.issuer:
            raise TokenRefused("is of another issuer")
        if self._settings.service not in claims.audience:
            raise TokenRefused("is for another service")
        if now > claims.expires + LEEWAY:
            raise TokenRefused("has expired")
        if now < claims.not_before - LEEWAY:
            raise TokenRefused("is not valid yet")

    def _challenge(self, need: Need | None, base: str, error: str | None = None) -> str:
        """
        Where a token is to be had, and for what (RFC 6750 §3).
        """
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
    """
    Those that are allowed. The registry knows ``HS256`` and its kind too, and has no key that fits them.
    """
    if not settings.signingalgorithms:
        return ALGORITHMS
    allowed = ALGORITHMS.intersection(settings.signingalgorithms)
    if not allowed:
        known = ", ".join(sorted(ALGORITHMS))
        raise AuthFault("auth.token.signingalgorithms", f"auth.token.signingalgorithms: use some of {known}")
    return allowed


def _find(presented: Presented, keys: TrustedKeys, now: float) -> tuple[TrustedKey, float]:
    """
    The key that a token is signed with, and until when it is vouched for.
    """
    header = presented.header
    if header.get("x5c") not in (None, []):
        chained = follow(header["x5c"], keys.roots, now)
        return TrustedKey(chained.public), chained.ends
    if header.get("jwk") is not None:
        return _embedded(header["jwk"], keys, now)
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise TokenRefused("does not name its key")
    known = keys.by_name.get(kid)
    if known is None:
        raise TokenRefused("is signed with a key that is not trusted")
    return known, _FOREVER


def _embedded(jwk: object, keys: TrustedKeys, now: float) -> tuple[TrustedKey, float]:
    """
    A key that comes with the token, if it is one of ours or a chain inside it leads to one of ours.
    """
    if not isinstance(jwk, dict) or _SECRET & jwk.keys():
        raise TokenRefused("has a 'jwk' that is no public key")
    members = cast("dict[str, object]", jwk)
    try:
        public = public_key(members)
    except (ValueError, UnsupportedAlgorithm):
        raise TokenRefused("has a 'jwk' that is no public key") from None
    if members.get("x5c") not in (None, []):
        chained = follow(members["x5c"], keys.roots, now)
        if encode(chained.public) != encode(public):
            raise TokenRefused("has a 'jwk' whose certificate is another key's")
        return TrustedKey(public), chained.ends
    known = keys.same(public)
    if known is None:
        raise TokenRefused("is signed with a key that is not trusted")
    return known, _FOREVER


def _meets(claims: Claims, need: Need) -> bool:
    return any((need.type, need.name, action) in claims.access for action in (need.action, "*"))
