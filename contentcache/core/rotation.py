"""
Several upstreams as one: whose turn it is, and which of them are unhealthy.

A host that failed is unhealthy (ejected) for a second, doubling to half a minute, until it answers again. It
is asked all the same when no other is left, so that a network link that is back is noticed at once.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Final, Generic, TypeVar

FIRST_SETBACK: Final = 1.0
LONGEST_SETBACK: Final = 30.0
_MOST_DOUBLINGS: Final = 10  # a host that is away for a day must not overflow a float

Host = TypeVar("Host", bound=Hashable)


class Rotation(Generic[Host]):
    """The order in which hosts are asked. Times are monotonic seconds."""

    def __init__(self, hosts: Sequence[Host], fallback: Host | None = None) -> None:
        self._hosts = list(hosts)
        self._fallback = None if fallback in hosts else fallback
        self._next = 0
        self._failures: dict[Host, int] = {}
        self._until: dict[Host, float] = {}

    def order(self, now: float, suspects: Collection[Host] = ()) -> Sequence[Host]:
        """
        All hosts: the healthy ones first, beginning with the next one in turn; then the unhealthy ones and
        ``suspects``, those ejected for the shortest time first. The fallback comes after its like.
        """
        turn = self._next % len(self._hosts)
        self._next = turn + 1
        hosts = self._hosts[turn:] + self._hosts[:turn]
        if self._fallback is not None:
            hosts.append(self._fallback)
        back = [host for host in hosts if host in suspects or self.is_set_back(host, now)]
        good = [host for host in hosts if host not in back]
        return (*good, *sorted(back, key=lambda host: (host not in self._hosts, self._until.get(host, now))))

    def is_set_back(self, host: Host, now: float) -> bool:
        """Whether ``host`` failed so recently that others go first."""
        return now < self._until.get(host, now)

    def failed(self, host: Host, now: float) -> float:
        """Set ``host`` back; answers for how many seconds."""
        failures = self._failures.get(host, 0)
        if self.is_set_back(host, now):
            # It was asked although it is set back: others that failed in the same moment count once.
            return self._until[host] - now
        self._failures[host] = failures + 1
        setback = min(FIRST_SETBACK * 2.0 ** min(failures, _MOST_DOUBLINGS), LONGEST_SETBACK)
        self._until[host] = now + setback
        return setback

    def answered(self, host: Host) -> None:
        """``host`` is well."""
        self._failures.pop(host, None)
        self._until.pop(host, None)
