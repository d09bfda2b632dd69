"""
Signed URLs: whether a token lets its bearer have a blob.

What was verified is remembered under a keyed hash until it expires, so that a client that asks for many parts
of a layer costs one signature. The key must still be the origin's each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from contentcache.core.errors import CacheError, SignatureRefused
from contentcache.core.jwks import VerifyingKey
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.core.signing import LEEWAY, Presented, Signed, present, verify
from contentcache.delivery.signing_keys import NoKeys, Published, SigningKeys
from contentcache.upstream.registry import Registry

_MOST_REMEMBERED: Final = 10_000


@frozen
class _Remembered:
    presented: Presented
    signed: Signed
    key: VerifyingKey
    begins: float  # when it was verified: a clock that has been set back since must not make it last longer


class Signatures:
    """
    ``keys`` are those of each origin, by its name; ``secret`` is at most 64 bytes that nobody else knows.
    """

    def __init__(self, keys: Mapping[str, SigningKeys], *, wall: Clock, secret: bytes) -> None:
        self._keys = keys
        self._wall = wall
        self._secret = secret
        self._good: OrderedDict[bytes, _Remembered] = OrderedDict()

    def present(self, token: str) -> Presented:
        """
        Look at a token without believing it.

        :raises SignatureRefused: it is not in the form that signed URLs have.
        """
        kept = self._good.get(self._name(token))
        return present(token) if kept is None else kept.presented

    async def check(self, presented: Presented, registry: Registry, content: Content) -> Signed:
        """
        Verify a token for one blob of one repository of one origin.

        :raises SignatureRefused: it does not allow this.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: the origin's keys cannot be had.
        """
        upstream = registry.upstream
        keys = self._keys.get(upstream.origin)
        if keys is None or upstream.issuer is None:
            raise SignatureRefused("nobody is known to sign URLs for this origin (signing.issuer)")
        key = await keys.find(presented.kid)
        name = self._name(presented.text)
        kept = self._good.get(name)
        now = self._wall()
        if kept is not None and self._is_good(kept, key, upstream.issuer, content, now):
            self._good.move_to_end(name)
            return kept.signed
        signed = verify(
            presented,
            key,
            issuer=upstream.issuer,
            repository=content.repository,
            digest=content.digest,
            now=now,
        )
        self._good[name] = _Remembered(presented, signed, key, now)
        if len(self._good) > _MOST_REMEMBERED:
            self._good.popitem(last=False)
        return signed

    async def published(self, registry: Registry, *, anew: bool = False) -> Published:
        """
        The keys of an origin, for the next cache; ``anew`` for one that misses a key.

        :raises CacheError: there are none, or they cannot be had.
        """
        keys = self._keys.get(registry.upstream.origin)
        if keys is None:
            raise NoKeysHere("this cache knows no keys of that origin")
        try:
            return await keys.published(anew=anew)
        except NoKeys as none:
            raise NoKeysHere(none.message) from None

    def _is_good(
        self, kept: _Remembered, key: VerifyingKey, issuer: str, content: Content, now: float
    ) -> bool:
        signed = kept.signed
        return (
            kept.key == key
            and signed.issuer == issuer
            and (signed.repository, signed.digest) == (content.repository, content.digest)
            and kept.begins <= now < signed.expires + LEEWAY
        )

    def _name(self, token: str) -> bytes:
        return hashlib.blake2b(
            token.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=32
        ).digest()


class NoKeysHere(CacheError):
    """There is no set of keys to hand on."""

    code = "UNSUPPORTED"
    status = 404
