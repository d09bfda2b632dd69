"""A daemon and its root directory, looked at from outside: nothing wrong, nothing forgotten."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from tests.real.images import digest_of

_INDEX: Final = "contentcache/index.sqlite3"
_OWN: Final = frozenset(
    {
        _INDEX,
        f"{_INDEX}-wal",
        f"{_INDEX}-shm",
        "contentcache/lock",
        "contentcache/history.json",
        "contentcache/history.json.new",  # after a kill; it is written over
        "contentcache/lists.key",
    }
)
_BLOBS: Final = "docker/registry/v2/blobs/"
_PARTIALS: Final = "contentcache/partial/"


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def stored(root: Path) -> dict[str, Path]:
    """Every blob's file, by digest."""
    found = {}
    for path in (root / _BLOBS).glob("*/*/*/data"):
        algorithm, _, digits, _ = path.relative_to(root / _BLOBS).parts
        found[f"{algorithm}:{digits}"] = path
    return found


def partials(root: Path) -> dict[str, Path]:
    """
    Every partial file by digest: of one origin, where there are several. The keys of notes have the rest of
    their names too.
    """
    found = {f"{path.parent.name}:{path.name}": path for path in (root / _PARTIALS).glob("*/*")}
    return {name if name.endswith(".held") else name.partition(".")[0]: path for name, path in found.items()}


def audit(root: Path, unfinished: Collection[str] | None = None) -> list[str]:
    """
    What is wrong with the store, a sentence each: a blob whose bytes are not what its name says, and
    rubbish. Partial files may be there for ``unfinished`` only, if that is given.
    """
    faults = [
        f"{digest} is something else"
        for digest, path in stored(root).items()
        if digest_of(path.read_bytes(), "sha512" if digest.startswith("sha512") else "sha256") != digest
    ]
    known = {*stored(root).values(), *partials(root).values()}
    faults += [
        f"{path} is rubbish"
        for path in root.rglob("*")
        if path.is_file() and path not in known and str(path.relative_to(root)) not in _OWN
    ]
    if unfinished is not None:
        faults += [f"a partial file of {digest}" for digest in partials(root) if digest not in unfinished]
    return faults


def index(root: Path) -> Mapping[str, tuple[int, bool]]:
    """What the index says of each blob, the daemon being stopped: bytes, and whether it is verified."""
    with sqlite3.connect(f"file:{root / _INDEX}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT digest, size, verified FROM blobs").fetchall()
    database.close()
    return {str(digest): (int(size), bool(verified)) for digest, size, verified in rows}


def disagreements(root: Path) -> list[str]:
    """Where index and store differ, a sentence each, the daemon being stopped."""
    records, files = index(root), stored(root)
    faults = [f"{digest} is in the index only" for digest in records.keys() - files.keys()]
    faults += [f"{digest} is in the store only" for digest in files.keys() - records.keys()]
    faults += [
        f"{digest} has {files[digest].stat().st_size} bytes, and {records[digest][0]} in the index"
        for digest in records.keys() & files.keys()
        if files[digest].stat().st_size != records[digest][0]
    ]
    return faults
