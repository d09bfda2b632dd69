"""Tests for :mod:`contentcache.commands.output`."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase


class OutputTests(SynchronousTestCase):
    """Standard output that does not take all that is printed."""

    def run_into(self, output: int, *arguments: str) -> tuple[int, str]:
        """The status, and what is on standard error."""
        done = subprocess.run(
            [sys.executable, "-m", "contentcache.commands.main", *arguments],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    def test_full(self) -> None:
        """A full disk is a sentence, for help and for errors as JSON too."""
        for arguments in (("completion", "bash"), ("check", "--help"), ("check", "/nope.yml", "--json")):
            with open("/dev/full", "wb") as full:
                status, told = self.run_into(full.fileno(), *arguments)
            self.assertEqual(status, 1)
            self.assertTrue(told.endswith("not all could be written: No space left on device\n"), told)
            self.assertNotIn("Traceback", told)

    def test_closed(self) -> None:
        """A reader that has left is told nothing."""
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb") as closed:
            self.assertEqual(self.run_into(closed.fileno(), "completion", "bash"), (1, ""))
