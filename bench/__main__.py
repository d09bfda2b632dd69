"""
Runs cases, prints medians side by side with their ratio, and keeps every row as JSON in ``bench/results``.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.cases import CASES, Row
from bench.scene import PEERS

RESULTS = Path(__file__).parent / "results"


def table_of(name: str, title: str, rows: Sequence[Row]) -> Table:
    """
    One line a figure: each peer's median with its spread, and ours in terms of the other's.
    """
    table = Table(title=f"{name}: {title}", title_justify="left")
    table.add_column("figure")
    for peer in PEERS:
        table.add_column(peer, justify="right")
    table.add_column("ratio", justify="right")
    figures = [key for key in rows[0] if key not in {"peer", "round"}]
    for figure in figures:
        columns = [[float(_number(row[figure])) for row in rows if row["peer"] == peer] for peer in PEERS]
        medians = [statistics.median(column) for column in columns]
        ratio = f"{medians[0] / medians[1]:.3g}" if medians[1] else "-"
        table.add_row(figure, *map(_shown, columns), ratio)
    return table


def _number(value: object) -> Any:
    return value


def _shown(column: Sequence[float]) -> str:
    middle = f"{statistics.median(column):.4g}"
    return middle if len(column) == 1 else f"{middle} ({min(column):.3g} to {max(column):.3g})"


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(CASES)))
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each case, instead of its own number.")
def main(names: Sequence[str], rounds: int | None) -> None:
    """
    Run the cases NAMES, or all of them.
    """
    console = Console(width=110)
    console.print(f"Python {platform.python_version()}, Linux {platform.release()}")
    RESULTS.mkdir(exist_ok=True)
    for name in names or sorted(CASES):
        case, own_rounds = CASES[name]
        with console.status(f"{name} …"):
            rows = case(rounds or own_rounds)
        console.print(table_of(name, " ".join((case.__doc__ or "").split()), rows))
        (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
