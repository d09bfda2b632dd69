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

_MOST_REMEMBERED: Final = 10_000


@frozen
class Remembered:
    """
    A verified token without its text. ``issuer`` is its ``iss`` as it is written.

    ``begins`` is when it was verified: a clock that is set back later must not make it valid for longer.
    """

    kid: str
    algorithm: BlobTokenAlgorithm
    issuer: str
    signed: VerifiedBlobToken
    key: VerificationKey
    begins: float


class Signatures:
    """
    Verifies blob tokens.

    :param keys: those of each origin, by its URL.
    :param secret: at most 64 random bytes.
    """

    def __init__(self, keys: Mapping[str, SigningKeys], *, wall: Clock, secret: bytes) -> None:
        self._keys = keys
        self._wall = wall
        self._secret = secret
        self._good: LruCache[bytes, Remembered] = LruCache(_MOST_REMEMBERED)

    def parse(self, token: str) -> UnverifiedBlobToken:
        """
        Parse a token without verifying it.

        :raises SignatureRefused: it is malformed.
        """
        kept = self.remembered(token)
        if kept is None:
            return parse_blob_token(token)
        return UnverifiedBlobToken(token, kept.kid, kept.algorithm, kept.issuer)

    def remembered(self, token: str) -> Remembered | None:
        """The cached token for :meth:`allows`, if it was verified before."""
        name = self._name(token)
        kept = self._good.peek(name)
        if kept is not None:
            self._good.touch(name)
        return kept

    def allows(self, kept: Remembered, registry: Registry, content: Content) -> bool:
        """Whether :meth:`check` would accept a cached token without fetching keys or verifying anything."""
        upstream = registry.upstream
        keys = self._keys.get(upstream.origin)
        key = keys.at_hand(kept.kid) if keys is not None else None
        if key is None or upstream.issuer is None:
            return False
        return self._is_good(kept, key, upstream.issuer, content, self._wall())

    async def check(
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
        kept = self._good.peek(name)
        now = self._wall()
        if kept is not None and self._is_good(kept, key, upstream.issuer, content, now):
            return kept.signed
        signed = verify_blob_token(
            presented,
            key,
            issuer=upstream.issuer,
            repository=content.repository,
            digest=content.digest,
            now=now,
        )
        remembered = Remembered(presented.kid, presented.algorithm, presented.issuer, signed, key, now)
        self._good.put(name, remembered)
        return signed

    async def published(self, registry: Registry, via: str = "", *, anew: bool = False) -> Published:
        """
        The JWK set of an origin, for the next cache; ``anew`` for one that misses a key.

        :raises CacheError: there is none, or it cannot be fetched.
        """
        keys = self._keys.get(registry.upstream.origin)
        if keys is None:
            raise NoKeysHere("this cache has no JWK set of that origin")
        try:
            return await keys.published(via=via, anew=anew)
        except NoKeys as none:
            raise NoKeysHere(none.message) from None

    def _is_good(
        self, kept: Remembered, key: VerificationKey, issuer: str, content: Content, now: float
    ) -> bool:
        signed = kept.signed
        return (
            (kept.key is key or kept.key == key)
            and signed.issuer == issuer
            and (signed.repository, signed.digest) == (content.repository, content.digest)
            and kept.begins <= now < signed.expires + LEEWAY
        )

    def _name(self, token: str) -> bytes:
        return hashlib.blake2b(
            token.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=32
        ).digest()


class NoKeysHere(CacheError):
    """There is no JWK set to publish."""

    code = "UNSUPPORTED"
    status = 404
