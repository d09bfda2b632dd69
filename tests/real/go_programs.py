"""Programs that Debian does not have, built with Go by ``scripts/install-go-peers``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from tests.real.programs import ROOT, program

Marked = TypeVar("Marked")

#: Where the script puts them, unless the environment says another folder.
FOLDER: Final = Path(os.environ.get("CONTENTCACHE_GO_PEERS", ROOT / "var" / "go" / "bin"))


def go_program(name: str) -> str | None:
    """The path of a program that was built with Go, else of one that is installed."""
    built = FOLDER / name
    return str(built) if os.access(built, os.X_OK) else program(name)


def needs_go(*names: str) -> Callable[[Marked], Marked]:
    """A decorator of tests and their classes: skip, and count as not run, where a program is missing."""
    missing = [name for name in names if go_program(name) is None]

    def mark(test: Marked) -> Marked:
        if missing:
            reason = f"needs {', '.join(missing)}: scripts/install-go-peers builds it"
            test.skip = reason  # type: ignore[attr-defined]
        return test

    return mark
