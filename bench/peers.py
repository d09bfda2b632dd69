"""
Content Cache, nginx and docker-registry before one origin, all of them running: they are measured in turn.

The origin is nginx over a folder of files: it answers as a registry does as far as blobs go, takes little of
the machine, and asks nobody for anything.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

from attrs import frozen

from bench.scene import Stage, stage
from tests.real.cache import ContentCache
from tests.real.certificates import Authority, Certificate
from tests.real.images import random_bytes
from tests.real.origin import Origin
from tests.real.programs import Process, free_port, place

OURS: Final = "contentcache"
#: The same, without its short ways.
PLAIN: Final = "contentcache, fastpath: off"
NGINX: Final = "nginx"
REGISTRY: Final = "registry"
#: The same with two workers, for what one core does not do.
OURS_2: Final = "contentcache, workers: 2"
NGINX_2: Final = "nginx, 2 workers"
ALL: Final = (OURS, PLAIN, NGINX, REGISTRY)

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_BLOCK: Final = 1 << 20
_FRAME: Final = """
daemon off; worker_processes {workers}; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log {folder}/access.log combined buffer=64k flush=1s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  sendfile on; keepalive_requests 1000000000; default_type application/octet-stream;
  {body}
}}
"""
_STATIC: Final = """
  server {{
    listen 127.0.0.1:{port}{ssl}; root {root}; add_header Docker-Distribution-Api-Version registry/2.0;
    location = /v2/ {{ return 200 "{{}}"; }}
  }}
"""
_CACHE: Final = """
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=blobs:10m inactive=1d use_temp_path=off;
  upstream origin {{ server {origin}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port}{ssl};
    location / {{
      proxy_pass {scheme}://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;
      proxy_cache blobs; proxy_cache_valid 200 1d; proxy_cache_lock on; proxy_cache_lock_timeout 600s;
      proxy_cache_lock_age 600s; proxy_force_ranges on; {more}
    }}
  }}
"""
_VERIFY: Final = "proxy_ssl_verify on; proxy_ssl_name localhost; proxy_ssl_trusted_certificate {};"
_SSL: Final = " ssl; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {}; ssl_certificate_key {}"


class Nginx:
    """An nginx from a configuration in ``body``; with ``tls`` it has that certificate."""

    def __init__(
        self, on: Stage, body: str, *, workers: int = 1, tls: Certificate | None = None, **words: object
    ) -> None:
        self.port = free_port()
        self.folder = place(on)
        self.folder.chmod(0o755)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        ssl = "" if tls is None else _SSL.format(tls.certificate, tls.key)
        body = body.format(folder=self.folder, port=self.port, ssl=ssl, **words)
        config = self.folder / "nginx.conf"
        config.write_text(_FRAME.format(folder=self.folder, body=body, workers=workers), "utf-8")
        self.process = Process(on, ["nginx", "-c", config, "-e", self.folder / "error.log"], name="nginx")
        self.process.wait_for(f"{self.url}/v2/", statuses=(200, 400))


class Blobs:
    """The origin, and what it has."""

    def __init__(self, on: Stage, tls: Certificate | None = None) -> None:
        self._root = Path(on.mktemp())
        self._folder = self._root / "v2/org/app/blobs"
        self._folder.mkdir(parents=True)
        for folder in (self._root.parent, self._root):
            folder.chmod(0o755)
        self.nginx = Nginx(on, _STATIC, root=self._root, tls=tls)
        self.url = self.nginx.url
        self.host = f"127.0.0.1:{self.nginx.port}"

    def put(self, size: int, seed: str) -> str:
        """Make a blob; its path."""
        block = random_bytes(min(size, _BLOCK), seed)
        made, hasher = self._folder / "new", sha256()
        with made.open("wb") as file:
            for start in range(0, size, _BLOCK):
                piece = block[: size - start]
                hasher.update(piece)
                file.write(piece)
        name = f"sha256:{hasher.hexdigest()}"
        made.rename(self._folder / name)
        return f"/v2/org/app/blobs/{name}"


@frozen
class Peer:
    """One that is measured. ``url`` is where clients ask."""

    name: str
    url: str
    process: Process
    root: Path

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return self.url.partition("//")[2]

    def pids(self) -> list[int]:
        """Its process and the children of that."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        return [pid, *map(int, children)]

    def cpu(self) -> float:
        """The processor time that it has used, in seconds."""
        return sum(_cpu(pid) for pid in self.pids())

    def forget_peak(self) -> None:
        """Measure :meth:`peak` from now on."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")

    def peak(self) -> float:
        """The most memory that it has had since, in MiB."""
        return sum(_peak(pid) for pid in self.pids()) / 1024

    def descriptors(self) -> int:
        """How many it has open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def drop_pages(self) -> None:
        """Take the pages of its files out of memory."""
        for path in self.root.rglob("*"):
            if path.is_file() and path.stat().st_size > _BLOCK:
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


