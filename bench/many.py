"""
The cases about many blobs: what a start, a sweep and the adoption of a registry's folder cost.

A million records are made as the index makes them itself; files are there of what is to be deleted only.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from bench.peers import OURS, REGISTRY, Blobs, Peer, Row, load, tell
from bench.scene import Stage, stage
from contentcache.core.digest import Digest
from contentcache.storage.index_sqlite import SqliteIndex
from contentcache.storage.interfaces import BlobRecord
from tests.real.cache import ContentCache
from tests.real.origin import Origin, blob_path
from tests.real.programs import place, until

_SIZE: Final = 1000
_BATCH: Final = 50_000
#: Seconds since the oldest blob was pulled.
_PAST: Final = 10_000_000
_SIZES: Final = (10_000, 100_000, 1_000_000)


def start(rounds: int) -> list[Row]:
    """
    From the start of the process until it answers: over an index of so many blobs, and over docker-registry's
    schedule of as many.
    """
    rows: list[Row] = []
    with stage() as on:
        blobs = Blobs(on)
        for count in _SIZES:
            ours, its = place(on), place(on)
            fill_index(ours, count)
            fill_schedule(its, count)
            for number in range(rounds):
                for name, root in ((OURS, ours), (REGISTRY, its)):
                    began = time.monotonic()
                    peer = _begin(on, name, blobs, root)
                    seconds = time.monotonic() - began
                    time.sleep(2)
                    figures = {"seconds until it answers": seconds, "cpu seconds": peer.cpu()}
                    rows.append(_row(rounds, peer, number, count, {**figures, "peak MiB": peer.peak()}))
                    peer.process.stop(60)
    return rows


def sweep(rounds: int) -> list[Row]:
    """A sweep that deletes 1000 or 10,000 of so many blobs, since they are more than ``maxsize``."""
    rows: list[Row] = []
    pairs = [(count, 1000) for count in _SIZES] + [(count, 10_000) for count in _SIZES[1:]]
    with stage() as on:
        roots = {count: place(on) for count in _SIZES}
        digests = {count: fill_index(root, count) for count, root in roots.items()}
        for number in range(rounds):
            for count, gone in pairs:
                root = place(on)
                shutil.copytree(roots[count], root, dirs_exist_ok=True)
                figures = _sweep(root, digests[count][:gone], (count - gone) * _SIZE)
                row = {"peer": f"{gone:,} deleted", "round": number, "at": count, "of": "blobs", **figures}
                rows.append({**row, "load": load()})
                tell(rows[-1], rounds)
                shutil.rmtree(root)
    return rows


def _sweep(root: Path, oldest: Sequence[Digest], most: int) -> Row:
    with stage() as on:
        make_files(root, oldest)
        options = {"maxsize": most, "minfree": 0, "sweepinterval": "1s"}
        cache = ContentCache(on, Blobs(on).url, options=options, root=root, log={"level": "info"})
        peer = Peer(OURS, cache.url, cache.process, root)
        first, last = (blob_path(root, str(digest)) for digest in (oldest[0], oldest[-1]))
        until(lambda: not first.exists(), "the first is gone", every=0.001)
        began, used = time.monotonic(), peer.cpu()
        until(lambda: not last.exists(), "the last is gone", timeout=600, every=0.001)
        seconds, spent = time.monotonic() - began, peer.cpu() - used
        until(lambda: cache.metric("contentcache_evictions_total") >= len(oldest), "all are counted")
        assert cache.metric("contentcache_evictions_total") == len(oldest)
        return {
            "seconds": seconds,
            "cpu seconds per 1000": spent / len(oldest) * 1e3,
            "peak MiB": peer.peak(),
        }


def adopt(rounds: int) -> list[Row]:
    """
    A registry's folder with so many blobs and no index (on a tmpfs): until it answers, and until all of them
    are known.
    """
    rows: list[Row] = []
    for number in range(rounds):
        for count in (1000, 10_000, 100_000):
            with stage() as on:
                root = _memory_place(on)
                make_files(root, [_digest(each) for each in range(count)])
                began = time.monotonic()
                peer = _begin(on, OURS, Blobs(on), root)
                answers = time.monotonic() - began
                _until_logged(peer, "index rebuilt")
                figures = {
                    "seconds until it answers": answers,
                    "seconds until all are known": time.monotonic() - began,
                    "cpu seconds": peer.cpu(),
                    "peak MiB": peer.peak(),
                }
                rows.append(_row(rounds, peer, number, count, figures))
    return rows


def fill_index(root: Path, count: int) -> list[Digest]:
    """An index of ``count`` blobs of 1000 bytes, as they would have been pulled one by one; the oldest first."""
    index = SqliteIndex(str(root / "contentcache" / "index.sqlite3"))
    digests = [_digest(number) for number in range(count)]
    now = time.time()
    for first in range(0, count, _BATCH):
        index.record(
            BlobRecord(digest, _SIZE, now - _PAST + number, verified=True)
            for number, digest in enumerate(digests[first : first + _BATCH], first)
        )
    index.rebuild_done()
    index.close()
    return digests


def make_files(root: Path, digests: Sequence[Digest]) -> None:
    """Their files, of the size that the index says, in no order, and with no bytes on the disk."""
    for digest in digests:
        path = blob_path(root, str(digest))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(_SIZE)


def fill_schedule(root: Path, count: int) -> None:
    """What docker-registry's proxy keeps: a file that says when it deletes what."""
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7 * 86400))
    keys = [f"org/app@{_digest(number)}" for number in range(count)]
    entries = {key: {"Key": key, "ExpiryData": end, "EntryType": 0} for key in keys}
    (root / "scheduler-state.json").write_text(json.dumps(entries), "ascii")


def _begin(on: Stage, name: str, blobs: Blobs, root: Path) -> Peer:
    if name == REGISTRY:
        registry = Origin(on, proxy=blobs.url, root=root)
        return Peer(name, registry.url, registry.process, root)
    cache = ContentCache(on, blobs.url, root=root, log={"level": "info"})
    return Peer(name, cache.url, cache.process, root)


def _memory_place(on: Stage) -> Path:
    """A folder in memory where there is one: to make and to delete 10^5 folders takes a disk minutes."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=memory if memory.is_dir() else None))
    on.addCleanup(lambda: shutil.rmtree(root, ignore_errors=True))
    return root


def _until_logged(peer: Peer, words: str) -> None:
    peer.process.wait_until(lambda: words in peer.process.log(), words, timeout=600)


def _digest(number: int) -> Digest:
    return Digest.parse(f"sha256:{sha256(str(number).encode()).hexdigest()}")


def _row(rounds: int, peer: Peer, number: int, count: int, figures: Mapping[str, float]) -> Row:
    row: Row = {"peer": peer.name, "round": number, "at": count, "of": "blobs", **figures, "load": load()}
    tell(row, rounds)
    return row


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "start": (start, 3),
    "sweep": (sweep, 3),
    "adopt": (adopt, 3),
}
