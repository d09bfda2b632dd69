"""
The operator's rules: which repositories are allowed, and which tags are immutable.

In a glob ``*`` matches anything within a path component, ``**`` anything at all, ``?`` one character. A ``*`` at
the end of a glob in ``deny`` matches below as well: ``secret/*`` denies ``secret/a/b`` too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache


class Glob:
    """
    A glob that is matched in time linear in the name: all positions of the glob that the name may have reached
    are followed at once, each a bit (Thompson's NFA simulation).
    """

    def __init__(self, glob: str, *, deep: bool = False) -> None:
        if deep and glob.endswith("*") and not glob.endswith("**"):
            glob += "*"
        pieces = [part for part in re.split(r"(\*\*|\*|\?|.)", glob, flags=re.DOTALL) if part]
        self._literals: dict[str, int] = defaultdict(int)
        self._any = self._stars = self._deep = 0
        self._end = 1 << len(pieces)
        for position, piece in enumerate(pieces):
            bit = 1 << position
            if piece == "?":
                self._any |= bit
            elif piece.startswith("*"):
                self._stars |= bit
                self._deep |= bit if piece == "**" else 0
            else:
                self._literals[piece] |= bit
        self._literals = dict(self._literals)

    def matches(self, name: str) -> bool:
        """
        Whether the glob matches ``name``.

        >>> Glob("org/*").matches("org/app"), Glob("org/*").matches("org/a/b")
        (True, False)
        >>> Glob("**/app").matches("org/sub/app")
        True
        """
        reached = self._past_stars(1)
        for character in name:
            within = character != "/"
            onward = self._literals.get(character, 0) | (self._any if within else 0)
            reached = (reached & onward) << 1 | reached & (self._stars if within else self._deep)
            reached = self._past_stars(reached)
        return bool(reached & self._end)

    def _past_stars(self, reached: int) -> int:
        # A star may match nothing.
        while (further := reached | (reached & self._stars) << 1) != reached:
            reached = further
        return reached


@lru_cache(maxsize=1024)
def _compiled(globs: tuple[str, ...], *, deep: bool) -> tuple[Glob, ...]:
    return tuple(Glob(glob, deep=deep) for glob in globs)


def allowed(repository: str, allow: Sequence[str], deny: Sequence[str]) -> bool:
    """
    Whether a repository is allowed: nothing in ``deny`` matches, and something in ``allow``, unless it is empty.

    >>> allowed("org/app", ["org/*"], []), allowed("org/app", [], ["**/app"])
    (True, False)
    """
    if any(glob.matches(repository) for glob in _compiled(tuple(deny), deep=True)):
        return False
    return not allow or any(glob.matches(repository) for glob in _compiled(tuple(allow), deep=False))


def immutable(tag: str, pattern: str | None) -> bool:
    """
    Whether a tag is declared immutable: by a glob, or by a regular expression that starts with ``^``.

    >>> immutable("v1.2.3", "v*.*.*"), immutable("latest", r"^v\\d+$"), immutable("v12", r"^v\\d+$")
    (True, False, True)
    """
    if pattern is None:
        return False
    if pattern.startswith("^"):
        return re.search(pattern, tag, re.ASCII) is not None
    return _compiled((pattern,), deep=False)[0].matches(tag)
