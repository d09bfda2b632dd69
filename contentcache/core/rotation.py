"""
Several upstreams as one: whose turn it is, and who is set back.

A host that failed is set back for a second, doubling to half a minute, until it answers again. It is
asked all the same when no other is left, so that a line that is back is noticed at once.

Until it has answered, though, it is *tried*: by one request at a time, whose outcome the others share. So a
host that swallows everything costs its timeout once, and not once a request; and while it is tried, other
hosts go first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Generic, Literal, TypeAlias, TypeVar

FIRST_SETBACK: Final = 1.0
LONGEST_SETBACK: Final = 30.0
_MOST_DOUBLINGS: Final = 10  # a host that is away for a day must not overflow a float

Host = TypeVar("Host", bound=Hashable)

#: What a request may do with a host: go there, go there as its trial, or wait for the one under way.
Admission: TypeAlias = Literal["go", "try", "wait"]


class Rotation(Generic[Host]):
    """
    The order in which hosts are asked. Times are monotonic seconds.
    """

    def __init__(self, hosts: Sequence[Host], fallback: Host | None = None) -> None:
        self._hosts = list(hosts)
        self._fallback = None if fallback in hosts else fallback
        self._next = 0
        self._failures: dict[Host, int] = {}
        self._until: dict[Host, float] = {}
        self._tried: set[Host] = set()

    def order(self, now: float) -> Sequence[Host]:
        """
        All hosts: those in good standing first, beginning with the next one in turn; then those that
        are set back or being tried, the one whose time is up soonest first. The fallback comes after its
        like.
        """
        turn = self._next % len(self._hosts)
        self._next = turn + 1
        hosts = self._hosts[turn:] + self._hosts[:turn]
        if self._fallback is not None:
            hosts.append(self._fallback)
        good = [host for host in hosts if self._is_well(host, now)]
        back = [host for host in hosts if not self._is_well(host, now)]
        return (*good, *sorted(back, key=lambda host: (host not in self._hosts, self._until[host])))

    def is_set_back(self, host: Host, now: float) -> bool:
        """
        Whether ``host`` failed so recently that others go first.
        """
        return now < self._until.get(host, now)

    def admit(self, host: Host) -> Admission:
        """
        What a request to ``host`` may do; for a ``try`` :meth:`tried` is owed, with whatever outcome.
        """
        if host not in self._failures:
            return "go"
        if host in self._tried:
            return "wait"
        self._tried.add(host)
        return "try"

    def tried(self, host: Host) -> None:
        """
        The trial of ``host`` is over.
        """
        self._tried.discard(host)

    def failed(self, host: Host, now: float) -> float:
        """
        Set ``host`` back; answers for how many seconds.
        """
        failures = self._failures.get(host, 0)
        if self.is_set_back(host, now):
            # It was asked although it is set back: others that failed in the same moment count once.
            return self._until[host] - now
        self._failures[host] = failures + 1
        setback = min(FIRST_SETBACK * 2.0 ** min(failures, _MOST_DOUBLINGS), LONGEST_SETBACK)
        self._until[host] = now + setback
        return setback

    def answered(self, host: Host) -> None:
        """
        ``host`` is well.
        """
        self._failures.pop(host, None)
        self._until.pop(host, None)

    def standing(self, now: float) -> Sequence[tuple[Host, bool]]:
        """
        Every host, and whether it is in good standing: for whoever watches.
        """
        hosts = self._hosts if self._fallback is None else [*self._hosts, self._fallback]
        return [(host, self._is_well(host, now)) for host in hosts]

    def _is_well(self, host: Host, now: float) -> bool:
        in_doubt = host in self._failures
        return not (in_doubt and (host in self._tried or self.is_set_back(host, now)))
