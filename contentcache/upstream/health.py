"""The health of the hosts of one origin, as operators see it; which host is asked, the pool decides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import evolve

from contentcache.core.host_health import HostHealth
from contentcache.core.ports import Clock, Timer
from contentcache.upstream.circuit_breaker import CircuitBreaker
from contentcache.upstream.pool import UpstreamPool

#: Seconds between two probes of unhealthy hosts.
PROBE_INTERVAL: Final = 30.0


class UpstreamHealth:
    """A host that failed is unhealthy until it answers again."""

    def __init__(
        self, hosts: Iterable[str], pool: UpstreamPool, circuits: CircuitBreaker, timer: Timer, wall: Clock
    ) -> None:
        self._pool = pool
        self._circuits = circuits
        self._timer = timer
        self._wall = wall
        self._probe_at = timer.seconds() + PROBE_INTERVAL
        self._known = {host: HostHealth(host, wall()) for host in hosts}

    def failed(self, host: str, reason: str) -> bool:
        """``host`` has failed, as the pool knows; returns whether that says something new of it."""
        before = self._known[host]
        if not (before.healthy and self._pool.has_answered_since_failure(host)):
            self._known[host] = before.failed(reason, self._wall())
        return before.healthy or before.reason != reason

    def failed_again(self, host: str, reason: str) -> None:
        """A request to ``host`` has failed by what makes no host unhealthy: if it is already, that is why now."""
        known = self._known[host]
        if not known.healthy:
            self._known[host] = known.failed(reason, self._wall())

    def answered(self, host: str, asked: float) -> None:
        """``host`` has answered what it was asked at ``asked`` (monotonic seconds)."""
        round_trip = self._timer.seconds() - asked
        self._known[host] = self._known[host].answered(self._wall(), round_trip)

    def hosts(self) -> Sequence[HostHealth]:
        """What is known of every host."""
        return [self.host(host) for host in self._known]

    def host(self, host: str) -> HostHealth:
        """What is known of a host."""
        known, now = self._known[host], self._timer.seconds()
        if known.healthy:
            return known
        until = self._pool.ejected_until(host, now)
        return evolve(known, next_try=self._wall() + (self._probe_at if until is None else until) - now)

    def probe_unhealthy(self) -> None:
        """
        Probe the unhealthy hosts that are not ejected any more: whoever is asked by nobody would be unhealthy for
        ever. To be called every :data:`PROBE_INTERVAL` seconds.
        """
        now = self._timer.seconds()
        self._probe_at = now + PROBE_INTERVAL
        for host, known in self._known.items():
            if not known.healthy and self._pool.ejected_until(host, now) is None:
                self._circuits.probe(host, "blobs")
