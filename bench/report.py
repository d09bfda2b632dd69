"""The tables of ``docs/performance.rst``, from the results of the last runs: ``python -m bench.report``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.goals import GOALS, ratio
from bench.peers import NGINX, OURS, PLAIN, REGISTRY, Row
from bench.table import figures_by, figures_of, peers_of, sizes_of

RESULTS: Final = Path(__file__).parent / "results"
#: Compared by their rate and by the processor time that they take.
_RATES: Final = ("GB a second", "1000 requests a second")


def main() -> None:
    """Print them all."""
    results = {
        path.stem: json.loads(path.read_text("utf-8"))["rows"] for path in sorted(RESULTS.glob("*.json"))
    }
    print(simple_table(("goal", "wanted", "found", "reached"), [goal.line(results) for goal in GOALS]))
    print()
    print(_rates({name: rows for name, rows in results.items() if sizes_of(rows) == [None]}))
    for name, rows in results.items():
        print(f"\n{name}\n")
        print(_medians(rows))


def simple_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """
    A simple table of reStructuredText.

    >>> print(simple_table(("a", "b"), [("1", "two")]))
    =  ===
    a  b
    =  ===
    1  two
    =  ===
    """
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    written = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *lines)
    ]
    return "\n".join([rule, written[0], rule, *written[1:], rule])


def _rates(results: Mapping[str, Sequence[Row]]) -> str:
    lines = []
    for name, rows in results.items():
        rate = next((figure for figure in _RATES if figure in figures_of(rows)), None)
        cpu = next((figure for figure in figures_of(rows) if figure.startswith("cpu seconds per")), None)
        if rate is None or cpu is None or OURS not in peers_of(rows):
            continue
        others = [_spread(rows, rate, peer) for peer in (NGINX, REGISTRY, PLAIN)]
        lines.append([name, *others, *(_median(rows, cpu, peer) for peer in (OURS, PLAIN, NGINX, REGISTRY))])
    head = (
        "case",
        "rate, times nginx",
        "times registry",
        "times ``off``",
        "CPU",
        "``off``",
        "nginx",
        "registry",
    )
    return simple_table(head, lines)


def _spread(rows: Sequence[Row], figure: str, other: str) -> str:
    found = zip(figures_by(rows, OURS, figure), figures_by(rows, other, figure), strict=False)
    ratios = [mine / its for mine, its in found if its]
    if not ratios:
        return ".."
    return f"{ratio(figure, OURS, other)(rows):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _median(rows: Sequence[Row], figure: str, peer: str, size: int | None = None) -> str:
    found = figures_by(rows, peer, figure, size)
    return f"{statistics.median(found):.3g}" if found else ".."


def _medians(rows: Sequence[Row]) -> str:
    peers = peers_of(rows)
    lines = [
        [figure if size is None else f"{figure}, {size:,} {rows[0]['of']}"]
        + [_median(rows, figure, peer, size) for peer in peers]
        for figure in figures_of(rows)
        for size in sizes_of(rows)
    ]
    loads = [float(str(row["load"])) for row in rows if "load" in row]
    table = simple_table(["median", *peers], lines)
    return f"{table}\n\n(load {min(loads):.1f} to {max(loads):.1f})" if loads else table


if __name__ == "__main__":
    main()
