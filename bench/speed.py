"""
The cases about speed: Content Cache, nginx and docker-registry side by side, in alternating rounds.

nginx checks no right and no digest, docker-registry's proxy no right; Content Cache does both, and writes
its access log, as nginx does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from threading import Thread
from typing import Final

from bench.cases import slow_client
from bench.load import curl, heads, sink, wrk
from bench.peers import ALL, NGINX, OURS, REGISTRY, Peer, Row, in_turn, running
from bench.quota import shares
from bench.scene import stage
from tests.real.clients import skopeo_copy
from tests.real.images import push_image
from tests.real.origin import Origin
from tests.real.programs import place

_BASIC: Final = "Authorization: Basic YW5uOjE="
#: One after the other: which core the scheduler gives a client, and the clock's grain, count less then.
_TRANSFERS: Final = 4
_THREE: Final = (OURS, NGINX, REGISTRY)


def _warm(
    rounds: int, size: int, clients: int, options: Sequence[str] = (), *, tls: bool = False
) -> list[Row]:
    with running(ALL, tls=tls) as (on, blobs, peers):
        path = blobs.put(size, "warm")
        for peer in peers:
            curl(on, peer.url + path, size)

        def measure(peer: Peer, _number: int) -> Row:
            url = peer.url + path
            seconds = 0.0
            for _ in range(_TRANSFERS):
                if tls:
                    taken = curl(on, url, size, clients=clients, options=options)
                else:
                    taken = sink(url, size, clients=clients)
                seconds += taken.seconds
            sent = size * clients * _TRANSFERS
            return {"bytes": sent, "GB a second": sent / seconds / 1e9}

        return in_turn(peers, rounds, measure)


def _small(
    rounds: int,
    size: int,
    *,
    method: str = "GET",
    headers: Sequence[str] = (),
    names: Sequence[str] = ALL,
    share: float | None = None,
) -> list[Row]:
    with running(names) as (on, blobs, peers):
        path = blobs.put(size, "small")
        for peer in peers:
            curl(on, peer.url + path, size)
            wrk(on, peer.url + path, clients=1, seconds=1, headers=headers)

        def measure(peer: Peer, _number: int) -> Row:
            url = peer.url + path
            rate = heads(url) if method == "HEAD" else wrk(on, url, headers=headers, seconds=2)
            return {
                "count": rate.requests,
                "1000 requests a second": rate.requests / rate.seconds / 1e3,
                "median ms": rate.median,
                "p99 ms": rate.p99,
            }

        with nullcontext() if share is None else shares(peers, share):
            return in_turn(peers, rounds, measure)


def cold_large(rounds: int, size: int = 1_000_000_000) -> list[Row]:
    """One client takes a cold blob of 1 GB, as fast as it comes."""
    with running() as (_on, blobs, peers):

        def measure(peer: Peer, number: int) -> Row:
            path = blobs.put(size, f"cold {peer.name} {number}")
            taken = sink(peer.url + path, size)
            return {
                "bytes": size,
                "GB a second": size / 1e9 / taken.seconds,
                "first byte ms": taken.first[0] * 1e3,
            }

        return in_turn(peers, rounds, measure)


def image(rounds: int) -> list[Row]:
    """skopeo pulls an image of three layers (60 MB), cold and then warm."""
    with stage() as on:
        origin = Origin(on)
        with running(_THREE, origin=origin.host) as (_, _blobs, peers):

            def measure(peer: Peer, number: int) -> Row:
                sizes = (40_000_000, 15_000_000, 5_000_000)
                made = push_image(
                    origin, "org/app", f"{peer.name[0]}{number}", layers=sizes, seed=f"{peer.name}{number}"
                )
                seconds = []
                for _ in range(2):
                    began = time.monotonic()
                    skopeo_copy(made.reference(peer.host), place(on))
                    seconds.append(time.monotonic() - began)
                return {"cold seconds": seconds[0], "warm seconds": seconds[1]}

            return in_turn(peers, rounds, measure)


def lag(rounds: int, size: int = 400_000_000) -> list[Row]:
    """1 kB hits while eight clients take blobs that are on the disk only; nginx with ``aio threads``."""
    with running(ALL, nginx="aio threads;") as (on, blobs, peers):
        small = blobs.put(1000, "small")
        large = [blobs.put(size // 8, f"large {number}") for number in range(8)]
        for peer in peers:
            for path in (small, *large):
                curl(on, peer.url + path, 1000 if path == small else size // 8)

        def measure(peer: Peer, _number: int) -> Row:
            peer.drop_pages()
            readers = [Thread(target=partial(sink, peer.url + path, size // 8)) for path in large]
            for reader in readers:
                reader.start()
            rate = wrk(on, peer.url + small, clients=4, seconds=2)
            for reader in readers:
                reader.join()
            return {"bytes": size, "median ms": rate.median, "p99 ms": rate.p99}

        return in_turn(peers, rounds, measure)


def slow(rounds: int, clients: int = 500, blobs_: int = 100, size: int = 8 << 20) -> list[Row]:
    """500 clients that hardly read, on 100 cold blobs of 8 MiB: the growth of memory."""
    rows: list[Row] = []
    for number in range(rounds):
        with running(_THREE) as (on, blobs, peers):
            small = blobs.put(1000, "first")
            for peer in peers:
                curl(on, peer.url + small, 1000)
            paths = [blobs.put(size, f"slow {each}") for each in range(blobs_)]

            def measure(peer: Peer, _number: int, paths: Sequence[str] = paths) -> Row:
                before = peer.peak()
                with ExitStack() as held:
                    for each in range(clients):
                        held.enter_context(slow_client(peer.host, paths[each % blobs_]))
                    time.sleep(2)
                    return {"MiB more at the most": peer.peak() - before}

            rows += [{**row, "round": number} for row in in_turn(peers, 1, measure)]
    return rows


def first_byte(rounds: int, size: int = 20_000_000) -> list[Row]:
    """The first byte of a cold blob of 20 MB, while 32 clients ask for 1 kB hits."""
    with running() as (on, blobs, peers):
        small = blobs.put(1000, "small")
        for peer in peers:
            curl(on, peer.url + small, 1000)

        def measure(peer: Peer, number: int) -> Row:
            path = blobs.put(size, f"first {peer.name} {number}")
            load = Thread(target=partial(wrk, on, peer.url + small, seconds=2))
            load.start()
            time.sleep(0.5)
            (first,) = curl(on, peer.url + path, size).first
            load.join()
            return {"first byte ms": first * 1e3}

        return in_turn(peers, rounds, measure)


def _told(words: str, case: Callable[[int], list[Row]]) -> Callable[[int], list[Row]]:
    def told(rounds: int) -> list[Row]:
        return case(rounds)

    told.__doc__ = words
    return told


def _tls(version: str, *, most: str | None = None) -> Callable[[int], list[Row]]:
    options = [f"--tlsv{version}", *(["--tls-max", most] if most else [])]
    case = partial(_warm, size=500_000_000, clients=1, options=options, tls=True)
    return _told(f"One client takes a warm blob of 500 MB by TLS {version}.", case)


_BLOB = "a warm blob of 500 MB"
CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "warm-1": (_told(f"One client takes {_BLOB}.", partial(_warm, size=500_000_000, clients=1)), 5),
    "warm-4": (_told(f"Four clients take {_BLOB}.", partial(_warm, size=500_000_000, clients=4)), 5),
    "warm-64": (
        _told("64 clients take a warm blob of 100 MB.", partial(_warm, size=100_000_000, clients=64)),
        5,
    ),
    "warm-tls12": (_tls("1.2", most="1.2"), 5),
    "warm-tls13": (_tls("1.3"), 5),
    "small-1k": (_told("1 kB, 32 clients on open connections.", partial(_small, size=1000)), 5),
    "small-1k-basic": (_told("1 kB, with a password.", partial(_small, size=1000, headers=[_BASIC])), 5),
    "small-1k-head": (_told("HEAD of 1 kB.", partial(_small, size=1000, method="HEAD")), 5),
    "small-range": (
        _told(
            "1 kB out of 1 MB, by Range.", partial(_small, size=1 << 20, headers=["Range: bytes=5000-5999"])
        ),
        5,
    ),
    "small-100k": (_told("100 kB, 32 clients on open connections.", partial(_small, size=100_000)), 5),
    "cold-1": (cold_large, 5),
    "image": (image, 5),
    "lag": (lag, 5),
    "slow": (slow, 3),
    "first-byte": (first_byte, 5),
}
