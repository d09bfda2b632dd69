"""A registry of bad manners as a process of its own, steered while it runs."""

from __future__ import annotations

import json
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from tests.real.images import digest_of
from tests.real.programs import ROOT, Case, Process, on_free_port, place

REPOSITORY: Final = "org/app"
_RST: Final = "reset"


def blob_url(base: str, digest: str) -> str:
    """Where a blob of :data:`REPOSITORY` is, at a cache or at a registry."""
    return f"{base}/v2/{REPOSITORY}/blobs/{digest}"


class Unruly:
    """``python -m tests.manners`` with these blobs; see :mod:`tests.misbehaviour` for its manners."""

    def __init__(self, case: Case, *blobs: bytes) -> None:
        self._case = case
        self._folder = place(case)
        self.digests = [digest_of(blob) for blob in blobs]
        self._arguments: list[str] = []
        for digest, blob in zip(self.digests, blobs, strict=True):
            path = self._folder / digest.partition(":")[2]
            path.write_bytes(blob)
            self._arguments += ["--blob", f"{REPOSITORY}={path}"]
        self.port = 0
        self.process = on_free_port(self._begin)

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it again on the same port, after ``process.kill9()``; it has forgotten its manners."""
        self.process = self._begin(self.port)

    def misbehave(self, name: str, digest: str = "", **more: object) -> None:
        """Have a manner, towards one blob or towards all."""
        words = {"name": name, "path": f"*/blobs/{digest or '*'}", **more}
        self._steer("misbehave", {word: str(value) for word, value in words.items()})

    def behave(self) -> None:
        """Forget all manners, and let go on what stalls."""
        self._steer("behave")
        self._steer("release")

    def asked(self, digest: str = "", method: str = "*") -> Sequence[Mapping[str, Any]]:
        """The requests for a blob so far, for all if none is named."""
        found = json.loads(self._steer("requests"))
        return [
            one
            for one in found
            if "/blobs/" in one["path"] and one["path"].endswith(digest) and (method in {"*", one["method"]})
        ]

    def ranges(self, digest: str) -> list[int]:
        """The first bytes that were asked for by ``GET`` of a blob, in order."""
        found = [one["headers"].get("range", "bytes=0-") for one in self.asked(digest, "GET")]
        return [int(value.removeprefix("bytes=").partition("-")[0]) for value in found]

    def _steer(self, verb: str, words: Mapping[str, str] | None = None) -> bytes:
        query = urllib.parse.urlencode(words or {})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/-/{verb}?{query}", timeout=10) as answer:
            return bytes(answer.read())

    def _begin(self, port: int) -> Process:
        self.port = port
        argv = [sys.executable, "-m", "tests.manners", "--port", str(port), *self._arguments]
        process = Process(self._case, argv, name="manners", env={"PYTHONPATH": str(ROOT)}, cwd=self._folder)
        process.wait_for(f"{self.url}/v2/")
        return process


@frozen
class Read:
    """What a plain socket got: the status, the body, and whether the end was a ``fin`` or a ``reset``."""

    status: int
    head: str
    body: bytes
    end: str


def ask(port: int, path: str, *fields: str, method: str = "GET", timeout: float = 60.0) -> Read:
    """One request on a connection of its own, read to the end of the connection, whatever the head says of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close", *fields]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        return read_to_end(client)


def read_to_end(client: socket.socket) -> Read:
    """Read what is left of one answer."""
    got = bytearray()
    end = "fin"
    try:
        while piece := client.recv(1 << 18):
            got += piece
    except ConnectionResetError:
        end = _RST
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return Read(int(words[1]) if len(words) > 1 else 0, head.decode("latin-1"), body, end)
