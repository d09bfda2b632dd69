"""Which bytes of a file are there."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.spans import Spans

_RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=20)


class SpansTests(SynchronousTestCase):
    """Runs of offsets beside a plain set of them."""

    @settings(deadline=None)
    @given(_RUNS)
    def test_as_a_set(self, runs: list[tuple[int, int]]) -> None:
        """After any additions the runs hold what a set holds, in order, apart, and as few as can be."""
        held, offsets = Spans(), set[int]()
        for start, stop in runs:
            held.add(start, stop)
            offsets.update(range(start, stop))
            found = list(held)
            self.assertEqual({offset for run in found for offset in range(*run)}, offsets)
            self.assertTrue(all(start < stop for start, stop in found))
            self.assertTrue(all(one[1] < other[0] for one, other in pairwise(found)))
            self.assertEqual(held.total(), len(offsets))
        for offset in range(42):
            end = offset
            while end in offsets:
                end += 1
            self.assertEqual(held.reach(offset), end)

    def test_clear(self) -> None:
        """After that nothing is there."""
        held = Spans()
        held.add(0, 5)
        held.clear()
        self.assertEqual((list(held), held.reach(0), held.total()), ([], 0, 0))
