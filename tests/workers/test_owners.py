"""Tests for :mod:`contentcache.workers.owners`."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.workers.owners import owner_of

_DIGESTS = [Digest.of(str(number).encode()) for number in range(4000)]


class OwnerTests(SynchronousTestCase):
    """Which worker owns a digest."""

    def test_even(self) -> None:
        """Each worker owns about as many digests as the others."""
        for workers in (1, 2, 3, 8):
            counted = Counter(owner_of(digest, workers) for digest in _DIGESTS)
            self.assertEqual(sorted(counted), list(range(1, workers + 1)))
            self.assertLess(max(counted.values()), 1.25 * len(_DIGESTS) / workers)

    def test_one_more(self) -> None:
        """With one worker more, only what the new one owns changes its owner."""
        for workers in (1, 2, 5):
            for digest in _DIGESTS:
                before, after = owner_of(digest, workers), owner_of(digest, workers + 1)
                self.assertIn(after, {before, workers + 1})
