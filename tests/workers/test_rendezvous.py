"""Tests for :mod:`contentcache.workers.rendezvous` and :mod:`contentcache.workers.restarts`."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.workers.rendezvous import owner
from contentcache.workers.restarts import Restarts

_DIGESTS = [Digest.of(str(number).encode()) for number in range(4000)]


class OwnerTests(SynchronousTestCase):
    """Whose a content is."""

    def test_even(self) -> None:
        """Each worker has about as much as the others."""
        for workers in (1, 2, 3, 8):
            counted = Counter(owner(digest, workers) for digest in _DIGESTS)
            self.assertEqual(sorted(counted), list(range(1, workers + 1)))
            self.assertLess(max(counted.values()), 1.25 * len(_DIGESTS) / workers)

    def test_one_more(self) -> None:
        """With one worker more, nothing changes hands but what becomes the new one's."""
        for workers in (1, 2, 5):
            for digest in _DIGESTS:
                before, after = owner(digest, workers), owner(digest, workers + 1)
                self.assertIn(after, {before, workers + 1})


class RestartsTests(SynchronousTestCase):
    """How long a dead worker is waited for."""

    def test_pauses(self) -> None:
        """At once the first time; then longer and longer, within bounds, until one has lived."""
        restarts = Restarts()
        pauses = [restarts.pause_after(0.5) for _ in range(14)]
        self.assertEqual(pauses[:4], [0.0, 0.25, 0.5, 1.0])
        self.assertEqual(pauses[-1], 30.0)
        self.assertEqual(pauses, sorted(pauses))
        self.assertEqual([restarts.pause_after(lived) for lived in (60, 0.5, 0.5)], [0.0, 0.25, 0.5])
