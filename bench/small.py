"""More of the cases about warm blobs: parts, ``HEAD`` and passwords at both sizes, and two workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from bench.load import curl, sink
from bench.peers import ALL, NGINX, NGINX_2, OURS, OURS_2, Peer, Row, in_turn, running
from bench.speed import _BASIC, _small, _told

#: Who is measured where two cores are to be busy.
WORKERS: Final = (OURS, OURS_2, NGINX, NGINX_2)


def large_by_workers(rounds: int, size: int = 100_000_000, clients: int = 16) -> list[Row]:
    """16 clients take a warm blob of 100 MB; one worker and two."""
    with running(WORKERS) as (on, blobs, peers):
        path = blobs.put(size, "warm")
        for peer in peers:
            curl(on, peer.url + path, size)

        def measure(peer: Peer, _number: int) -> Row:
            taken = sink(peer.url + path, size, clients=clients)
            return {"bytes": size * clients, "GB a second": size * clients / taken.seconds / 1e9}

        return in_turn(peers, rounds, measure)


def _case(
    words: str, size: int, *, method: str = "GET", headers: Sequence[str] = (), names: Sequence[str] = ALL
) -> tuple[Callable[[int], list[Row]], int]:
    return _told(words, partial(_small, size=size, method=method, headers=headers, names=names)), 5


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "small-1k-range": _case("100 bytes out of 1 kB, by Range.", 1000, headers=["Range: bytes=500-599"]),
    "small-100k-basic": _case("100 kB, with a password.", 100_000, headers=[_BASIC]),
    "small-100k-head": _case("HEAD of 100 kB.", 100_000, method="HEAD"),
    "small-100k-range": _case("100 kB out of 1 MB, by Range.", 1 << 20, headers=["Range: bytes=5000-104999"]),
    "small-1k-workers": _case("1 kB; one worker and two.", 1000, names=WORKERS),
    "small-1k-shares": (
        _told(
            "1 kB; one worker and two, a quarter of a core for each process.",
            partial(_small, size=1000, names=WORKERS, share=0.25),
        ),
        5,
    ),
    "small-100k-workers": _case("100 kB; one worker and two.", 100_000, names=WORKERS),
    "warm-workers": (large_by_workers, 5),
}
