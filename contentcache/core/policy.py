"""
The operator's own rules: which repositories pass, and which tags never move.

In a glob ``*`` stands for anything within a path component, ``**`` for anything at all, ``?`` for one
character. A ``*`` at the end of a *denied* glob reaches below as well: who writes ``secret/*`` means
``secret/a/b`` too, and a rule that forbids had better forbid too much.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache


def glob_pattern(glob: str, *, deep: bool = False) -> re.Pattern[str]:
    """
    The regular expression that a glob means.

    >>> bool(glob_pattern("org/*").fullmatch("org/app")), bool(glob_pattern("org/*").fullmatch("org/a/b"))
    (True, False)
    >>> bool(glob_pattern("**/app").fullmatch("org/sub/app"))
    True
    """
    if deep and glob.endswith("*") and not glob.endswith("**"):
        glob += "*"
    parts = re.split(r"(\*\*|\*|\?)", glob)
    meaning = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts), re.DOTALL)


@lru_cache(maxsize=1024)
def _compiled(globs: tuple[str, ...], *, deep: bool) -> tuple[re.Pattern[str], ...]:
    return tuple(glob_pattern(glob, deep=deep) for glob in globs)


def allowed(repository: str, allow: Sequence[str], deny: Sequence[str]) -> bool:
    """
    Whether a repository passes: nothing in ``deny`` matches, and something in ``allow``, if there is any.

    >>> allowed("org/app", ["org/*"], []), allowed("org/app", [], ["**/app"])
    (True, False)
    """
    if any(pattern.fullmatch(repository) for pattern in _compiled(tuple(deny), deep=True)):
        return False
    return not allow or any(p.fullmatch(repository) for p in _compiled(tuple(allow), deep=False))


def immutable(tag: str, pattern: str | None) -> bool:
    """
    Whether a tag is declared never to move: by a glob, or by a regular expression that starts with ``^``.

    >>> immutable("v1.2.3", "v*.*.*"), immutable("latest", r"^v\\d+$"), immutable("v12", r"^v\\d+$")
    (True, False, True)
    """
    if pattern is None:
        return False
    if pattern.startswith("^"):
        return re.search(pattern, tag, re.ASCII) is not None
    return glob_pattern(pattern).fullmatch(tag) is not None
