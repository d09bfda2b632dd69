"""A case as a table: each peer's median with its spread, and ours in terms of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from rich.table import Table

from bench.peers import Row

#: What says where a row belongs, and is no figure.
PLACES: Final = frozenset({"peer", "round", "load", "at", "of"})


def table_of(name: str, title: str, rows: Sequence[Row]) -> Table:
    """One line a figure; where a case has several sizes, one for each of them."""
    table = Table(title=f"{name}: {title}", title_justify="left")
    table.add_column("figure")
    peers = peers_of(rows)
    for peer in peers:
        table.add_column(peer, justify="right")
    for figure in figures_of(rows):
        for size in sizes_of(rows):
            columns = [figures_by(rows, peer, figure, size) for peer in peers]
            at = "" if size is None else f"\n{size:,} {rows[0]['of']}"
            table.add_row(figure + at, *(_shown(column, columns[0]) for column in columns))
    return table


def peers_of(rows: Sequence[Row]) -> list[str]:
    """Who was measured."""
    return list(dict.fromkeys(str(row["peer"]) for row in rows))


def figures_of(rows: Sequence[Row]) -> list[str]:
    """The names of what was measured."""
    return list(dict.fromkeys(key for row in rows for key in row if key not in PLACES))


def sizes_of(rows: Sequence[Row]) -> list[int | None]:
    """The sizes at which it was measured, in their order; only ``None`` where there is but one."""
    sizes = sorted({int(str(row["at"])) for row in rows if "at" in row})
    return [*sizes] or [None]


def figures_by(rows: Sequence[Row], peer: str, figure: str, size: int | None = None) -> list[float]:
    """One figure of one peer at one size, round by round."""
    return [
        float(str(row[figure]))
        for row in rows
        if row["peer"] == peer and row.get("at") == size and figure in row
    ]


def _shown(column: Sequence[float], ours: Sequence[float]) -> str:
    if not column:
        return ""
    middle = statistics.median(column)
    said = f"{middle:.4g}"
    if len(column) > 1:
        said += f"\n{min(column):.3g} to {max(column):.3g}"
    if column is not ours and middle and len(column) == len(ours):
        # Round by round: what disturbs the machine disturbs neighbours in time alike.
        ratios = sorted(mine / its for mine, its in zip(ours, column, strict=True) if its)
        said += f"\nours x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return said
