"""
Grants: what the origin has lately allowed.

Rules (all times are monotonic seconds, given by the caller):

* a grant is as old as the origin's last *allowed*, and is valid for ``ttl`` seconds;
* it never outlives the bearer token that it came from (``exp``);
* with ``stale`` the grant of a lasting credential is kept longer, to be used only while the origin is down
  (stale-if-error, RFC 5861 §4);
* allowed and denied are ordered by when the question was asked, not by when the answer arrived: an *allowed*
  answer never revives a grant that a later question has ended, and a *denied* answer to an earlier question
  does not end it;
* at most ``capacity`` are in memory, those that were used last.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from attrs import frozen

from contentcache.core.lru import LruCache
from contentcache.core.request_order import LatestRequests

_INFINITE: Final = float("inf")


@frozen
class _Grant:
    since: float
    ends: float  # with the token, if not before
    asked: float
    identity: bytes | None


class Grants:
    """A bounded table of grants under keyed hashes of credentials (:meth:`Credential.key`)."""

    def __init__(self, *, ttl: float, stale: float = 0.0, capacity: int = 100_000) -> None:
        self._ttl = ttl
        self._longest = max(ttl, stale)
        self._grants: LruCache[bytes, _Grant] = LruCache(capacity, self._evicted)
        self._of_identity: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self._denials = LatestRequests(capacity)

    def configure(self, *, ttl: float, stale: float, capacity: int) -> None:
        """Use other options from now on, for grants that are there too."""
        self._ttl = ttl
        self._longest = max(ttl, stale)
        self._grants.resize(capacity)
        self._denials.resize(capacity)

    def __len__(self) -> int:
        return len(self._grants)

    def add(
        self,
        key: bytes,
        now: float,
        *,
        ends: float | None = None,
        asked: float | None = None,
        identity: bytes | None = None,
    ) -> None:
        """
        The origin's *allowed* answer came at ``now``, to a credential that ends at ``ends``.

        ``asked`` is when it was asked (``now``, if not given), ``identity`` the key of the credential at its
        origin, for :meth:`revoke_identity`.
        """
        asked = now if asked is None else asked
        if self._longest <= 0 or asked < self.last_denial(key, identity):
            return
        before = self._grants.peek(key)
        self._remove(key)
        latest = asked if before is None else max(asked, before.asked)
        if identity is not None:
            self._of_identity[identity].add(key)
        self._grants.put(key, _Grant(now, _INFINITE if ends is None else ends, latest, identity))

    def is_valid(self, key: bytes, now: float) -> bool:
        """Whether there is a grant that is not older than ``ttl``."""
        return self._age(key, now) < self._ttl

    def is_valid_if_error(self, key: bytes, now: float) -> bool:
        """Whether there is a grant that counts while the origin is down."""
        return self._age(key, now) < self._longest

    def revoke(self, key: bytes, asked: float | None = None) -> None:
        """The origin has denied a question that was asked at ``asked`` (after all others, if not given)."""
        if asked is not None:
            self._denials.record(key, asked)
        self._end(key, asked)

    def revoke_identity(self, identity: bytes, asked: float) -> None:
        """The origin does not accept a credential: end all its grants there."""
        self._denials.record(identity, asked)
        for key in tuple(self._of_identity.get(identity, ())):
            self._end(key, asked)

    def last_denial(self, key: bytes, identity: bytes | None = None) -> float:
        """When the last question was asked that was denied, of this grant or of the whole credential."""
        return self._denials.last(key) if identity is None else self._denials.last(key, identity)

    def _age(self, key: bytes, now: float) -> float:
        """The age of a grant in seconds, infinite where there is none that counts."""
        grant = self._grants.peek(key)
        if grant is None:
            return _INFINITE
        age = now - grant.since
        if now >= grant.ends or age >= self._longest:
            self._remove(key)
            return _INFINITE
        self._grants.touch(key)
        return age

    def _end(self, key: bytes, asked: float | None) -> None:
        grant = self._grants.peek(key)
        if grant is not None and (asked is None or grant.asked <= asked):
            self._remove(key)

    def _remove(self, key: bytes) -> None:
        grant = self._grants.remove(key)
        if grant is not None:
            self._evicted(key, grant)

    def _evicted(self, key: bytes, grant: _Grant) -> None:
        if grant.identity is None:
            return
        keys = self._of_identity[grant.identity]
        keys.discard(key)
        if not keys:
            del self._of_identity[grant.identity]
