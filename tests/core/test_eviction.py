"""Tests for :mod:`contentcache.core.eviction`."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.eviction import (
    CLOCK_TOLERANCE,
    Candidate,
    Retention,
    Shortfall,
    clock_jump,
    oldest_first,
    shortfall,
)

RETENTION = Retention(blobttl=86400.0, maxsize=100, minfree=10, purge_after=1.0, sweepinterval=60.0)

_CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.integers(0, 99).map(lambda number: Digest("sha256", f"{number:064x}")),
        st.integers(0, 20),
        st.integers(0, 20).map(float),
        st.booleans(),
    ),
    max_size=12,
)


class ClockTests(SynchronousTestCase):
    """Two clocks, one of which people set."""

    def test_table(self) -> None:
        """Drift within the tolerance is none, beyond it the jump is exactly what the clocks differ by."""
        for wall, mono, jump in [
            (60.0, 60.0, 0.0),
            (60.0 + CLOCK_TOLERANCE, 60.0, 0.0),
            (61.0 + CLOCK_TOLERANCE, 60.0, 1.0 + CLOCK_TOLERANCE),
            (60.0 - CLOCK_TOLERANCE, 60.0, 0.0),
            (-7140.0, 60.0, -7200.0),
            (0.0, 100_000.0, -100_000.0),
        ]:
            self.assertEqual(clock_jump(1e6, 500.0, 1e6 + wall, 500.0 + mono), jump)

    def test_first_sweep(self) -> None:
        """The first sweep waits for the time to live, ten minutes at most; without one for an interval."""
        for blobttl, seconds in [(3.0, 3.0), (86400.0, 600.0), (None, 60.0)]:
            self.assertEqual(evolve(RETENTION, blobttl=blobttl).first_sweep(), seconds)


class NeedTests(SynchronousTestCase):
    """How much must go, and what."""

    def test_shortfall(self) -> None:
        """The size and the space are counted apart; no bound is never short."""
        for stored, free, size, space in [
            (100, 10, 0, 0),
            (101, 9, 1, 1),
            (130, 9, 30, 1),
            (101, 899, 1, 0),
            (100, -3, 0, 13),
            (505, None, 405, 0),
        ]:
            short = shortfall(RETENTION, stored, free)
            self.assertEqual(short, Shortfall(size, space))
            self.assertEqual(short.worst, max(size, space))
        self.assertEqual(shortfall(evolve(RETENTION, maxsize=None), 10**15, None), Shortfall(0, 0))

    @given(_CANDIDATES, st.integers(-5, 150))
    def test_oldest_first(self, candidates: list[Candidate], need: int) -> None:
        """What is chosen is enough and not more, nothing older is left, and nothing goes in vain."""
        chosen = oldest_first(candidates, need)
        if chosen is None:
            self.assertLess(sum(one.size for one in candidates), need)
            return
        sizes = [one.size for one in chosen]
        self.assertGreaterEqual(sum(sizes), need)
        self.assertNotIn(0, sizes)
        if chosen:
            self.assertLess(sum(sizes[:-1]), need)
            left = [one for one in candidates if one not in chosen and one.size]
            self.assertTrue(all(one.since >= chosen[-1].since for one in left))
