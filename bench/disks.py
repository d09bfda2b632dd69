"""The cases about what disks do to those who do not need them: they stall."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from attrs import evolve

from bench.load import Rate, curl, wrk
from bench.peers import ALL, NGINX, Blobs, Peer, Row, in_turn, running
from bench.scene import Stage
from bench.stalling_disk import cover
from tests.real.origin import blob_path
from tests.real.programs import Process, until

_SMALL: Final = 1000
_MIDDLE: Final = 100_000
#: Takes minutes in pieces of 128 KiB.
_LARGE: Final = 64 << 20
#: Seconds, and what curl says when they are over.
_PATIENCE: Final = 30
_TOO_LATE: Final = 28
_WINDOW: Final = 2


def stalling(rounds: int, readers: int = 8, seconds: float = 0.5) -> list[Row]:
    """
    1 kB and 100 kB hits, and a cold 1 kB, while eight clients read a blob of 64 MiB from a disk that takes
    half a second for each read (FUSE); nginx with ``aio threads``.
    """
    return _stalling(rounds, readers, seconds)


def stalling_many(rounds: int, readers: int = 64, seconds: float = 0.5) -> list[Row]:
    """
    The same with 64 such clients: more than there are threads for the disk. (2 s and 30 s mean: no
    answer until then.)
    """
    return _stalling(rounds, readers, seconds)


def _stalling(rounds: int, readers: int, seconds: float) -> list[Row]:
    with running(ALL, nginx="aio threads;") as (on, blobs, peers):
        sizes = {blobs.put(size, f"stalling {size}"): size for size in (_SMALL, _MIDDLE, _LARGE)}
        small, middle, large = sizes
        for peer in peers:
            for path, size in sizes.items():
                curl(on, peer.url + path, size)
            # The registry puts a blob away after it has answered.
            found = until(partial(_files_of, peer, large), "the blob in the store")
            cover(on, found[0], seconds)

        def measure(peer: Peer, number: int) -> Row:
            waiting = [_reader(on, peer.url + large) for _ in range(readers)]
            time.sleep(2 * seconds)
            one, hundred = (_hits(on, peer.url + path) for path in (small, middle))
            cold = _cold(on, blobs, peer, number)
            assert all(reader.alive for reader in waiting), "a stalled reader has ended"
            for reader in waiting:
                reader.kill9()
            return {
                "1 kB, answers": float(one.requests),
                "1 kB, median ms": one.median,
                "1 kB, p99 ms": one.p99,
                "100 kB, answers": float(hundred.requests),
                "100 kB, median ms": hundred.median,
                "100 kB, p99 ms": hundred.p99,
                "cold 1 kB, ms": cold * 1e3,
            }

        return in_turn(peers, rounds, measure)


def _hits(on: Stage, url: str) -> Rate:
    rate = wrk(on, url, clients=4, seconds=_WINDOW)
    # Without one answer wrk says 0 ms; it was at least as long as was waited for one.
    return rate if rate.requests else evolve(rate, median=_WINDOW * 1e3, p99=_WINDOW * 1e3)


def _reader(on: Stage, url: str) -> Process:
    return Process(on, ["curl", "-s", "-o", "/dev/null", url], name="curl")


def _cold(on: Stage, blobs: Blobs, peer: Peer, number: int) -> float:
    url = peer.url + blobs.put(_SMALL, f"cold {peer.name} {number}")
    words = ["curl", "-s", "-o", "/dev/null", "--max-time", str(_PATIENCE), "-w", "%{time_total}", url]
    client = Process(on, words, name="curl")
    assert client.wait() in {0, _TOO_LATE}, client.log()
    return float(client.log())


def _files_of(peer: Peer, path: str) -> list[Path]:
    files = [blob_path(peer.root, path.rpartition("/")[2])]
    if peer.name == NGINX:
        files = list((peer.root / "cache").rglob("*"))
    return [file for file in files if file.is_file() and file.stat().st_size >= _LARGE]


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "stalling": (stalling, 5),
    "stalling-64": (stalling_many, 3),
}
