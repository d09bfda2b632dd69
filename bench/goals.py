"""What speed was promised, and what came of it: from the results of the last runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import frozen

from bench.peers import NGINX, OURS, OURS_2, REGISTRY, Row
from bench.table import figures_by

_GB: Final = "cpu seconds per GB"
_THOUSAND: Final = "cpu seconds per 1000 requests"
_MILLION: Final = 1_000_000


@frozen
class Goal:
    """``figure`` is what ``of`` finds in the rows of ``case``; it should be at most or at least ``bound``."""

    case: str
    words: str
    of: Callable[[Sequence[Row]], float]
    bound: float
    least: bool = False

    def line(self, results: Mapping[str, Sequence[Row]]) -> tuple[str, str, str, str]:
        """What was wanted, the goal, the figure, and whether it was reached."""
        sign = "≥" if self.least else "≤"
        goal = f"{sign} {self.bound:g}"
        if self.case not in results:
            return self.words, goal, "..", "not measured"
        figure = self.of(results[self.case])
        reached = figure >= self.bound if self.least else figure <= self.bound
        return self.words, goal, f"{figure:.3g}", "yes" if reached else "**no**"


def median(figure: str, peer: str = OURS, at: int | None = None) -> Callable[[Sequence[Row]], float]:
    """One peer's median of a figure."""
    return lambda rows: statistics.median(figures_by(rows, peer, figure, at))


def ratio(figure: str, peer: str, other: str, at: int | None = None) -> Callable[[Sequence[Row]], float]:
    """The median of ratios taken round by round: what disturbs the machine disturbs neighbours in time alike."""

    def found(rows: Sequence[Row]) -> float:
        pair = zip(figures_by(rows, peer, figure, at), figures_by(rows, other, figure, at), strict=True)
        return statistics.median(mine / its for mine, its in pair if its)

    return found


def _growth(figure: str, peer: str, low: int, high: int) -> Callable[[Sequence[Row]], float]:
    return lambda rows: median(figure, peer, high)(rows) / median(figure, peer, low)(rows)


GOALS: Final = (
    Goal("warm-1", "warm 500 MB: rate, times nginx", ratio("GB a second", OURS, NGINX), 1.0, least=True),
    Goal("warm-1", "the same: CPU per GB, times nginx", ratio(_GB, OURS, NGINX), 1.2),
    Goal("warm-1", "the same: CPU per GB, times registry", ratio(_GB, OURS, REGISTRY), 0.5),
    Goal(
        "warm-tls13", "warm 500 MB, TLS 1.3: per core, times nginx", ratio(_GB, NGINX, OURS), 1.2, least=True
    ),
    Goal("small-1k", "1 kB: per core, times nginx", ratio(_THOUSAND, NGINX, OURS), 0.6, least=True),
    Goal("small-1k", "1 kB: per core, times registry", ratio(_THOUSAND, REGISTRY, OURS), 25, least=True),
    Goal(
        "small-1k-workers",
        "1 kB: rate of two workers, times one",
        ratio("1000 requests a second", OURS_2, OURS),
        1.7,
        least=True,
    ),
    Goal(
        "small-1k-shares",
        "the same, with a quarter of a core for each process",
        ratio("1000 requests a second", OURS_2, OURS),
        1.7,
        least=True,
    ),
    Goal("small-100k", "100 kB: per core, times nginx", ratio(_THOUSAND, NGINX, OURS), 0.9, least=True),
    Goal(
        "small-1k-signed",
        "1 kB by a signed URL: rate, times granted",
        ratio("1000 requests a second", "signed", OURS),
        0.5,
        least=True,
    ),
    Goal("cold-1", "cold 1 GB: rate, times nginx", ratio("GB a second", OURS, NGINX), 0.7, least=True),
    Goal(
        "cold-line-64",
        "64 clients, cold, 100 MB/s: bytes over the line",
        median("bytes over the line per byte of blob"),
        1.005,
    ),
    Goal(
        "cold-line-64",
        "the same: done, in transfers",
        median("seconds, in transfers at the line's rate"),
        1.05,
    ),
    Goal(
        "cold-slow-line-64",
        "the same on a line of 10 MB/s: done, in transfers",
        median("seconds, in transfers at the line's rate"),
        1.05,
    ),
    Goal(
        "cold-line-64",
        "64 clients, cold, 100 MB/s: last first byte after upstream's, ms",
        median("last client's first byte after upstream's, ms"),
        50,
    ),
    Goal("image", "image by skopeo, warm: times registry", ratio("warm seconds", OURS, REGISTRY), 1.0),
    Goal("warm-pull", "the same: requests upstream", median("warm requests at the origin"), 1),
    Goal("start", "memory, idle, MiB", median("peak MiB", OURS, 10_000), 64),
    Goal("slow", "500 slow clients, 100 cold blobs: MiB more", median("MiB more at the most"), 64),
    Goal("lag", "1 kB hits beside cold pages: p99, times nginx", ratio("p99 ms", OURS, NGINX), 1.0),
    Goal(
        "stalling",
        "1 kB hits beside a stalled disk: p99, times nginx",
        ratio("1 kB, p99 ms", OURS, NGINX),
        1.0,
    ),
    Goal(
        "start", "10^6 blobs: seconds until it answers", median("seconds until it answers", OURS, _MILLION), 2
    ),
    Goal("start", "10^6 blobs: MiB", median("peak MiB", OURS, _MILLION), 150),
    Goal(
        "sweep",
        "1000 deleted of 10^6 blobs: time, times 1000 of 10^4",
        _growth("seconds", "1,000 deleted", 10_000, _MILLION),
        1.5,
    ),
    Goal("sweep", "10,000 deleted of 10^6: MiB", median("peak MiB", "10,000 deleted", _MILLION), 150),
)
