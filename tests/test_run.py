"""Tests for :mod:`tests.run`: which failures are looked at once more."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from tests.run import Counts, run_again

_REAL = "tests.real.test_pulls.PullTests.test_whole"
_OTHER = "tests.real.test_pulls.PullTests.test_part"
_IN_MEMORY = "tests.core.test_digest.DigestTests.test_parse"


class RunAgainTests(SynchronousTestCase):
    """Tests of real programs that failed are run once more, alone."""

    def again(self, failed: Sequence[str], *, passes: Sequence[str], failures: int | None = None) -> Counts:
        """The counts after ten tests passed and these failed."""
        self.ran: list[str] = []

        def run(names: Sequence[str]) -> Counts:
            (name,) = names
            self.ran.append(name)
            good = name in passes
            return Counts(passed=int(good), failed=int(not good), skipped=0)

        told = Counts(passed=10, failed=len(failed) if failures is None else failures, skipped=1)
        return run_again(told, failed, run)

    def test_passes_alone(self) -> None:
        """One that passes alone has passed; one that does not has failed."""
        told = self.again([_REAL, _OTHER], passes=[_REAL])
        self.assertEqual(told, Counts(passed=11, failed=1, skipped=1))
        self.assertEqual(self.ran, [_REAL, _OTHER])

    def test_nothing_failed(self) -> None:
        """Nothing is run where nothing has failed."""
        self.assertEqual(self.again([], passes=[]), Counts(passed=10, failed=0, skipped=1))
        self.assertEqual(self.ran, [])

    def test_not_again(self) -> None:
        """Many failures, failures without a name, and those of tests in memory stay what they are."""
        many = [f"{_REAL}{number}" for number in range(4)]
        for failed, failures in (
            (many, 4),
            ([_REAL], 2),
            ([], 1),
            ([_IN_MEMORY], 1),
            ([_REAL, _IN_MEMORY], 2),
        ):
            told = self.again(failed, passes=failed, failures=failures)
            self.assertEqual((told.failed, self.ran), (failures, []), failed)
