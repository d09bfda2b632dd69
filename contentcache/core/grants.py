"""
Who has lately been told yes by the origin.

Rules (all times are monotonic seconds, given by the caller):

* a grant is as old as the origin's last yes, and is good for ``ttl`` seconds;
* it never outlives the token that it was given to;
* with ``stale`` the grant of a lasting identity is kept longer, to be used only while the origin is away;
* at most ``capacity`` are kept, those that were used last.
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import frozen


@frozen
class _Grant:
    given: float
    ends: float  # with the token, if not before


class Grants:
    """
    A bounded table of grants under keys that say nothing (:meth:`Credential.key`).
    """

    def __init__(self, *, ttl: float, stale: float = 0.0, capacity: int = 100_000) -> None:
        self._ttl = ttl
        self._stale = stale
        self._capacity = capacity
        self._grants: OrderedDict[bytes, _Grant] = OrderedDict()

    def __len__(self) -> int:
        return len(self._grants)

    def give(self, key: bytes, now: float, *, ends: float | None = None) -> None:
        """
        The origin said yes at ``now`` to a credential that ends at ``ends``.
        """
        if max(self._ttl, self._stale) <= 0:
            return
        self._grants[key] = _Grant(now, float("inf") if ends is None else ends)
        self._grants.move_to_end(key)
        while len(self._grants) > self._capacity:
            self._grants.popitem(last=False)

    def holds(self, key: bytes, now: float) -> bool:
        """
        Whether a yes is remembered that is not older than ``ttl``.
        """
        return self._within(key, now, self._ttl)

    def held(self, key: bytes, now: float) -> bool:
        """
        Whether a yes is remembered that may serve while the origin is away.
        """
        return self._within(key, now, max(self._ttl, self._stale))

    def revoke(self, key: bytes) -> None:
        """
        The origin has said no.
        """
        self._grants.pop(key, None)

    def _within(self, key: bytes, now: float, bound: float) -> bool:
        grant = self._grants.get(key)
        if grant is None:
            return False
        if now >= grant.ends or now - grant.given >= max(self._ttl, self._stale):
            del self._grants[key]
            return False
        self._grants.move_to_end(key)
        return now - grant.given < bound
