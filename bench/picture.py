"""
A case as a picture: a row of bars for each figure, each bar a median and its spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from typing import Final

from bench.peers import Row

_COLOURS: Final = ("#2a6fb0", "#8db4d9", "#3c9a5f", "#c9862b")
_BAR, _GAP, _LEFT, _WIDTH = 18, 26, 230, 420


def picture(name: str, rows: Sequence[Row]) -> str:
    """
    The text of an SVG file.
    """
    peers = list(dict.fromkeys(str(row["peer"]) for row in rows))
    lines = [f'<text x="10" y="22" font-size="16">{escape(name)}</text>']
    y = 44
    for figure in [key for key in rows[0] if key not in {"peer", "round"}]:
        lines.append(f'<text x="10" y="{y + 12}" font-weight="bold">{escape(figure)}</text>')
        y += 20
        columns = {peer: [float(str(row[figure])) for row in rows if row["peer"] == peer] for peer in peers}
        scale = _WIDTH / (max(max(column) for column in columns.values()) or 1.0)
        for number, (peer, column) in enumerate(columns.items()):
            lines += _bar(y, peer, column, scale, _COLOURS[number % len(_COLOURS)])
            y += _BAR + 2
        y += _GAP - _BAR
    size = f'width="{_LEFT + _WIDTH + 90}" height="{y + 10}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>", ""])


def _bar(y: int, peer: str, column: Sequence[float], scale: float, colour: str) -> list[str]:
    middle = statistics.median(column)
    low, high = (_LEFT + value * scale for value in (min(column), max(column)))
    centre = y + _BAR // 2
    return [
        f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(peer)}</text>',
        f'<rect x="{_LEFT}" y="{y}" width="{middle * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{centre}" y2="{centre}" stroke="black"/>',
        f'<text x="{high + 8:.1f}" y="{y + 13}">{middle:.4g}</text>',
    ]
