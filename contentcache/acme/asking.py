"""
Those who have asked for new certificates, and wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted.internet.defer import Deferred

from contentcache.acme.standing import Outcome


class Waiting:
    """
    Who waits for which host. Iterates over hosts, those that were asked for first in front.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Deferred[Outcome]]] = {}

    def __contains__(self, host: str) -> bool:
        return host in self._waiting

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._waiting))

    def add(self, hosts: Sequence[str]) -> list[Deferred[Outcome]]:
        """
        Somebody wants one for each of ``hosts``; each fires with what became of it, and never fails.
        """
        waiting: list[Deferred[Outcome]] = [Deferred() for _ in hosts]
        for host, mine in zip(hosts, waiting, strict=True):
            self._waiting.setdefault(host, []).append(mine)
        return waiting

    def tell(self, outcome: Outcome) -> None:
        """
        Tell all who wait for a host.
        """
        for waiting in self._waiting.pop(outcome.host, ()):
            waiting.callback(outcome)

    def tell_all(self, says: str) -> None:
        """
        Tell everybody that nothing comes, and why.
        """
        for host in self:
            self.tell(Outcome(host, False, says))
