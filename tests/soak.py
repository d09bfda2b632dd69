"""
Hours in minutes: dozens of clients of all manners, upstreams of bad ones, a small store, and kills.

    make soak MINUTES=10 SEED=7

At the end: nobody has got a wrong byte, memory and descriptors are flat, store and index agree.

With ``--mode ranges`` the upstream is honest, and whole downloads mix with parts far ahead of them; see
:mod:`tests.soak_ranges`.
"""

from __future__ import annotations

import argparse
import http.client
import random
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.real.alone import Place
from tests.real.audit import audit, descriptors_of, disagreements, index, partials, stored
from tests.real.cache import ContentCache
from tests.real.images import digest_of, random_bytes
from tests.real.unruly import REPOSITORY, Unruly
from tests.soak_ranges import RangesSoak

_KIB: Final = 1 << 10
_SIZES: Final = (0, 1, 4 * _KIB, 5 * _KIB, 64 * _KIB, 300 * _KIB, 1100 * _KIB)
_BLOBS: Final = 40
_CLIENTS: Final = 24
#: Seconds for which upstreams keep to their manners.
_TICK: Final = 2.0
#: About a third of all blobs fit.
_MAXSIZE: Final = 3_500_000
_RST: Final = struct.pack("ii", 1, 0)
_MANNERS: Final[Sequence[tuple[str, dict[str, int]]]] = (
    ("reset", {"at": 1000}),
    ("reset", {"at": 100_000}),
    ("short", {"at": 70_000}),
    ("stall", {"at": 50_000}),
    ("stall", {"at": -1}),
    ("wrong", {"at": 0}),
    ("wrong", {"at": -1}),
    ("status", {"status": 500}),
    ("status", {"status": 503}),
    ("whole", {}),
    ("resized", {"by": 10}),
    ("portal", {}),
    ("chunked", {}),
    ("close", {}),
)


