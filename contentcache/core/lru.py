"""An LRU cache: the bounded table for whatever clients or upstreams make grow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """
    A table of at most ``capacity`` entries: a further one evicts the entry that was used least recently.

    ``evicted`` is called with each entry that is dropped for lack of room, and with no other.

    >>> cache = LruCache(2)
    >>> cache.put("a", 1); cache.put("b", 2); cache.get("a"); cache.put("c", 3)
    1
    >>> list(cache)
    ['a', 'c']
    """

    def __init__(self, capacity: int, evicted: Callable[[K, V], None] | None = None) -> None:
        self.capacity = capacity
        self._evicted = evicted
        self._entries: OrderedDict[K, V] = OrderedDict()
        #: The value of a key, which does not count as a use; together with ``touch``, :meth:`get` for the fast
        #: path: both cost no call of a Python function.
        self.peek: Callable[[K], V | None] = self._entries.get
        #: Count a use of a key that is there.
        self.touch: Callable[[K], None] = self._entries.move_to_end

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        """Whether there is such a key; that does not count as a use."""
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        """The keys, least recently used first."""
        return iter(self._entries)

    def get(self, key: K) -> V | None:
        """The value of a key, which has been used by that; ``None`` where there is none."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Set the value of a key."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        self._evict()

    def resize(self, capacity: int) -> None:
        """Have another capacity; entries beyond it are evicted now."""
        self.capacity = capacity
        self._evict()

    def _evict(self) -> None:
        while len(self._entries) > self.capacity:
            dropped = self._entries.popitem(last=False)
            if self._evicted is not None:
                self._evicted(*dropped)

    def remove(self, key: K) -> V | None:
        """Remove a key and return its value; ``None`` where it is not there."""
        return self._entries.pop(key, None)

    def remove_if(self, condition: Callable[[V], bool]) -> None:
        """Remove all entries whose value meets a condition."""
        for key in [key for key, value in self._entries.items() if condition(value)]:
            del self._entries[key]

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
