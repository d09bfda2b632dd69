"""
The hosts of one origin: whose turn it is, which are healthy, and the circuits to them.

Health is kept for each kind of request (manifests, blobs, tags, …): a host that is slow to list tags goes on
to deliver blobs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from contentcache.core.errors import CacheError
from contentcache.core.rotation import Rotation
from contentcache.upstream.circuit_breaker import CircuitBreaker


class UpstreamPool:
    """
    ``hosts`` take turns, ``fallback`` comes last. ``probe`` and ``failed`` are those of
    :class:`contentcache.upstream.circuit_breaker.CircuitBreaker`; times are monotonic seconds.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        fallback: str | None,
        *,
        probe: Callable[[str], Awaitable[None]],
        failed: Callable[[str, str, CacheError], None],
    ) -> None:
        self._hosts = hosts
        self._fallback = None if fallback in hosts else fallback
        self._rotations: dict[str, Rotation[str]] = {}
        self.circuits = CircuitBreaker(probe, failed)
        #: Number of answers and failures so far: says what came after what.
        self.events = 0
        self._failed_at: dict[str, int] = {}
        self._answered_at: dict[tuple[str, str], int] = {}

    def order(self, kind: str, now: float) -> Sequence[str]:
        """
        The hosts to ask in their order, for a request of this kind.

        An unhealthy one whose time is up is probed meanwhile if another one goes first.
        """
        rotation, circuits = self._rotation(kind), self.circuits
        everybody = self._everybody()
        waiting = [host for host in everybody if circuits.is_open(host, kind)]
        order = rotation.order(now, waiting)
        for host in waiting:
            if host != order[0] and not rotation.is_set_back(host, now):
                circuits.probe(host, kind)
        # Of two that are healthy for this kind, one that does not answer another kind goes last.
        healthy = [host for host in order if host not in waiting and not rotation.is_set_back(host, now)]
        healthy.sort(key=circuits.is_suspect)
        return (*healthy, *(host for host in order if host not in healthy))

    def is_ejected(self, host: str, kind: str, now: float) -> bool:
        """Whether ``host`` failed a request of this kind so recently that others go first."""
        return self._rotation(kind).is_set_back(host, now)

    def failed(self, host: str, kind: str, now: float, began: int | None = None) -> float:
        """
        A request of this kind, sent after event number ``began``, failed: eject ``host`` for it; answers for
        how many seconds.
        """
        self.events += 1
        self._failed_at[host] = self.events if began is None else began
        return self._rotation(kind).failed(host, now)

    def answered(self, host: str, kind: str) -> None:
        """``host`` has answered a request of this kind well."""
        self.events += 1
        self._answered_at[host, kind] = self.events
        self._rotation(kind).answered(host)

    def has_answered(self, host: str, kind: str, since: int) -> bool:
        """Whether ``host`` has answered a request of this kind after event number ``since``."""
        return self._answered_at.get((host, kind), -1) > since

    def standing(self, now: float) -> Sequence[tuple[str, bool]]:
        """Every host, and whether it is healthy: one that answers some kind of request is."""
        return [(host, self._is_healthy(host, now)) for host in self._everybody()]

    def _is_healthy(self, host: str, now: float) -> bool:
        failed_at = self._failed_at.get(host, -1)
        if any(each[0] == host and when > failed_at for each, when in self._answered_at.items()):
            return True
        ejected = any(rotation.is_set_back(host, now) for rotation in self._rotations.values())
        return not (ejected or self.circuits.is_suspect(host))

    def _everybody(self) -> Sequence[str]:
        return self._hosts if self._fallback is None else (*self._hosts, self._fallback)

    def _rotation(self, kind: str) -> Rotation[str]:
        if kind not in self._rotations:
            self._rotations[kind] = Rotation(self._hosts, self._fallback)
        return self._rotations[kind]