@contextmanager
def running(
    names: Sequence[str] = ALL,
    *,
    tls: bool = False,
    origin: str | None = None,
    nginx: str = "",
    upstream_tls: bool = False,
) -> Iterator[tuple[Stage, Blobs, list[Peer]]]:
    """
    The origin and peers before it, or before what is at ``origin`` (``host:port``); ``nginx`` is added to its
    configuration. ``upstream_tls``: the origin speaks TLS, and who asks it checks its certificate.
    """
    # Where the machine has a disk: pages of a tmpfs are never missing.
    with stage() as on:
        authority = Authority(place(on))
        leaf = authority.leaf("localhost", "127.0.0.1")
        blobs = Blobs(on, leaf if upstream_tls else None)
        upstream = Upstream(blobs.url if origin is None else f"http://{origin}", authority)
        yield on, blobs, [_start(on, name, upstream, leaf if tls else None, nginx) for name in names]


@frozen
class Upstream:
    """Whom the peers ask. ``authority`` has signed its certificate, if it has one."""

    url: str
    authority: Authority

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.url.startswith("https:")


def _start(on: Stage, name: str, origin: Upstream, tls: Certificate | None, more: str) -> Peer:
    if name in {NGINX, NGINX_2}:
        scheme, _, host = origin.url.partition("://")
        more += _VERIFY.format(origin.authority.path) if origin.tls else ""
        workers = 2 if name == NGINX_2 else 1
        server = Nginx(on, _CACHE, workers=workers, tls=tls, origin=host, scheme=scheme, more=more)
        return Peer(name, server.url, server.process, server.folder)
    if name == REGISTRY:
        trusts = {"SSL_CERT_FILE": str(origin.authority.path)}
        registry = Origin(on, proxy=origin.url, tls=tls, env=trusts)
        return Peer(name, registry.url, registry.process, registry.root)
    options: dict[str, object] = {"authttl": "24h", "fastpath": "off" if name == PLAIN else "auto"}
    if origin.tls:
        options["cas"] = [str(origin.authority.path)]
    settings = {"workers": 2} if name == OURS_2 else {}
    cache = ContentCache(on, origin.url, tls=tls, options=options, log={"level": "info"}, settings=settings)
    return Peer(name, cache.url, cache.process, cache.root)


Row = dict[str, object]


def in_turn(peers: Sequence[Peer], rounds: int, measure: Callable[[Peer, int], Row]) -> list[Row]:
    """
    ``measure`` each peer, ``rounds`` times round; the CPU seconds, the peak of memory and the machine's load
    are added. Each row is told as it comes.
    """
    rows: list[Row] = []
    for number in range(rounds):
        for peer in peers:
            peer.forget_peak()
            used, began = peer.cpu(), time.monotonic()
            figures = measure(peer, number)
            spent, seconds = peer.cpu() - used, time.monotonic() - began
            for unit, count in (("GB", figures.pop("bytes", 0)), ("1000 requests", figures.pop("count", 0))):
                scale = 1e9 if unit == "GB" else 1e3
                if count:
                    amount = float(str(count)) / scale
                    figures.setdefault(f"{unit} a second", amount / seconds)
                    figures[f"cpu seconds per {unit}"] = spent / amount
            row = {"peer": peer.name, "round": number, **figures, "peak MiB": peer.peak(), "load": load()}
            rows.append(row)
            tell(row, rounds)
    return rows


def load() -> float:
    """How many processes wanted a processor in the last minute, our own among them: a figure's neighbours."""
    return round(os.getloadavg()[0], 2)


def tell(row: Row, rounds: int) -> None:
    """One line of progress, beside what the tables say at the end."""
    figures = [f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float)]
    at = f" at {row['at']:,} {row['of']}" if "at" in row else ""
    say(f"  round {int(str(row['round'])) + 1} of {rounds}, {row['peer']}{at}: {', '.join(figures)}")


def say(line: str) -> None:
    """Something for whoever is waiting, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0  # nginx's loader of its cache goes after a minute
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
