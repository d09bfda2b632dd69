"""Tests for :mod:`contentcache.core.lru`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.lru import LruCache


class LruCacheTests(SynchronousTestCase):
    """A bounded table."""

    def test_least_recently_used(self) -> None:
        """What was neither set nor read for longest is dropped."""
        cache: LruCache[int, str] = LruCache(3)
        for key in (1, 2, 3):
            cache.put(key, "x")
        cache.get(1)
        cache.put(2, "y")
        cache.put(4, "x")
        self.assertEqual(list(cache), [1, 2, 4])
        self.assertEqual((cache.get(2), cache.get(3), len(cache)), ("y", None, 3))

    def test_evicted(self) -> None:
        """What is dropped for lack of room is reported; what is removed or replaced is not."""
        evicted: list[tuple[int, str]] = []
        cache: LruCache[int, str] = LruCache(2, lambda key, value: evicted.append((key, value)))
        for key in (1, 2, 1):
            cache.put(key, "x")
        cache.put(3, "x")
        self.assertEqual(cache.remove(3), "x")
        self.assertEqual(evicted, [(2, "x")])

    def test_peek_and_touch(self) -> None:
        """To look at an entry does not count as a use; ``touch`` does."""
        cache: LruCache[int, str] = LruCache(2)
        for key in (1, 2):
            cache.put(key, "x")
        self.assertEqual((cache.peek(1), cache.peek(3), 1 in cache, 3 in cache), ("x", None, True, False))
        cache.touch(1)
        cache.peek(2)
        cache.put(3, "x")
        self.assertEqual(list(cache), [1, 3])

    def test_remove(self) -> None:
        """Entries are forgotten one by one, by their values, and all."""
        cache: LruCache[int, int] = LruCache(10)
        for key in range(6):
            cache.put(key, key)
        cache.remove(0)
        cache.remove(0)
        cache.remove_if(lambda value: value % 2 == 0)
        self.assertEqual(list(cache), [1, 3, 5])
        cache.clear()
        self.assertEqual(len(cache), 0)
