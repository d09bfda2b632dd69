"""
The hosts of one upstream pool: round robin, and which of them are unhealthy.

A host that failed is ejected for a second, doubling to half a minute, until it answers again. It is asked all
the same when no other is left, so that a network link that is back is noticed at once.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Final, Generic, TypeVar

FIRST_BACKOFF: Final = 1.0
LONGEST_BACKOFF: Final = 30.0
_MOST_DOUBLINGS: Final = 10  # a host that is down for a day must not overflow a float

Host = TypeVar("Host", bound=Hashable)


class RoundRobin(Generic[Host]):
    """The order in which hosts are asked. Times are monotonic seconds."""

    def __init__(self, hosts: Sequence[Host], fallback: Host | None = None) -> None:
        self._hosts = list(hosts)
        self._fallback = None if fallback in hosts else fallback
        self._next = 0
        self._failures: dict[Host, int] = {}
        self._ejected_until: dict[Host, float] = {}

    def order(self, now: float, suspects: Collection[Host] = ()) -> Sequence[Host]:
        """
        All hosts: the healthy ones first, beginning with the next one in turn; then the ejected ones and
        ``suspects``, those ejected for the shortest time first. The fallback is last among its equals.
        """
        turn = self._next % len(self._hosts)
        self._next = turn + 1
        hosts = self._hosts[turn:] + self._hosts[:turn]
        if self._fallback is not None:
            hosts.append(self._fallback)
        unhealthy = [host for host in hosts if host in suspects or self.is_ejected(host, now)]
        healthy = [host for host in hosts if host not in unhealthy]
        unhealthy.sort(key=lambda host: (host not in self._hosts, self._ejected_until.get(host, now)))
        return (*healthy, *unhealthy)

    def is_ejected(self, host: Host, now: float) -> bool:
        """Whether ``host`` failed so recently that others are asked first."""
        return now < self._ejected_until.get(host, now)

    def ejected_until(self, host: Host, now: float) -> float | None:
        """Until when others are asked before ``host``, if they are."""
        return self._ejected_until[host] if self.is_ejected(host, now) else None

    def failed(self, host: Host, now: float) -> float:
        """Eject ``host``; returns for how many seconds."""
        failures = self._failures.get(host, 0)
        if self.is_ejected(host, now):
            # It was asked although it is ejected: requests that failed in the same moment count once.
            return self._ejected_until[host] - now
        self._failures[host] = failures + 1
        backoff = min(FIRST_BACKOFF * 2.0 ** min(failures, _MOST_DOUBLINGS), LONGEST_BACKOFF)
        self._ejected_until[host] = now + backoff
        return backoff

    def answered(self, host: Host) -> None:
        """``host`` is healthy."""
        self._failures.pop(host, None)
        self._ejected_until.pop(host, None)
