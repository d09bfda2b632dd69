"""The share of lines and branches that the tests without real programs run: it does not fall."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.real.programs import ROOT


class CoverageTests(SynchronousTestCase):
    """``scripts/check_coverage.py``."""

    timeout = 3600

    def test_floor(self) -> None:
        """The tests pass, and run no smaller share than ``fail_under`` in pyproject.toml."""
        argv = [sys.executable, str(ROOT / "scripts" / "check_coverage.py")]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])
