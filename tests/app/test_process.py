"""Tests for ``contentcache.app.process``."""

from __future__ import annotations

import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.real.programs import ROOT, run

_PROGRAM = """
import resource
from contentcache.app.process import retain_heap

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

retain_heap()
for size in (256 << 10, 300_000, 512 << 10):
    [bytearray(size) for _ in range(6)]
    before = faults()
    for _ in range(100):
        [bytearray(size) for _ in range(6)]
    print(faults() - before)
"""


class KeepBuffersTests(SynchronousTestCase):
    """A process that does nothing but use buffers and let them go."""

    def test_no_new_pages(self) -> None:
        """Buffers that follow others have the pages of these."""
        counted = [int(line) for line in run([sys.executable, "-c", _PROGRAM], cwd=ROOT).stdout.split()]
        self.assertEqual(len(counted), 3)
        self.assertLess(max(counted), 1000)  # else it would be about 40,000
