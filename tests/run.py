"""
Run trial, show what it says, and end with one line of counts: ``python -m tests.run [trial's arguments]``.

``--in-memory`` stands for all tests but those of real programs, which are in ``tests/real`` and
``tests/nightly``. With ``--again`` a few tests of real programs that failed are run once more, alone, which shows
whether the machine was too busy or the program is wrong; each of them is named. The counts are those of trial's
own last lines, with what came of the second run. Tests that are expected to fail count as
skipped: they have proved nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

IN_MEMORY: Final = "--in-memory"
AGAIN: Final = "--again"
#: More failures than these are no matter of a busy machine.
_MOST_AGAIN: Final = 3
_REAL_PROGRAMS: Final = ("real", "nightly")
_VERDICT = re.compile(
    r"(?:PASSED|FAILED)(?: \((?P<counts>[a-zA-Z]+=\d+(?:, [a-zA-Z]+=\d+)*)\))?\s*", re.ASCII
)
_FAILED_TEST = re.compile(r"(tests\.(?:\w+\.)+test_\w+)\s*", re.ASCII)


@frozen
class Counts:
    """How many tests did what."""

    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


def counts_in(line: str) -> Counts | None:
    """
    The counts in trial's verdict, ``None`` for any other line.

    >>> str(counts_in("FAILED (skips=1, failures=2, errors=3, successes=40)"))
    '40 passed, 5 failed, 1 skipped'
    >>> str(counts_in("PASSED"))
    '0 passed, 0 failed, 0 skipped'
    """
    match = _VERDICT.fullmatch(line)
    if match is None:
        return None
    pairs = (pair.split("=") for pair in (match["counts"] or "").split(", ") if pair)
    found = {name: int(value) for name, value in pairs}
    return Counts(
        passed=found.get("successes", 0),
        failed=sum(found.get(name, 0) for name in ("failures", "errors", "unexpectedSuccesses")),
        skipped=sum(found.get(name, 0) for name in ("skips", "expectedFailures")),
    )


def in_memory() -> list[str]:
    """The packages and modules of tests without real programs."""
    folder = Path(__file__).parent
    packages = [
        path.parent for path in folder.glob("*/__init__.py") if path.parent.name not in _REAL_PROGRAMS
    ]
    return sorted(f"tests.{path.stem}" for path in (*packages, *folder.glob("test_*.py")))


def failed_test(line: str) -> str | None:
    """
    The test that a line of trial's report on failures names, ``None`` for any other line.

    >>> failed_test("tests.real.test_pulls.PullTests.test_whole")
    'tests.real.test_pulls.PullTests.test_whole'
    >>> failed_test("    test_whole ...                       [OK]")
    """
    match = _FAILED_TEST.fullmatch(line)
    return None if match is None else match[1]


def run_trial(arguments: Sequence[str], failed: list[str] | None = None) -> Counts:
    """
    Run trial, and show what it says. A run that ends badly has at least one failure.

    :param failed: receives the tests that failed, each once.
    """
    argv = [sys.executable, "-u", "-m", "twisted.trial", *arguments]
    counts: Counts | None = None
    is_report = False
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as trial:
        assert trial.stdout is not None
        for line in trial.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            counts = counts_in(line) or counts
            is_report = is_report or line.startswith("=====")
            name = failed_test(line) if is_report else None
            if failed is not None and name is not None and name not in failed:
                failed.append(name)
    told = counts or Counts(passed=0, failed=1, skipped=0)
    if trial.returncode != 0 and not told.failed:
        told = evolve(told, failed=1)
    return told


def run_again(told: Counts, failed: Sequence[str], run: Callable[[Sequence[str]], Counts]) -> Counts:
    """
    Run the tests that failed once more, one after the other; the counts with what came of it.

    Nothing is run again where a test without real programs is among them, which no other load may disturb, or
    where there are many, or where not each failure has a test's name.
    """
    prefix = f"tests.{_REAL_PROGRAMS[0]}."
    if not (told.failed == len(failed) <= _MOST_AGAIN and all(name.startswith(prefix) for name in failed)):
        return told
    passed = [name for name in failed if run([name]) == Counts(passed=1, failed=0, skipped=0)]
    for name in passed:
        sys.stdout.write(f"Failed beside others, and passed alone: {name}\n")
    return evolve(told, passed=told.passed + len(passed), failed=told.failed - len(passed))


def main(arguments: Sequence[str]) -> int:
    """Run the suite; the exit status."""
    options = [argument for argument in arguments if argument not in {IN_MEMORY, AGAIN}]
    failed: list[str] = []
    told = run_trial([*options, *(in_memory() if IN_MEMORY in arguments else ())], failed)
    if AGAIN in arguments:
        told = run_again(told, failed, run_trial)
    sys.stdout.write(f"{told}\n")
    return 1 if told.failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
