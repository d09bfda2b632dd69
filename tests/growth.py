"""
How the time of a function grows with its input, told by ratios of the CPU time of this thread.

Ratios, and the best of several runs, hold on a busy machine, where no absolute time does. What is faster than
any quadratic function can be at the largest size is not measured further.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

#: Sizes in characters that are compared.
SIZES: Final = (8 << 10, 16 << 10, 32 << 10)
#: Smaller sizes, at which exponential and cubic functions are noticed before they take for ever.
_SMALL_SIZES: Final = (24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 128, 192, 384, 1536)
#: A quadratic function needs more CPU seconds than this for the largest size: it takes 5 * 10**8 steps.
_SURELY_LINEAR: Final = 0.02
#: CPU seconds that no linear function needs for a small size.
_SURELY_SUPERLINEAR: Final = 0.1
_TRIES: Final = 5
#: After so many CPU seconds there are no more tries: what takes long is disturbed little.
_ENOUGH: Final = 0.5
#: Each size is twice the one before. A linear function takes 2 times as long, a quadratic one 4 times.
_LARGEST_RATIO: Final = 3.0
#: A smaller ratio than this between the largest size and the smallest needs no more tries: linear is 4.
_SOON_TOLD: Final = 6.0


def _cpu_seconds(run: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    run(text)
    return time.thread_time() - began


def superlinear(
    run: Callable[[str], object], text_of: Callable[[int], str], sizes: Sequence[int] = SIZES
) -> str | None:
    """
    What shows that ``run`` takes more than linear time, ``None`` where nothing does. ``text_of`` makes an
    input of about so many characters; each of ``sizes`` is twice the one before.
    """
    surely_linear = _SURELY_LINEAR * (sizes[-1] / SIZES[-1]) ** 2
    for size in _SMALL_SIZES:
        if all(_cpu_seconds(run, text_of(size)) > _SURELY_SUPERLINEAR for _ in range(2)):
            return f"more than {_SURELY_SUPERLINEAR} CPU seconds for {size} characters"
    small, large = _cpu_seconds(run, text_of(sizes[0])), _cpu_seconds(run, text_of(sizes[-1]))
    if large < max(surely_linear, small * _SOON_TOLD):
        return None
    seconds = [_best(run, text_of(size)) for size in sizes]
    if seconds[-1] < surely_linear or not _grows(seconds):
        return None
    shown = ", ".join(f"{size} characters: {s * 1000:.1f} ms" for size, s in zip(sizes, seconds, strict=True))
    return f"superlinear ({shown})"


def _best(run: Callable[[str], object], text: str) -> float:
    found: list[float] = []
    while len(found) < _TRIES and sum(found) < _ENOUGH:
        found.append(_cpu_seconds(run, text))
    return min(found)


def _grows(seconds: Sequence[float]) -> bool:
    first, middle, last = seconds
    # Both steps and the whole: one of them alone may be another process's doing.
    return last / max(middle, 1e-9) > _LARGEST_RATIO and last / max(first, 1e-9) > _LARGEST_RATIO**2
