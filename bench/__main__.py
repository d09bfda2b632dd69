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

from bench import cases, signed, speed
from bench.peers import Row
from bench.picture import picture

CASES = {**cases.CASES, **speed.CASES, **signed.CASES}
RESULTS = Path(__file__).parent / "results"


def table_of(name: str, title: str, rows: Sequence[Row]) -> Table:
    """
    One line a figure: each peer's median with its spread, and ours in terms of it.
    """
    table = Table(title=f"{name}: {title}", title_justify="left")
    table.add_column("figure")
    peers = list(dict.fromkeys(str(row["peer"]) for row in rows))
    for peer in peers:
        table.add_column(peer, justify="right")
    for figure in figures_of(rows):
        columns = [figures_by(rows, peer, figure) for peer in peers]
        table.add_row(figure, *(_shown(column, columns[0]) for column in columns))
    return table


def figures_of(rows: Sequence[Row]) -> list[str]:
    """
    The names of what was measured.
    """
    return [key for key in rows[0] if key not in {"peer", "round"}]


def figures_by(rows: Sequence[Row], peer: str, figure: str) -> list[float]:
    """
    One figure of one peer, round by round.
    """
    return [float(_number(row[figure])) for row in rows if row["peer"] == peer]


def _number(value: object) -> Any:
    return value


def _shown(column: Sequence[float], ours: Sequence[float]) -> str:
    middle = statistics.median(column)
    said = f"{middle:.4g}"
    if len(column) > 1:
        said += f"\n{min(column):.3g} to {max(column):.3g}"
    if column is not ours and middle:
        # Round by round: what disturbs the machine disturbs neighbours in time alike.
        ratios = sorted(mine / its for mine, its in zip(ours, column, strict=True) if its)
        said += f"\nours x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return said


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(CASES)))
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each case, instead of its own number.")
def main(names: Sequence[str], rounds: int | None) -> None:
    """
    Run the cases NAMES, or all of them.
    """
    console = Console(width=130)
    console.print(f"Python {platform.python_version()}, Linux {platform.release()}")
    RESULTS.mkdir(exist_ok=True)
    for name in names or sorted(CASES):
        case, own_rounds = CASES[name]
        with console.status(f"{name} …"):
            rows = case(rounds or own_rounds)
        console.print(table_of(name, " ".join((case.__doc__ or "").split()), rows))
        (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
        (RESULTS / f"{name}.svg").write_text(picture(name, rows), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
