"""The cases. Each is told how many rounds to do and answers rows of figures: one for a peer and a round."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from bench.peers import Row, load, tell
from bench.scene import PEERS, Scene, Stage, scene, stage
from tests.real.clients import Curl, skopeo_copy
from tests.real.images import push_blob, push_image, random_bytes
from tests.real.origin import Origin
from tests.real.programs import Process, place, until

_MIB: Final = 1 << 20
_CURL: Final = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{time_starttransfer}")


def alternating(
    rounds: int, measure: Callable[[Stage, Origin, Scene], Row], rate: float | None = None
) -> list[Row]:
    """``measure`` on a fresh scene for each peer in turn, ``rounds`` times."""
    rows: list[Row] = []
    for number in range(rounds):
        for peer in PEERS:
            with stage() as on:
                origin = Origin(on)
                there = scene(on, peer, origin, rate=rate)
                rows.append({"peer": peer, "round": number, **measure(on, origin, there), "load": load()})
                tell(rows[-1], rounds)
    return rows


def warm_pull(rounds: int) -> list[Row]:
    """skopeo pulls an image of three layers (60 MB) cold and then warm: requests and bytes at the origin."""

    def measure(on: Stage, origin: Origin, there: Scene) -> Row:
        image = push_image(origin, "org/app", layers=(40_000_000, 15_000_000, 5_000_000))
        seconds = []
        for _temperature in ("cold", "warm"):
            there.line.forget()
            began = time.monotonic()
            skopeo_copy(image.reference(there.host), place(on))
            seconds.append(time.monotonic() - began)
        asked = there.line.asked()
        return {
            "cold seconds": seconds[0],
            "warm seconds": seconds[1],
            "warm requests at the origin": len(asked),
            "warm bytes at the origin": sum(exchange.total for exchange in asked),
        }

    return alternating(rounds, measure)


def stampede(rounds: int, clients: int = 64, size: int = 200_000_000, rate: float = 100e6) -> list[Row]:
    """64 curls at once on one cold blob of 200 MB over a line of 100 MB/s."""

    def measure(on: Stage, origin: Origin, there: Scene) -> Row:
        digest = push_blob(origin, "org/app", random_bytes(size, there.peer))
        path = f"/v2/org/app/blobs/{digest}"
        there.line.forget()
        url = f"{there.url}{path}"
        used = there.cpu()
        began = time.monotonic()
        running = [Process(on, [*_CURL, url], name="curl") for _ in range(clients)]
        ended = [one.wait(timeout=600) for one in running]
        seconds = time.monotonic() - began
        reports = [one.log().split() for one in running]
        whole = [
            end for end, report in zip(ended, reports, strict=True) if end == 0 and report[1] == str(size)
        ]
        return {
            "complete clients": len(whole),
            "bytes over the line per byte of blob": there.line.received / size,
            "transfers": len(there.line.asked(path, "GET")),
            "seconds, in transfers at the line's rate": seconds / (size / rate),
            "last client's first byte, s": max(float(report[2]) for report in reports),
            "cpu seconds": there.cpu() - used,
        }

    return alternating(rounds, measure, rate)


def slow_clients(rounds: int, clients: int = 100, size: int = 8 * _MIB) -> list[Row]:
    """100 clients that hardly read, each on a cold blob of its own (8 MiB): growth of resident memory."""

    def measure(_on: Stage, origin: Origin, there: Scene) -> Row:
        digests = [push_blob(origin, "org/app", random_bytes(size, f"slow {n}")) for n in range(clients)]
        first = push_blob(origin, "org/app", random_bytes(_MIB, "first"))
        Curl(_on).fetch(f"{there.url}/v2/org/app/blobs/{first}")
        before = peak = there.rss()
        with ExitStack() as held:
            for digest in digests:
                held.enter_context(slow_client(there.host, f"/v2/org/app/blobs/{digest}"))
                peak = max(peak, there.rss())
            until(lambda: there.line.received >= clients * size, "all of it over the line", timeout=300)
            peak = max(peak, there.rss())
        return {"MiB before": before / _MIB, "MiB more at the most": (peak - before) / _MIB}

    return alternating(rounds, measure)


def recovery(rounds: int, size: int = 1_000_000_000) -> list[Row]:
    """``kill -9`` in the middle of a cold blob of 1 GB, then another pull: how soon, and how much twice."""

    def measure(on: Stage, origin: Origin, there: Scene) -> Row:
        block = random_bytes(size // 20, there.peer)
        digest = push_blob(origin, "org/app", block * 20)
        url = f"{there.url}/v2/org/app/blobs/{digest}"
        there.line.forget()
        there.line.rate = 200e6
        first = Process(on, [*_CURL, url], name="curl")
        until(lambda: there.line.received >= size // 2, "half of it", timeout=120)
        began = time.monotonic()
        there.kill_and_start()
        serving = time.monotonic() - began
        first.wait(timeout=60)
        there.line.rate = None
        second = Process(on, [*_CURL, url], name="curl")
        second.wait(timeout=300)
        report = second.log().split()
        return {
            "seconds until it serves again": serving,
            "seconds of the second pull": time.monotonic() - began - serving,
            "complete": float(report[:2] == ["200", str(size)]),
            "share fetched twice": there.line.received / size - 1,
        }

    return alternating(rounds, measure)


def cold_ranges(rounds: int, count: int = 100, length: int = 4096, size: int = 128 * _MIB) -> list[Row]:
    """100 small ranges (4 kB) all over a cold blob of 128 MiB, eight clients at once."""

    def measure(_on: Stage, origin: Origin, there: Scene) -> Row:
        content = random_bytes(size, there.peer)
        digest = push_blob(origin, "org/app", content)
        there.line.forget()
        starts = [(number * 7919 * 4096) % (size - length) for number in range(count)]

        def right(start: int) -> bool:
            connection = http.client.HTTPConnection(there.host, timeout=120)
            try:
                wanted = {"Range": f"bytes={start}-{start + length - 1}"}
                connection.request("GET", f"/v2/org/app/blobs/{digest}", headers=wanted)
                answer = connection.getresponse()
                return answer.status == 206 and answer.read() == content[start : start + length]
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()

        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            good = sum(pool.map(right, starts))
        seconds = time.monotonic() - began
        return {
            "right answers": good,
            "ranges a second": count / seconds,
            "bytes over the line per byte asked for": there.line.received / (count * length),
        }

    return alternating(rounds, measure)


def slow_client(host: str, path: str) -> socket.socket:
    """One that asks for a blob, takes its first byte, and no more."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    name, _, port = host.partition(":")
    client.connect((name, int(port)))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    client.recv(1)
    return client


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {
    "warm-pull": (warm_pull, 3),
    "stampede": (stampede, 1),
    "slow-clients": (slow_clients, 1),
    "recovery": (recovery, 1),
    "cold-ranges": (cold_ranges, 1),
}
