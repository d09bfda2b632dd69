"""How cost grows: with open connections, with clients that hardly read, with the size of a blob."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from bench.cases import slow_client
from bench.load import curl, sink, wrk
from bench.peers import NGINX, OURS, REGISTRY, Peer, Row, in_turn, running

_THREE: Final = (OURS, NGINX, REGISTRY)


def by_clients(rounds: int) -> list[Row]:
    """1 kB, asked for again and again on 10, 100 and 1000 open connections."""
    rows: list[Row] = []
    with running(_THREE) as (on, blobs, peers):
        path = blobs.put(1000, "small")
        for peer in peers:
            curl(on, peer.url + path, 1000)
        for clients in (10, 100, 1000):

            def measure(peer: Peer, _number: int, clients: int = clients) -> Row:
                rate = wrk(on, peer.url + path, clients=clients, seconds=2)
                return {
                    **_at(clients, "connections"),
                    "count": rate.requests,
                    "1000 requests a second": rate.requests / rate.seconds / 1e3,
                    "median ms": rate.median,
                    "p99 ms": rate.p99,
                }

            rows += in_turn(peers, rounds, measure)
    return rows


def by_slow_clients(rounds: int, size: int = 8 << 20) -> list[Row]:
    """
    50, 500 and 2000 clients that hardly read, on 10 cold blobs of 8 MiB: memory for each. (For the registry,
    which takes 4 MiB for each, see ``slow``.)
    """
    rows: list[Row] = []
    for number in range(rounds):
        for clients in (50, 500, 2000):
            with running((OURS, NGINX)) as (on, blobs, peers):
                first = blobs.put(1000, "first")
                for peer in peers:
                    curl(on, peer.url + first, 1000)
                paths = [blobs.put(size, f"slow {each}") for each in range(10)]

                def measure(
                    peer: Peer, _number: int, paths: list[str] = paths, clients: int = clients
                ) -> Row:
                    before, used = peer.peak(), peer.cpu()
                    with ExitStack() as held:
                        for each in range(clients):
                            held.enter_context(slow_client(peer.host, paths[each % len(paths)]))
                        time.sleep(2)
                        more = peer.peak() - before
                        descriptors = peer.descriptors()
                        spent = peer.cpu() - used
                    return {
                        **_at(clients, "slow clients"),
                        "MiB more": more,
                        "KiB more for each": more * 1024 / clients,
                        "cpu ms for each": spent * 1e3 / clients,
                        "descriptors for each": descriptors / clients,
                    }

                rows += [{**row, "round": number} for row in in_turn(peers, 1, measure)]
    return rows


def by_size(rounds: int) -> list[Row]:
    """One client takes a blob of 10 MB, 100 MB and 1 GB, cold and then warm."""
    rows: list[Row] = []
    with running(_THREE) as (_on, blobs, peers):
        for size in (10_000_000, 100_000_000, 1_000_000_000):
            # CPU is counted in hundredths of a second: as many small ones as make up 100 MB.
            count = max(1, 100_000_000 // size)

            def measure(peer: Peer, number: int, size: int = size, count: int = count) -> Row:
                figures: Row = _at(size // 1_000_000, "MB")
                paths = [blobs.put(size, f"{size} {peer.name} {number} {each}") for each in range(count)]
                for temperature in ("cold", "warm"):
                    used = peer.cpu()
                    seconds = sum(sink(peer.url + path, size).seconds for path in paths)
                    amount = size * count / 1e9
                    figures[f"{temperature}, GB a second"] = amount / seconds
                    figures[f"{temperature}, cpu seconds per GB"] = (peer.cpu() - used) / amount
                return figures

            rows += in_turn(peers, rounds, measure)
    return rows


def _at(size: int, of: str) -> Row:
    return {"at": size, "of": of}


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "growth-clients": (by_clients, 3),
    "growth-slow-clients": (by_slow_clients, 2),
    "growth-size": (by_size, 3),
}
