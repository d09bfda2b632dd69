"""More of the cases about cold blobs: many clients at once, a line of 100 MB/s, an origin that speaks TLS."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Thread
from typing import Final

from bench.load import sink
from bench.peers import ALL, NGINX, OURS, PLAIN, Blobs, Peer, Row, in_turn, running
from bench.scene import stage
from tests.real.line import CountingProxy

_CROWD: Final = (OURS, PLAIN, NGINX)


def tls(rounds: int, size: int = 500_000_000) -> list[Row]:
    """One client takes a cold blob of 500 MB from an origin that speaks TLS."""
    with running(upstream_tls=True) as (_on, blobs, peers):

        def measure(peer: Peer, number: int) -> Row:
            taken = sink(peer.url + blobs.put(size, f"tls {peer.name} {number}"), size)
            return {
                "bytes": size,
                "GB a second": size / 1e9 / taken.seconds,
                "first byte ms": taken.first[0] * 1e3,
            }

        return in_turn(peers, rounds, measure)


def crowd(rounds: int, clients: int = 64, size: int = 200_000_000) -> list[Row]:
    """64 clients at once on one cold blob of 200 MB, as fast as it comes."""
    with running() as (_on, blobs, peers):

        def measure(peer: Peer, number: int) -> Row:
            path = blobs.put(size, f"crowd {peer.name} {number}")
            taken = sink(peer.url + path, size, clients=clients)
            return {
                "bytes": size * clients,
                "GB a second": size * clients / 1e9 / taken.seconds,
                "last client's first byte, ms": max(taken.first) * 1e3,
            }

        return in_turn(peers, rounds, measure)


def one_on_a_line(rounds: int) -> list[Row]:
    """One client takes a cold blob of 200 MB over a line of 100 MB/s."""
    return _line(rounds, 1)


def crowd_on_a_line(rounds: int) -> list[Row]:
    """
    64 clients at once on one cold blob of 200 MB over a line of 100 MB/s: 6.4 GB/s to the clients. (For the
    registry, which takes it 65 times over the line, see ``stampede``.)
    """
    return _line(rounds, 64, names=_CROWD)


def crowd_on_a_slow_line(rounds: int) -> list[Row]:
    """64 clients at once on one cold blob of 40 MB over a line of 10 MB/s: 0.64 GB/s to the clients."""
    return _line(rounds, 64, 40_000_000, 10e6, _CROWD)


def _line(
    rounds: int,
    clients: int,
    size: int = 200_000_000,
    rate: float = 100e6,
    names: Sequence[str] = ALL,
) -> list[Row]:
    with stage() as on:
        blobs = Blobs(on)
        line = CountingProxy(on, blobs.nginx.port, rate=rate)
        with running(names, origin=line.host) as (_, _spare, peers):

            def measure(peer: Peer, number: int) -> Row:
                path = blobs.put(size, f"line {clients} {peer.name} {number}")
                line.forget()
                with _Watch(line) as watch:
                    taken = sink(peer.url + path, size, clients=clients)
                behind = taken.began + max(taken.first) - watch.first
                return {
                    "bytes": size * clients,
                    "bytes over the line per byte of blob": line.received / size,
                    "seconds, in transfers at the line's rate": taken.seconds / (size / rate),
                    "last client's first byte after upstream's, ms": behind * 1e3,
                }

            return in_turn(peers, rounds, measure)


class _Watch:
    """Sees when the first byte comes over a line."""

    def __init__(self, line: CountingProxy) -> None:
        self._line = line
        self._over = Event()
        self._thread = Thread(target=self._look)
        self.first = 0.0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._line.received:
            if self._over.wait(0.0005):
                return
        self.first = time.monotonic()


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "cold-tls": (tls, 5),
    "cold-64": (crowd, 3),
    "cold-line-1": (one_on_a_line, 3),
    "cold-line-64": (crowd_on_a_line, 3),
    "cold-slow-line-64": (crowd_on_a_slow_line, 3),
}
