"""
The hosts of one origin: round robin, health, and the circuits to them.

Health is counted for each kind of request (manifests, blobs, tags, …): a host that is slow to list tags still
delivers blobs.
"""

from __future__ import annotations

from collections.abc import Sequence

from contentcache.core.round_robin import RoundRobin
from contentcache.upstream.circuit_breaker import CircuitBreaker


class UpstreamPool:
    """``hosts`` are asked in turn, ``fallback`` last. Times are monotonic seconds."""

    def __init__(self, hosts: Sequence[str], fallback: str | None, circuits: CircuitBreaker) -> None:
        self._hosts = hosts
        self._fallback = fallback
        self._all = hosts if fallback is None or fallback in hosts else (*hosts, fallback)
        self._by_kind: dict[str, RoundRobin[str]] = {}
        self._circuits = circuits
        #: Number of answers and failures so far: says what came after what.
        self.events = 0
        self._failed_at: dict[str, int] = {}
        self._answered_at: dict[tuple[str, str], int] = {}

    def order(self, kind: str, now: float) -> Sequence[str]:
        """
        The hosts to ask in their order, for a request of this kind.

        An unhealthy one whose time is up is probed meanwhile if another one is asked first.
        """
        hosts, circuits = self._for(kind), self._circuits
        waiting = [host for host in self._all if circuits.is_open(host, kind)]
        order = hosts.order(now, waiting)
        for host in waiting:
            if host != order[0] and not hosts.is_ejected(host, now):
                circuits.probe(host, kind)
        # Of two that are healthy for this kind, one that does not answer another kind is asked last.
        healthy = [host for host in order if host not in waiting and not hosts.is_ejected(host, now)]
        healthy.sort(key=circuits.is_suspect)
        return (*healthy, *(host for host in order if host not in healthy))

    def is_ejected(self, host: str, kind: str, now: float) -> bool:
        """Whether ``host`` failed a request of this kind so recently that others are asked first."""
        return self._for(kind).is_ejected(host, now)

    def failed(self, host: str, kind: str, now: float, began: int | None = None) -> float:
        """
        A request of this kind, sent after event number ``began``, failed: eject ``host`` for it; returns for
        how many seconds.
        """
        self.events += 1
        self._failed_at[host] = self.events if began is None else began
        return self._for(kind).failed(host, now)

    def answered(self, host: str, kind: str) -> None:
        """``host`` has answered a request of this kind."""
        self.events += 1
        self._answered_at[host, kind] = self.events
        self._for(kind).answered(host)

    def has_answered(self, host: str, kind: str, since: int) -> bool:
        """Whether ``host`` has answered a request of this kind after event number ``since``."""
        return self._answered_at.get((host, kind), -1) > since

    def has_answered_since_failure(self, host: str) -> bool:
        """Whether ``host`` has answered some kind of request since the last one that failed was sent."""
        failed_at = self._failed_at.get(host, -1)
        return any(each[0] == host and when > failed_at for each, when in self._answered_at.items())

    def ejected_until(self, host: str, now: float) -> float | None:
        """Until when others are asked before ``host`` for some kind of request, if they are."""
        ends = (hosts.ejected_until(host, now) for hosts in self._by_kind.values())
        return max((end for end in ends if end is not None), default=None)

    def _for(self, kind: str) -> RoundRobin[str]:
        if kind not in self._by_kind:
            self._by_kind[kind] = RoundRobin(self._hosts, self._fallback)
        return self._by_kind[kind]
