"""The processes of a daemon with several workers, as the kernel knows them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from tests.real.cache import ContentCache
from tests.real.programs import until

_SOCKET = re.compile(r"socket:\[(\d+)\]")


def workers_of(cache: ContentCache) -> Mapping[int, int]:
    """The process id of each worker that lives, by its number."""
    found: dict[int, int] = {}
    for pid in Path(f"/proc/{cache.pid}/task/{cache.pid}/children").read_text("ascii").split():
        words = _read(Path(f"/proc/{pid}/cmdline")).split(b"\0")
        if any(b"run_worker" in word for word in words):
            found[int(words[-2])] = int(pid)
    return found


def all_serve(cache: ContentCache) -> Mapping[int, int]:
    """The same, once all of them serve."""
    until(
        lambda: f'"detail": "{cache.workers} of {cache.workers} serve"' in cache.health_text(), "all workers"
    )
    return workers_of(cache)


def lives(pid: int) -> bool:
    """Whether a process is still there, and not only its remains."""
    status = _read(Path(f"/proc/{pid}/status"))
    return bool(status) and b"State:\tZ" not in status


def connect(cache: ContentCache, worker: int) -> socket.socket:
    """A connection that the kernel has given to this worker."""
    while True:
        client = socket.create_connection(("127.0.0.1", cache.port), timeout=60)
        if _serves(cache, client) == worker:
            return client
        client.close()


def _serves(cache: ContentCache, client: socket.socket) -> int | None:
    port = client.getsockname()[1]
    inode = until(lambda: _inode(cache.port, port), "the other end of a connection")
    return until(lambda: _holder(cache, str(inode)), "who accepts it")


def _holder(cache: ContentCache, inode: str) -> int | None:
    for number, pid in workers_of(cache).items():
        for entry in _entries(f"/proc/{pid}/fd"):
            match = _SOCKET.fullmatch(entry)
            if match is not None and match[1] == inode:
                return number
    return None


def _entries(folder: str) -> list[str]:
    links: list[str] = []
    try:
        names = os.listdir(folder)
    except OSError:
        return links
    for name in names:
        try:
            links.append(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
    return links


def _inode(local: int, remote: int) -> str | None:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _read(Path(table)).decode("ascii").splitlines()[1:]:
            fields = line.split()
            ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
            if ports == [local, remote] and fields[9] != "0":
                return fields[9]
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
