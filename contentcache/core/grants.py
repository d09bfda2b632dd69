"""
Who has lately been told yes by the origin.

Rules (all times are monotonic seconds, given by the caller):

* a grant is as old as the origin's last yes, and is good for ``ttl`` seconds;
* it never outlives the token that it was given to;
* with ``stale`` the grant of a lasting identity is kept longer, to be used only while the origin is away;
* allowed and denied are ordered by when the question was asked, not by when the answer arrived: an *allowed*
  answer never revives a grant that a later question has ended, and a *denied* answer to an earlier question
  does not end it;
* at most ``capacity`` are kept, those that were used last.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict

from attrs import frozen

from contentcache.core.question_order import LatestQuestions


@frozen
class _Grant:
    given: float
    ends: float  # with the token, if not before
    asked: float
    identity: bytes | None


class Grants:
    """A bounded table of grants under keys that say nothing (:meth:`Credential.key`)."""

    def __init__(self, *, ttl: float, stale: float = 0.0, capacity: int = 100_000) -> None:
        self._ttl = ttl
        self._stale = stale
        self._capacity = capacity
        self._grants: OrderedDict[bytes, _Grant] = OrderedDict()
        self._of_identity: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self._denials = LatestQuestions(capacity)

    def __len__(self) -> int:
        return len(self._grants)

    def give(
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
        if max(self._ttl, self._stale) <= 0 or asked < self.last_denial(key, identity):
            return
        before = self._grants.get(key)
        self._drop(key)
        latest = asked if before is None else max(asked, before.asked)
        self._grants[key] = _Grant(now, float("inf") if ends is None else ends, latest, identity)
        if identity is not None:
            self._of_identity[identity].add(key)
        while len(self._grants) > self._capacity:
            self._drop(next(iter(self._grants)))

    def holds(self, key: bytes, now: float) -> bool:
        """Whether a yes is remembered that is not older than ``ttl``."""
        return self._within(key, now, self._ttl)

    def held(self, key: bytes, now: float) -> bool:
        """Whether a yes is remembered that may serve while the origin is away."""
        return self._within(key, now, max(self._ttl, self._stale))

    def revoke(self, key: bytes, asked: float | None = None) -> None:
        """The origin has denied a question that was asked at ``asked`` (after all others, if not given)."""
        if asked is not None:
            self._denials.note(key, asked)
        self._end(key, asked)

    def revoke_identity(self, identity: bytes, asked: float) -> None:
        """The origin does not accept a credential: end all its grants there."""
        self._denials.note(identity, asked)
        for key in tuple(self._of_identity.get(identity, ())):
            self._end(key, asked)

    def last_denial(self, key: bytes, identity: bytes | None = None) -> float:
        """When the last question was asked that was denied, of this grant or of the whole credential."""
        return self._denials.last(key) if identity is None else self._denials.last(key, identity)

    def _within(self, key: bytes, now: float, bound: float) -> bool:
        grant = self._grants.get(key)
        if grant is None:
            return False
        if now >= grant.ends or now - grant.given >= max(self._ttl, self._stale):
            self._drop(key)
            return False
        self._grants.move_to_end(key)
        return now - grant.given < bound

    def _end(self, key: bytes, asked: float | None) -> None:
        grant = self._grants.get(key)
        if grant is not None and (asked is None or grant.asked <= asked):
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        grant = self._grants.pop(key, None)
        if grant is None or grant.identity is None:
            return
        keys = self._of_identity[grant.identity]
        keys.discard(key)
        if not keys:
            del self._of_identity[grant.identity]
