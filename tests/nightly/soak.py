"""Soaks of ``MINUTES``: mixed traffic, bad upstreams, a small store and kills, of one worker and of two."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.nightly import MINUTES
from tests.real import cache
from tests.real.programs import place
from tests.soak import Soak


class SoakTests(SynchronousTestCase):
    """One worker."""

    workers = 1

    def test_soak(self) -> None:
        """Nobody gets a wrong byte, memory and descriptors are flat, store and index agree."""
        self.patch(cache, "WORKERS", self.workers)
        soak = Soak(place(self), f"nightly {self.workers}", lambda line: sys.stdout.write(line + "\n"))
        self.addCleanup(soak.close)
        soak.run(MINUTES * 60)
        sys.stdout.write(f"{dict(soak.counts)}\n")
        self.assertEqual(soak.faults, [])
        self.assertGreater(soak.counts["200"], 100)


class SoakWorkersTests(SoakTests):
    """Two workers."""

    workers = 2
