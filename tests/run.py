"""
Run trial, show what it says, and end with one line of counts: ``python -m tests.run [trial's arguments]``.

``--in-memory`` stands for all tests but those of real programs, which are in ``tests/real`` and
``tests/nightly``. The counts are those of trial's own last lines. Tests that are expected to fail count as
skipped: they have proved nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

IN_MEMORY: Final = "--in-memory"
_REAL_PROGRAMS: Final = ("real", "nightly")
_VERDICT = re.compile(
    r"(?:PASSED|FAILED)(?: \((?P<counts>[a-zA-Z]+=\d+(?:, [a-zA-Z]+=\d+)*)\))?\s*", re.ASCII
)


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


def run_trial(arguments: Sequence[str]) -> Counts:
    """Run trial, and show what it says. A run that ends badly has at least one failure."""
    argv = [sys.executable, "-u", "-m", "twisted.trial", *arguments]
    counts: Counts | None = None
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
    told = counts or Counts(passed=0, failed=1, skipped=0)
    if trial.returncode != 0 and not told.failed:
        told = evolve(told, failed=1)
    return told


def main(arguments: Sequence[str]) -> int:
    """Run the suite; the exit status."""
    options = [argument for argument in arguments if argument != IN_MEMORY]
    told = run_trial([*options, *(in_memory() if IN_MEMORY in arguments else ())])
    sys.stdout.write(f"{told}\n")
    return 1 if told.failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
