"""
Run the nightly check, one part after the other: ``python -m tests.nightly [PART …]``.

Each part ends with a line of its counts, all of them with one of the sum. The exit status is not 0 where
something failed, was skipped, or where a part had no test: at night everything must be there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tests.nightly import parts
from tests.run import Counts, run_trial


def main(
    arguments: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    run: Callable[[Sequence[str]], Counts] = run_trial,
    say: Callable[[str], object] = sys.stdout.write,
) -> int:
    """Run the parts that are named, or all; the exit status."""
    there = parts() if names is None else names
    unknown = set(arguments) - set(there)
    if unknown:
        say(f"unknown part: {', '.join(sorted(unknown))} (there are {', '.join(there)})\n")
        return 2
    total = Counts(passed=0, failed=0, skipped=0)
    bad = []
    for name in arguments or there:
        counts = run([f"tests.nightly.{name}"])
        total = total.plus(counts)
        say(f"nightly {name}: {counts}\n")
        if counts.failed or counts.skipped or not counts.passed:
            bad.append(name)
    if bad:
        say(f"nightly check failed: {', '.join(bad)}\n")
    say(f"{total}\n")
    return 1 if bad or not total.passed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
