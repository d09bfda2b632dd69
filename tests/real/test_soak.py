"""A short soak: mixed traffic, bad upstreams, a small store and a kill."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from tests.real.programs import place
from tests.soak import Soak
from tests.soak_ranges import RangesSoak


class SoakTests(SynchronousTestCase):
    """``make soak`` for those in a hurry."""

    def test_soak(self) -> None:
        """Nobody gets a wrong byte, nothing grows, store and index agree."""
        lines: list[str] = []
        soak = Soak(place(self), os.environ.get("CONTENTCACHE_SEED", "7"), lines.append)
        self.addCleanup(soak.close)
        soak.run(12, most_kills=3)
        self.assertEqual(soak.faults, [], "\n".join(lines))
        self.assertGreater(soak.counts["200"], 100)

    def test_ranges_beside_whole_downloads(self) -> None:
        """Parts far ahead of running downloads: no digest mismatch is counted against an honest upstream."""
        lines: list[str] = []
        soak = RangesSoak(place(self), os.environ.get("CONTENTCACHE_SEED", "7"), lines.append)
        self.addCleanup(soak.close)
        soak.run(0)
        self.assertEqual(soak.faults, [], "\n".join(lines))
        self.assertEqual(soak.counts["digest mismatches"], 0)
        self.assertGreater(soak.counts["parts"], 50)
