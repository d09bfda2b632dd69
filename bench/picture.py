"""
A case as a picture: a row of bars for each figure, each bar a median and its spread; or, where it was
measured at several sizes, how each figure grows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from bench.peers import Row
from bench.table import figures_by, figures_of, peers_of, sizes_of

_COLOURS: Final = ("#2a6fb0", "#8db4d9", "#3c9a5f", "#c9862b", "#8a4fa0", "#777777")
_BAR, _GAP, _LEFT, _WIDTH = 18, 26, 230, 420
_SIDE, _HEIGHT, _EDGE, _LEGEND = 300, 170, 70, 210
_BROAD: Final = 3


def picture(name: str, rows: Sequence[Row]) -> str:
    """The text of an SVG file."""
    lines, width, height = _curves(rows) if sizes_of(rows) != [None] else _bars(rows)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    title = f'<text x="10" y="22" font-size="16">{escape(name)}</text>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', title, *lines, "</svg>", ""])


def _bars(rows: Sequence[Row]) -> tuple[list[str], int, int]:
    lines: list[str] = []
    y = 44
    for figure in figures_of(rows):
        lines.append(f'<text x="10" y="{y + 12}" font-weight="bold">{escape(figure)}</text>')
        y += 20
        columns = {peer: figures_by(rows, peer, figure) for peer in peers_of(rows)}
        scale = _WIDTH / (max(max(column, default=0.0) for column in columns.values()) or 1.0)
        for number, (peer, column) in enumerate(columns.items()):
            if column:
                lines += _bar(y, peer, column, scale, _COLOURS[number % len(_COLOURS)])
                y += _BAR + 2
        y += _GAP - _BAR
    return lines, _LEFT + _WIDTH + 90, y + 10


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


def _curves(rows: Sequence[Row]) -> tuple[list[str], int, int]:
    lines = [
        f'<rect x="{x}" y="34" width="12" height="12" fill="{colour}"/>'
        f'<text x="{x + 17}" y="45">{escape(peer)}</text>'
        for x, colour, peer in zip(range(10, 2000, _LEGEND), _COLOURS, peers_of(rows), strict=False)
    ]
    figures = figures_of(rows)
    for number, figure in enumerate(figures):
        row, column = divmod(number, _BROAD)
        medians = {
            peer: {
                size: statistics.median(found)
                for size in sizes_of(rows)
                if size is not None and (found := figures_by(rows, peer, figure, size))
            }
            for peer in peers_of(rows)
        }
        left, top = column * (_SIDE + _EDGE) + _EDGE, row * (_HEIGHT + _EDGE) + 2 * _GAP + 40
        lines += _chart(left, top, f"{figure}, by {rows[0]['of']}", medians)
    high = math.ceil(len(figures) / _BROAD) * (_HEIGHT + _EDGE) + 2 * _GAP + 40
    broad = max(min(len(figures), _BROAD) * (_SIDE + _EDGE) + 20, _LEGEND * len(peers_of(rows)) + 20)
    return lines, broad, high


def _chart(left: int, top: int, title: str, medians: Mapping[str, Mapping[int, float]]) -> list[str]:
    sizes = sorted({size for found in medians.values() for size in found})
    values = [value for found in medians.values() for value in found.values() if value > 0]
    low, high = 10 ** math.floor(math.log10(min(values, default=1))), max(values, default=1) * 1.2

    def x(size: int) -> float:
        span = math.log(sizes[-1] / sizes[0]) or 1.0
        return left + 10 + (_SIDE - 20) * math.log(size / sizes[0]) / span

    def y(value: float) -> float:
        return top + _HEIGHT * (1 - math.log(max(value, low) / low) / math.log(high / low))

    lines = [
        f'<text x="{left}" y="{top - 8}" font-weight="bold">{escape(title)}</text>',
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_HEIGHT}" fill="none" stroke="#999"/>',
        *(
            f'<text x="{x(size):.0f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{size:,}</text>'
            for size in sizes
        ),
        *(
            f'<text x="{left - 6}" y="{y(tick) + 4:.0f}" text-anchor="end">{tick:g}</text>'
            f'<line x1="{left}" x2="{left + _SIDE}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            for tick in _ticks(low, high)
        ),
    ]
    for number, found in enumerate(medians.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(x(size), y(value)) for size, value in sorted(found.items())]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
    return lines


def _ticks(low: float, high: float) -> list[float]:
    powers = math.ceil(math.log10(high / low))
    steps = (1, 3) if powers <= _BROAD else (1,)
    return [tick for power in range(powers + 1) for step in steps if (tick := low * 10**power * step) <= high]
