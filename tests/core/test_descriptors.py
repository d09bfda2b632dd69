"""Tests for :mod:`contentcache.core.descriptors`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.descriptors import fit


class FitTests(SynchronousTestCase):
    """How many fit."""

    @settings(deadline=None)
    @given(st.integers(40, 70_000))
    def test_never_too_many(self, free: int) -> None:
        """All that there may be at once, each with all that it can hold, leaves some for the daemon itself."""
        fitting = fit(free, connections=4096, fetches=256, turned_away=64)
        held = 3 * fitting.connections + 3 * fitting.fetches + fitting.turned_away
        self.assertLessEqual(held, free - 16)
        self.assertLessEqual(fitting.connections, 4096)

    def test_at_least_one(self) -> None:
        """Somebody is served however few there are."""
        for free in (0, 10, 20):
            fitting = fit(free, connections=4096, fetches=256, turned_away=64)
            self.assertEqual((fitting.connections, fitting.fetches, fitting.turned_away), (1, 1, 1))

    def test_fewer_wanted(self) -> None:
        """What the operator has set is never raised."""
        fitting = fit(20_000, connections=7, fetches=3, turned_away=64)
        self.assertEqual((fitting.connections, fitting.fetches, fitting.turned_away), (7, 3, 64))
