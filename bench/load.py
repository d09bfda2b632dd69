"""Clients that ask for much: ``wrk``, ``curl``, and one that throws away what it gets before it is copied."""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from bench.scene import Stage
from tests.real.programs import ROOT, Process, place, run

_REPORT: Final = (
    'done = function(s, l, r) io.write(string.format("\\n@ %d %f %f %f %d\\n", s.requests, s.duration / 1e6, '
    "l:percentile(50) / 1e3, l:percentile(99) / 1e3, "
    "s.errors.connect + s.errors.read + s.errors.write + s.errors.status + s.errors.timeout)) end"
)


@frozen
class Rate:
    """What ``wrk`` reports. Latencies in milliseconds."""

    requests: int
    seconds: float
    median: float
    p99: float


def wrk(
    on: Stage,
    url: str,
    *,
    clients: int = 32,
    seconds: int = 3,
    method: str = "GET",
    headers: Sequence[str] = (),
) -> Rate:
    """
    ``clients`` that ask again and again on open connections.

    :raises AssertionError: a request has failed.
    """
    script = place(on) / "wrk.lua"
    script.write_text(f'wrk.method = "{method}"\n{_REPORT}\n', "ascii")
    fields = [word for header in headers for word in ("-H", header)]
    words: list[str | Path] = [
        "wrk",
        "-t1",
        "--timeout",
        "30s",
        f"-c{clients}",
        f"-d{seconds}s",
        *fields,
        "-s",
        script,
        url,
    ]
    said = run(words).stdout
    match = re.search(r"^@ (\d+) (\S+) (\S+) (\S+) (\d+)$", said, re.MULTILINE)
    assert match is not None, said
    assert match[5] == "0", said
    return Rate(int(match[1]), float(match[2]), float(match[3]), float(match[4]))


@frozen
class Taken:
    """
    Blobs that have come whole: seconds to the first byte of each, and to the last of all. ``began`` is the
    monotonic clock's time, which all processes share.
    """

    first: Sequence[float]
    seconds: float
    began: float


def curl(on: Stage, url: str, size: int, *, clients: int = 1, options: Sequence[str] = ()) -> Taken:
    """
    ``clients`` that each take all of one blob.

    :raises AssertionError: one did not get it.
    """
    told = "%{http_code} %{size_download} %{time_starttransfer} %{time_total}"
    words = ["curl", "-sk", "-o", "/dev/null", "-w", told, *options, url]
    began = time.monotonic()
    running = [Process(on, words, name="curl") for _ in range(clients)]
    reports = []
    for one in running:
        assert one.wait(timeout=600) == 0, one.log()
        status, got, first, total = one.log().split()
        assert (status, got) == ("200", str(size)), one.log()
        reports.append((float(first), float(total)))
    return Taken([first for first, _ in reports], max(total for _, total in reports), began)


def sink(url: str, size: int, *, clients: int = 1) -> Taken:
    """The same over plain HTTP, by a client that costs next to nothing: the kernel drops what arrives."""
    words = [sys.executable, "-m", "bench.load", "drop", url, str(size), str(clients)]
    return Taken(*json.loads(run(words, timeout=600, cwd=ROOT).stdout))


def heads(url: str, *, clients: int = 32, seconds: int = 2) -> Rate:
    """``HEAD`` again and again, which ``wrk`` cannot do; the rate is that of a client in Python."""
    words = [sys.executable, "-m", "bench.load", "heads", url, str(seconds), str(clients)]
    return Rate(*json.loads(run(words, cwd=ROOT).stdout))


def _heads(url: str, seconds: int, clients: int) -> tuple[int, float, float, float]:
    host, slash, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    head = f"HEAD {slash}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    waiting = selectors.DefaultSelector()
    asked: dict[socket.socket, float] = {}
    for _ in range(clients):
        client = socket.create_connection((name, int(port)))
        waiting.register(client, selectors.EVENT_READ)
        asked[client] = time.monotonic()
        client.sendall(head)
    began, taken = time.monotonic(), []
    while (now := time.monotonic()) < began + seconds:
        for key, _ in waiting.select():
            connection: socket.socket = key.fileobj  # type: ignore[assignment]
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert answer.endswith(b"\r\n\r\n"), answer
            taken.append(now - asked[connection])
            asked[connection] = now
            connection.sendall(head)
    taken.sort()
    middle, late = (taken[int(len(taken) * share)] * 1e3 for share in (0.5, 0.99))
    return len(taken), time.monotonic() - began, middle, late


def _drop(url: str, size: int, clients: int) -> tuple[list[float], float, float]:
    host, slash, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    waiting = selectors.DefaultSelector()
    began = time.monotonic()
    firsts: list[float] = []
    for _ in range(clients):
        client = socket.create_connection((name, int(port)))
        client.sendall(f"GET {slash}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        waiting.register(client, selectors.EVENT_READ, [b"", 0])
    while waiting.get_map():
        for key, _ in waiting.select():
            connection: socket.socket = key.fileobj  # type: ignore[assignment]
            if key.data[1] == 0:
                key.data[0] += connection.recv(4096)
                head, end, body = key.data[0].partition(b"\r\n\r\n")
                if end:
                    assert head.startswith(b"HTTP/1.1 200 "), head
                    key.data[1] = len(body) or 1
                    key.data[0] = len(body)
                    firsts.append(time.monotonic() - began)
                continue
            got = _drop_some(connection)
            key.data[0] += got
            if not got:
                assert key.data[0] == size, (key.data[0], size)
                waiting.unregister(connection)
                connection.close()
    return firsts, time.monotonic() - began, began


def _drop_some(connection: socket.socket) -> int:
    # MSG_TRUNC: TCP counts the bytes and copies none.
    return connection.recv_into(_NOWHERE, len(_NOWHERE), socket.MSG_TRUNC)


_NOWHERE: Final = bytearray(4 << 20)

if __name__ == "__main__":
    work = {"drop": _drop, "heads": _heads}[sys.argv[1]]
    print(json.dumps(work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
