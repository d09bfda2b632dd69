"""Tests for :mod:`tests.nightly`: what runs at night, and when a night has failed."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.runner import TestLoader
from twisted.trial.unittest import SynchronousTestCase

import tests.nightly
from tests.nightly import parts
from tests.nightly.__main__ import main
from tests.run import Counts


class NightlyTests(SynchronousTestCase):
    """The nightly check."""

    def night(self, results: dict[str, Counts], *arguments: str) -> tuple[int, list[str], str]:
        """The exit status of a night in which parts end so, which parts ran, and what was printed."""
        ran: list[str] = []
        said: list[str] = []

        def run(modules: Sequence[str]) -> Counts:
            (module,) = modules
            ran.append(module)
            return results[module.removeprefix("tests.nightly.")]

        status = main(arguments, names=sorted(results), run=run, say=said.append)
        return status, ran, "".join(said)

    def test_parts(self) -> None:
        """Every module of the folder is a part, and each has tests."""
        self.assertLessEqual({"soak", "packaging"}, set(parts()))
        for part in parts():
            suite = TestLoader().loadByName(f"tests.nightly.{part}")
            self.assertGreater(suite.countTestCases(), 0, part)

    def test_not_by_day(self) -> None:
        """``make test`` collects none of them."""
        suite = TestLoader().loadPackage(tests.nightly, recurse=True)
        self.assertEqual(suite.countTestCases(), 0)

    def test_counts(self) -> None:
        """Each part prints its counts, and the last line has the sum."""
        status, ran, said = self.night({"a": Counts(2, 0, 0), "b": Counts(3, 0, 0)})
        self.assertEqual(status, 0)
        self.assertEqual(ran, ["tests.nightly.a", "tests.nightly.b"])
        self.assertEqual(
            said.splitlines(),
            [
                "nightly a: 2 passed, 0 failed, 0 skipped",
                "nightly b: 3 passed, 0 failed, 0 skipped",
                "5 passed, 0 failed, 0 skipped",
            ],
        )

    def test_some(self) -> None:
        """Parts can be named; one that does not exist is a mistake of usage, and nothing runs."""
        results = {"a": Counts(1, 0, 0), "b": Counts(1, 0, 0)}
        self.assertEqual(self.night(results, "b")[:2], (0, ["tests.nightly.b"]))
        status, ran, said = self.night(results, "c")
        self.assertEqual((status, ran), (2, []))
        self.assertIn("unknown part: c (there are a, b)", said)

    def test_failed(self) -> None:
        """A night fails where a part fails, skips a test or has none; the other parts run all the same."""
        for bad in (Counts(5, 1, 0), Counts(5, 0, 1), Counts(0, 0, 0)):
            status, ran, said = self.night({"a": bad, "b": Counts(1, 0, 0)})
            self.assertEqual(status, 1)
            self.assertEqual(len(ran), 2)
            self.assertIn("nightly check failed: a\n", said)
