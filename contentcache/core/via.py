"""Loops and length of a chain of caches, by ``Via`` (RFC 9110 §7.6.3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from attrs import frozen

from contentcache.core.lru import LruCache

#: Begins the pseudonym of every Content Cache.
FAMILY: Final = "contentcache-"
#: A longer chain of caches costs more than it saves.
DEEPEST: Final = 2
#: Most names in the ``Via`` of a request, and most characters of one.
MOST_HOPS: Final = 8
LONGEST_NAME: Final = 255
#: Most caches behind one host that are remembered.
_MOST_BEHIND: Final = 16


@frozen
class ViaPath:
    """The proxies that a request has passed: the received-by parts of ``Via``, nearest to the client first."""

    hops: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> ViaPath:
        """
        Read the values of ``Via``.

        >>> ViaPath.of(["1.1 contentcache-ab (Content Cache), 1.0 fred"]).hops
        ('contentcache-ab', 'fred')
        """
        entries = [entry.split() for value in values for entry in value.split(",")]
        return cls(tuple(entry[1] for entry in entries if len(entry) > 1))

    def contains(self, pseudonym: str) -> bool:
        """Whether the request has passed the cache with this pseudonym."""
        return pseudonym in self.hops

    @property
    def is_bounded(self) -> bool:
        """Whether a request may be sent on with these names."""
        return len(self.hops) <= MOST_HOPS and all(len(hop) <= LONGEST_NAME for hop in self.hops)

    @property
    def caches(self) -> int:
        """Number of Content Caches that the request has passed."""
        return sum(hop.startswith(FAMILY) for hop in self.hops)


def append_via(values: Sequence[str], pseudonym: str) -> str:
    """
    The ``Via`` to send on: versions and names, without comments.

    >>> append_via(["1.0 fred (a proxy)"], "contentcache-ab")
    '1.0 fred, 1.1 contentcache-ab'
    """
    entries = [entry.split() for value in values for entry in value.split(",")]
    earlier = [f"{entry[0]} {entry[1]}" for entry in entries if len(entry) > 1]
    return ", ".join([*earlier, f"1.1 {pseudonym}"])


class CachesBehind:
    """
    The caches behind each upstream host, learned from the ``Via`` of its answers.

    A cache answers with its own name and those that it has learned itself. A request that has passed one of them
    would come back to it if it were sent to that host.
    """

    def __init__(self) -> None:
        self._names: dict[str, LruCache[str, None]] = {}

    def learn(self, host: str, values: Sequence[str]) -> None:
        """Learn from the values of ``Via`` in an answer of ``host`` to a request that had a ``Via``."""
        names = self._names.setdefault(host, LruCache(_MOST_BEHIND))
        for name in ViaPath.of(values).hops:
            if name.startswith(FAMILY) and len(name) <= LONGEST_NAME:
                names.put(name, None)

    def is_cache(self, host: str) -> bool:
        """
        Whether ``host`` has answered with the name of a Content Cache.

        >>> caches = CachesBehind()
        >>> caches.learn("https://a", ["1.1 contentcache-b"])
        >>> caches.learn("https://c", ["1.1 fred"])
        >>> caches.is_cache("https://a"), caches.is_cache("https://c"), caches.is_cache("https://d")
        (True, False, False)
        """
        return next(iter(self._names.get(host, ())), None) is not None

    def names(self) -> Sequence[str]:
        """The names of all caches behind, the newest ones if there are too many for ``Via``."""
        found = list(dict.fromkeys(name for names in self._names.values() for name in names))
        return found[-_MOST_BEHIND:]

    def may_lead_back(self, via: str, hosts: Collection[str]) -> bool:
        """
        Whether a request that is sent on with ``via``, our own name last, may come back from one of ``hosts``
        to a cache that it has passed: one of them is behind a host, or a host has not answered yet.

        >>> caches = CachesBehind()
        >>> caches.learn("https://a", ["1.1 contentcache-b"])
        >>> caches.may_lead_back("1.1 contentcache-x, 1.1 contentcache-me", ["https://a"])
        False
        >>> caches.may_lead_back("1.1 contentcache-b, 1.1 contentcache-me", ["https://a"])
        True
        """
        passed = {hop for hop in ViaPath.of([via]).hops[:-1] if hop.startswith(FAMILY)}
        if not passed:
            return False
        return any(host not in self._names or passed & set(self._names[host]) for host in hosts)
