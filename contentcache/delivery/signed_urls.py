"""
Signed URLs: verified blob tokens, and the cache of them.

A verified token is cached under a keyed hash until it expires, so that a client that asks for many ranges of
a layer costs one verification. Its key must still be in the origin's set each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from contentcache.core.errors import CacheError, SignatureRefused
from contentcache.core.lru import LruCache
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.delivery.signing_keys import NoKeys, Published, SigningKeys
from contentcache.jose.blob_tokens import (
    LEEWAY,
    UnverifiedBlobToken,
    VerifiedBlobToken,
    parse_blob_token,
    verify_blob_token,
)
from contentcache.jose.keyset import BlobTokenAlgorithm, VerificationKey
from contentcache.upstream.registry import Registry

_MOST_CACHED: Final = 10_000


@frozen
class CachedToken:
    """
    A verified token without its text. ``issuer`` is its ``iss`` as it is written.

    ``verified_at`` is by the wall clock: one that steps back later must not make the token valid for longer.
    """

    kid: str
    algorithm: BlobTokenAlgorithm
    issuer: str
    signed: VerifiedBlobToken
    key: VerificationKey
    verified_at: float


class SignedUrls:
    """
    Verifies the tokens of signed URLs.

    :param keys: those of each origin, by its URL.
    :param secret: at most 64 random bytes.
    """

    def __init__(self, keys: Mapping[str, SigningKeys], *, wall: Clock, secret: bytes) -> None:
        self._keys = keys
        self._wall = wall
        self._secret = secret
        self._cached: LruCache[bytes, CachedToken] = LruCache(_MOST_CACHED)

    def parse(self, token: str) -> UnverifiedBlobToken:
        """
        Parse a token without verifying it.

        :raises SignatureRefused: it is malformed.
        """
        cached = self.cached(token)
        if cached is None:
            return parse_blob_token(token)
        return UnverifiedBlobToken(token, cached.kid, cached.algorithm, cached.issuer)

    def cached(self, token: str) -> CachedToken | None:
        """The cached token for :meth:`allows`, if it was verified before."""
        name = self._name(token)
        cached = self._cached.peek(name)
        if cached is not None:
            self._cached.touch(name)
        return cached

    def allows(self, cached: CachedToken, registry: Registry, content: Content) -> bool:
        """Whether :meth:`verify` would accept a cached token without fetching keys or verifying anything."""
        upstream = registry.upstream
        keys = self._keys.get(upstream.origin)
        key = keys.find_cached(cached.kid) if keys is not None else None
        if key is None or upstream.issuer is None:
            return False
        return self._is_valid(cached, key, upstream.issuer, content, self._wall())

    async def verify(
        self, presented: UnverifiedBlobToken, registry: Registry, content: Content
    ) -> VerifiedBlobToken:
        """
        Verify a token for one blob of one repository of one origin.

        :raises SignatureRefused: it does not allow this.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: the origin's keys cannot be fetched.
        """
        upstream = registry.upstream
        keys = self._keys.get(upstream.origin)
        if keys is None or upstream.issuer is None:
            raise SignatureRefused("no issuer of signed URLs is configured for this origin (signing.issuer)")
        key = await keys.find(presented.kid)
        name = self._name(presented.text)
        cached = self._cached.peek(name)
        now = self._wall()
        if cached is not None and self._is_valid(cached, key, upstream.issuer, content, now):
            return cached.signed
        signed = verify_blob_token(
            presented,
            key,
            issuer=upstream.issuer,
            repository=content.repository,
            digest=content.digest,
            now=now,
        )
        verified = CachedToken(presented.kid, presented.algorithm, presented.issuer, signed, key, now)
        self._cached.put(name, verified)
        return signed

    async def published(self, registry: Registry, via: str = "", *, no_cache: bool = False) -> Published:
        """
        The JWK set of an origin, for the next cache; ``no_cache`` for one that misses a key.

        :raises CacheError: there is none, or it cannot be fetched.
        """
        keys = self._keys.get(registry.upstream.origin)
        if keys is None:
            raise NoKeysHere("this cache has no JWK set of that origin")
        try:
            return await keys.published(via=via, no_cache=no_cache)
        except NoKeys as none:
            raise NoKeysHere(none.message) from None

    def _is_valid(
        self, cached: CachedToken, key: VerificationKey, issuer: str, content: Content, now: float
    ) -> bool:
        signed = cached.signed
        return (
            (cached.key is key or cached.key == key)
            and signed.issuer == issuer
            and (signed.repository, signed.digest) == (content.repository, content.digest)
            and cached.verified_at <= now < signed.expires + LEEWAY
        )

    def _name(self, token: str) -> bytes:
        return hashlib.blake2b(
            token.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=32
        ).digest()


class NoKeysHere(CacheError):
    """There is no JWK set to publish."""

    code = "UNSUPPORTED"
    status = 404
