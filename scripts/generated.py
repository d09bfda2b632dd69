"""Write a document that is made from the code, or check that it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_or_check(path: Path, pieces: Iterable[str], arguments: Sequence[str], script: str) -> int:
    """
    Write the document, or with ``--check`` among the ``arguments`` of the ``script`` compare it only; the exit
    status of the script.
    """
    text = "".join(pieces).rstrip("\n") + "\n"
    if "--check" not in arguments:
        path.write_text(text, "utf-8")
    elif not path.is_file() or path.read_text("utf-8") != text:
        sys.stderr.write(f"{path}: not up to date, run python -m {script}\n")
        return 1
    return 0
