"""
Measure which lines and branches the tests without real programs run: ``python scripts/check_coverage.py [JOBS]``.

``fail_under`` in pyproject.toml is the share in percent that must be reached. It only rises: where the share is
a whole percent above it, this asks to raise the number.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_COVERAGE: Final = (sys.executable, "-m", "coverage")


def advice(share: float, floor: float) -> str | None:
    """
    What to do about a share in percent that is not below the floor.

    >>> advice(93.9, 93)
    >>> advice(94.0, 93)
    'raise fail_under in pyproject.toml to 94'
    """
    return f"raise fail_under in pyproject.toml to {int(share)}" if share >= floor + 1 else None


def main(arguments: Sequence[str]) -> int:
    """Run the tests, print the modules that they do not run wholly, and compare the share; the exit status."""
    jobs = arguments[0] if arguments else "2"
    suite = ("run", "-m", "tests.run", "--in-memory", "--jobs", jobs)
    for command in (("erase",), suite, ("combine", "--quiet"), ("report", "--skip-covered", "--sort=cover")):
        status = subprocess.run([*_COVERAGE, *command], cwd=ROOT, check=False).returncode
        if status != 0:
            return status
    total = [*_COVERAGE, "report", "--format=total"]
    shown = subprocess.run(total, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    said = advice(float(shown), settings["tool"]["coverage"]["report"]["fail_under"])
    if said is not None:
        print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