class Soak:
    """One run. ``say`` hears how it goes."""

    def __init__(self, folder: Path, seed: str, say: Callable[[str], object]) -> None:
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._place = Place(folder)
        self._say = say
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._well = threading.Event()
        self._well.set()
        contents = [
            random_bytes(_SIZES[number % len(_SIZES)], f"{seed} {number}") for number in range(_BLOBS)
        ]
        self._blobs = {digest_of(content): content for content in contents}
        self._hosts = [Unruly(self._place, *self._blobs.values()) for _ in range(2)]
        self._cache = ContentCache(
            self._place,
            {"originhost": "http://origin.invalid", "upstreamhosts": [host.url for host in self._hosts]},
            options={
                "maxsize": _MAXSIZE,
                "minfree": 0,
                "sweepinterval": "1s",
                "stalltimeout": "1s",
                "connecttimeout": "1s",
                "limits": {"clientstall": "2s"},
            },
            http={"draintimeout": "2s"},
            log={"level": "info"},
        )

    def run(self, seconds: float, most_kills: int | None = None) -> None:
        """Clients, upstreams and kills for so long; then what they have left is looked at."""
        clients = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(_CLIENTS)
        ]
        for client in clients:
            client.start()
        end = time.monotonic() + seconds
        kills = 0
        while time.monotonic() < end:
            self._let_misbehave()
            self._over.wait(min(_TICK, max(0.0, end - time.monotonic())))
            memory, descriptors = self._cache.rss() >> 20, descriptors_of(self._cache.pid)
            self._say(f"{dict(self.counts)}, {memory} MiB, {descriptors} descriptors")
            if self._random.random() < 0.4 and (most_kills is None or kills < most_kills):
                kills += 1
                self._interrupt()
        self._behave()
        self._over.set()
        for client in clients:
            client.join(60)
            if client.is_alive():
                self.faults.append("a client got no end of its answer")
        self._look_at_the_end()

    def log(self) -> str:
        """What the daemon has logged."""
        return self._cache.log()

    def close(self) -> None:
        """Stop all programs."""
        self._over.set()
        self._place.close()

    # Upstreams, and the daemon's fate.

    def _let_misbehave(self) -> None:
        self._behave()
        for host in self._hosts:
            for _ in range(self._random.choice((0, 1, 3))):
                name, parameters = self._random.choice(_MANNERS)
                digest = self._random.choice([*self._blobs, ""])
                host.misbehave(
                    name, digest, method="GET", times=self._random.choice((1, 3, 10)), **parameters
                )
        if self._random.random() < 0.2:
            host = self._random.choice(self._hosts)
            host.process.kill9()
            host.start()

    def _behave(self) -> None:
        for host in self._hosts:
            host.behave()

    def _interrupt(self) -> None:
        self._well.clear()
        try:
            if self._random.random() < 0.7:
                self.counts["kills"] += 1
                self._cache.kill9()
                self.faults += audit(self._cache.root)
            else:
                self.counts["restarts"] += 1
                status = self._cache.stop(20)
                if status not in {0, -15}:
                    self.faults.append(f"the daemon ended with {status}")
                self.faults += self._disagreements(self._cache.root)
            self._cache.start()
        finally:
            self._well.set()

    def _disagreements(self, root: Path) -> list[str]:
        """
        Where index and store differ. A kill between the two may leave a record without a file, which is
        forgotten when it is looked up or its turn to go comes: that many are no fault.
        """
        found = disagreements(root)
        torn = [one for one in found if one.endswith("is in the index only")]
        excused = torn[: self.counts["kills"]]
        return [one for one in found if one not in excused]

    # Clients.

    def _client(self, number: int) -> None:
        random_ = random.Random(f"{self.seed} client {number}")
        while not self._over.is_set():
            self._well.wait(30)
            digest = random_.choice(list(self._blobs))
            act = random_.choice(
                (self._whole, self._whole, self._resumed, self._part, self._head, self._leave)
            )
            try:
                act(random_, digest)
            except (OSError, http.client.HTTPException):
                self.counts["broken off"] += 1
                self._over.wait(0.05)
            except Exception as error:
                self.faults.append(f"a client has failed: {error!r}")
                raise

    def _ask(self, method: str, digest: str, **headers: str) -> tuple[int, bytes, bool]:
        connection = http.client.HTTPConnection("127.0.0.1", self._cache.port, timeout=30)
        try:
            connection.request(method, f"/v2/{REPOSITORY}/blobs/{digest}", headers=headers)
            answer = connection.getresponse()
            try:
                body, ended = answer.read(), True
            except http.client.IncompleteRead as short:
                body, ended = short.partial, False
            self.counts[str(answer.status) if ended else "short"] += 1
            if method == "HEAD" and answer.status == 200:
                self._expect(
                    int(answer.headers["Content-Length"]) == len(self._blobs[digest]), digest, "HEAD"
                )
            return answer.status, body, ended
        finally:
            connection.close()

    def _whole(self, _random: random.Random, digest: str) -> None:
        status, body, ended = self._ask("GET", digest)
        if status == 200 and ended:
            self._expect(body == self._blobs[digest], digest, "whole")

    def _resumed(self, _random: random.Random, digest: str) -> None:
        # As containerd does it: at the offset where it was cut; wrong bytes are its digest's business.
        status, body, ended = self._ask("GET", digest)
        if status == 200 and not ended and body:
            status, rest, ended = self._ask("GET", digest, Range=f"bytes={len(body)}-")
            if status == 206 and ended and body + rest == self._blobs[digest]:
                self.counts["resumed"] += 1

    def _part(self, random_: random.Random, digest: str) -> None:
        content = self._blobs[digest]
        start = random_.randrange(len(content) + 1)
        stop = random_.randrange(start, len(content) + 1) + 1
        status, body, ended = self._ask("GET", digest, Range=f"bytes={start}-{stop - 1}")
        if ended and status == 206:
            self._expect(len(body) == min(stop, len(content)) - start, digest, "length of a part")
            self.counts["parts, right" if body == content[start:stop] else "parts, unverified and wrong"] += 1

    def _head(self, _random: random.Random, digest: str) -> None:
        self._ask("HEAD", digest)

    def _leave(self, random_: random.Random, digest: str) -> None:
        with socket.create_connection(("127.0.0.1", self._cache.port), timeout=30) as client:
            client.sendall(f"GET /v2/{REPOSITORY}/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            client.recv(random_.choice((1, 1000, 100_000)))
            if random_.random() < 0.3:
                self._over.wait(3)  # longer than the cache waits for one that takes nothing
            if random_.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.counts["left"] += 1

    def _expect(self, right: bool, digest: str, what: str) -> None:
        if not right:
            self.faults.append(f"{what} of {digest} is wrong")

    # The end.

    def _look_at_the_end(self) -> None:
        cache = self._cache
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and cache.metrics()["contentcache_downloads"]:
            time.sleep(0.1)
        if cache.metrics()["contentcache_downloads"]:
            self.faults.append("fetches that never end")
        deadline = time.monotonic() + 15
        while (descriptors := descriptors_of(self._cache.pid)) > 60 and time.monotonic() < deadline:
            time.sleep(0.1)
        memory = cache.rss() >> 20
        if descriptors > 60:
            self.faults.append(f"{descriptors} descriptors at the end")
        if memory > 160 * len(self._cache.pids):
            self.faults.append(f"{memory} MiB at the end")
        if "Traceback" in cache.log():
            self.faults.append("a traceback in the log")
        # What was pulled in the last seconds counts as in use, and is spared by the next sweeps.
        deadline = time.monotonic() + 15
        while (total := _total(cache.root)) > _MAXSIZE and time.monotonic() < deadline:
            time.sleep(0.2)
        if total > _MAXSIZE:
            self.faults.append(f"{total} bytes in a store of {_MAXSIZE}")
        cache.stop(20)
        self.faults += audit(cache.root) + self._disagreements(cache.root)
        self._say(f"{len(index(cache.root))} blobs, {total} bytes, {descriptors} descriptors, {memory} MiB")


def _total(root: Path) -> int:
    total = 0
    for path in (*stored(root).values(), *partials(root).values()):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def main(arguments: Sequence[str]) -> int:
    """Soak; the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--seed", default="soak")
    options.add_argument("--mode", choices=("mixed", "ranges"), default="mixed")
    given = options.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    kind = RangesSoak if given.mode == "ranges" else Soak
    soak = kind(folder, given.seed, lambda line: sys.stdout.write(line + "\n") and sys.stdout.flush())
    try:
        soak.run(given.minutes * 60)
        log = soak.log()
    finally:
        soak.close()
    sys.stdout.write("\n".join([*soak.faults, f"{dict(soak.counts)}", f"{len(soak.faults)} faults", ""]))
    if soak.faults:
        kept = folder.with_suffix(".log")
        kept.write_text(log)
        sys.stdout.write(f"the log is {kept}\n")
    shutil.rmtree(folder, ignore_errors=True)
    return 1 if soak.faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
