"""A push of a large blob: to the registry itself, through the gateway, and through nginx as a plain proxy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from bench.peers import NGINX, REGISTRY, Nginx, Peer, Row, in_turn
from bench.scene import Stage, stage
from tests.real.gateway import GatewayDaemon
from tests.real.images import random_bytes
from tests.real.origin import Origin
from tests.real.programs import place, run

_GATEWAY: Final = "gateway"
_BLOCK: Final = 1 << 20
_PROXY: Final = """
  server {{
    listen 127.0.0.1:{port}{ssl}; client_max_body_size 0;
    location / {{
      proxy_pass http://{registry}; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Host $http_host;
    }}
  }}
"""


def push(rounds: int, size: int = 2_000_000_000) -> list[Row]:
    """
    curl pushes a blob of 2 GB (a POST and one PUT): through the gateway, through nginx (unbuffered), and to
    the registry itself.
    """
    with stage() as on:
        registry = Origin(on)
        gateway = GatewayDaemon(on, registry.url)
        nginx = Nginx(on, _PROXY, registry=registry.host)
        direct = Peer(REGISTRY, registry.url, registry.process, registry.root)
        peers = [
            Peer(_GATEWAY, gateway.url, gateway.process, gateway.root),
            Peer(NGINX, nginx.url, nginx.process, nginx.folder),
            direct,
        ]
        file, digest = _blob(on, size)

        def measure(peer: Peer, number: int) -> Row:
            used = direct.cpu()
            seconds = _push(peer, f"org/push{number}{peer.name}", file, digest)
            registry.blob_file(digest).unlink()
            return {
                "bytes": size,
                "GB a second": size / 1e9 / seconds,
                "the registry's cpu seconds per GB": (direct.cpu() - used) / (size / 1e9),
            }

        return in_turn(peers, rounds, measure)


def _blob(on: Stage, size: int) -> tuple[Path, str]:
    path, block, hasher = place(on) / "blob", random_bytes(_BLOCK, "push"), sha256()
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(block[: size - start])
            hasher.update(block[: size - start])
    return path, f"sha256:{hasher.hexdigest()}"


def _push(peer: Peer, repository: str, file: Path, digest: str) -> float:
    """
    Seconds that the PUT has taken.

    :raises AssertionError: it was not accepted.
    """
    begin = f"{peer.url}/v2/{repository}/blobs/uploads/"
    head = run(["curl", "-s", "-o", "/dev/null", "-w", "%header{location}", "-X", "POST", begin]).stdout
    where = head if "://" in head else peer.url + head
    url = f"{where}{'&' if '?' in where else '?'}digest={digest}"
    told = "%{http_code} %{time_total}"
    words: list[str | Path] = ["curl", "-s", "-o", "/dev/null", "-w", told, "-H", "Expect:", "-T", file, url]
    status, seconds = run(words, timeout=600).stdout.split()
    assert status == "201", status
    return float(seconds)


CASES: Final[Mapping[str, tuple[Callable[[int], list[Row]], int]]] = {"push": (push, 3)}
