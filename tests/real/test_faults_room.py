"""Many downloads at once into a store that has no room for all of them, and disks that somebody else has filled."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.real.audit import partials, stored
from tests.real.cache import ContentCache
from tests.real.images import random_bytes
from tests.real.line import CountingProxy
from tests.real.programs import needs, place, until
from tests.real.unruly import REPOSITORY, Unruly, ask

_MIB = 1 << 20
#: What the index and its journal may take beside the blobs.
_INDEX = 2 * _MIB


class RoomTestCase(SynchronousTestCase):
    """Blobs at an upstream, behind a link that takes some seconds for all of them."""

    workers = 1

    def begin(self, count: int, size: int, rate: float, **more: Any) -> None:
        """Start a cache for so many blobs."""
        self.blobs = [random_bytes(size, f"room {number}") for number in range(count)]
        self.upstream = Unruly(self, *self.blobs)
        line = CountingProxy(self, self.upstream.port, rate=rate)
        self.cache = ContentCache(self, line.url, log={"level": "info"}, **more)

    def pull(self, number: int) -> None:
        """A client that gets its blob, whatever the store does."""
        read = ask(self.cache.port, f"/v2/{REPOSITORY}/blobs/{self.upstream.digests[number]}")
        self.assertEqual((read.status, read.end, read.body == self.blobs[number]), (200, "fin", True))

    def pull_all(self) -> None:
        """All of them at once."""
        with ThreadPoolExecutor(len(self.blobs)) as clients:
            list(clients.map(self.pull, range(len(self.blobs))))


class Watch(threading.Thread):
    """Looks again and again; ``seen`` has all that ``look`` answered."""

    def __init__(self, look: Any) -> None:
        super().__init__(daemon=True)
        self.seen: list[int] = []
        self._look = look
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.seen.append(self._look())

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def taken(root: Path) -> int:
    """Bytes on the disk of blobs and partial files."""
    total = 0
    for path in (*stored(root).values(), *partials(root).values()):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


class MaxsizeTests(RoomTestCase):
    """``maxsize`` with more at once than it allows."""

    def test_many_at_once(self) -> None:
        """The store is within ``maxsize`` at every moment; what finds no room passes through."""
        maxsize = 11 * _MIB
        self.begin(15, 2 * _MIB, 12e6, options={"maxsize": maxsize, "minfree": 0, "sweepinterval": "1s"})
        watch = Watch(lambda: taken(self.cache.root))
        watch.start()
        with closing(watch):
            self.pull_all()
            self.pull_all()
        self.assertLessEqual(max(watch.seen), maxsize)
        until(lambda: taken(self.cache.root) >= 4 * _MIB, "some of them in the store")
        self.assertNotIn("Traceback", self.cache.log())

    def test_evicts_for_the_next_ones(self) -> None:
        """Blobs that nobody reads make room for those that come, at once."""
        self.begin(6, 2 * _MIB, 50e6, options={"maxsize": 5 * _MIB, "minfree": 0, "sweepinterval": "1s"})
        for number in range(6):
            self.pull(number)
            digest = self.upstream.digests[number]
            until(lambda: self.cache.stored(digest), "it in the store")  # noqa: B023  # waited for here
        self.assertLessEqual(taken(self.cache.root), 5 * _MIB)


class TwoWorkersMaxsizeTests(MaxsizeTests):
    """The same with two workers, which share the room."""

    workers = 2


@needs("unshare", "mount", root=True)
class SmallDiskTests(RoomTestCase):
    """A filesystem of its own, mounted for the daemon alone."""

    def begin_on_disk(self, disk: int, count: int, size: int, rate: float, **options: Any) -> None:
        """Start a cache on a disk of so many MiB."""
        folder = place(self)
        mount = f'mount -t tmpfs -o size={disk}m tmpfs "{folder}" && exec "$0" "$@"'
        wrapper = ("unshare", "--mount", "sh", "-c", mount)
        self.begin(count, size, rate, options=options, root=folder / "root", wrapper=wrapper)
        self.seen = Path(f"/proc/{self.cache.pid}/root") / self.cache.root.relative_to("/")

    def free(self) -> int:
        """Bytes that are free on the daemon's disk."""
        space = os.statvfs(self.seen)
        return space.f_bavail * space.f_frsize

    def test_minfree(self) -> None:
        """With ``minfree`` of half the disk it is never less, however many come at once."""
        minfree = 16 * _MIB
        self.begin_on_disk(32, 8, 6 * _MIB, 16e6, minfree=minfree, sweepinterval="1s")
        watch = Watch(self.free)
        watch.start()
        with closing(watch):
            self.pull_all()
        self.assertGreater(min(watch.seen), minfree - _INDEX)
        self.assertNotIn("Traceback", self.cache.log())

    def slow_clients(self) -> None:
        """Clients that stop reading after their first bytes, one after the other, each with its own blob."""
        for digest in self.upstream.digests[-8:]:
            client = socket.socket()
            self.addCleanup(client.close)
            client.settimeout(60)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            client.connect(("127.0.0.1", self.cache.port))
            client.sendall(f"GET /v2/{REPOSITORY}/blobs/{digest} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            self.assertTrue(client.recv(1 << 15).startswith(b"HTTP/1.1 200 "))
            # Nothing can be waited for but that the disk fills no further: the client never gets an end.
            before = -1
            while before != (before := self.free()):
                time.sleep(0.5)

    def test_maxsize_with_slow_clients(self) -> None:
        """
        Files are on the disk while clients read them, with a name or without: with clients that read slowly
        the disk has no more than ``maxsize`` either, and what finds no room passes through.
        """
        maxsize = 11 * _MIB
        for manner in ("", "chunked"):
            self.begin_on_disk(100, 8, 6 * _MIB, 100e6, maxsize=maxsize, minfree=0, sweepinterval="1s")
            if manner:
                self.upstream.misbehave(manner)
            begin = self.free()
            watch = Watch(self.free)
            watch.start()
            with closing(watch):
                self.slow_clients()
            self.assertLessEqual(begin - min(watch.seen), maxsize + _INDEX)
            self.assertNotIn("Traceback", self.cache.log())

    def test_minfree_with_slow_clients(self) -> None:
        """
        With clients that read slowly ``minfree`` is left, and no blob is evicted for room that eviction
        cannot make.
        """
        minfree = 16 * _MIB
        self.begin_on_disk(64, 10, 12 * _MIB, 200e6, minfree=minfree, sweepinterval="1s")
        watch = Watch(self.free)
        watch.start()
        with closing(watch):
            self.slow_clients()
            # Three of them are read, and nobody's leaving makes room: so none has been evicted.
            self.assertEqual(self.cache.log().count("blob evicted "), 0)
        self.assertGreater(min(watch.seen), minfree - _INDEX)
        self.assertNotIn("Traceback", self.cache.log())

    def test_full_to_the_last_byte(self) -> None:
        """
        On a disk of 64 MiB that somebody else fills to the last byte, what is stored is served, and the rest
        passes through, nine at once and again and again; when there is room again, blobs are kept again.
        """
        self.begin_on_disk(64, 9, _MIB, 50e6, minfree=0, sweepinterval="1s")
        self.pull(0)
        ballast = self.seen.parent / "ballast"
        self.fill(ballast)
        end = time.monotonic() + 12  # pulls are written into the index every 5 s
        while time.monotonic() < end:
            self.pull_all()
            self.fill(ballast)
        log = self.cache.log()
        self.assertNotIn("Traceback", log)
        self.assertNotIn('" 500 ', log)
        ballast.unlink()
        self.pull_all()
        digits = self.upstream.digests[8].partition(":")[2]
        blob = self.seen / f"docker/registry/v2/blobs/sha256/{digits[:2]}/{digits}/data"

        def is_kept() -> bool:
            self.pull(8)
            return blob.exists()

        until(is_kept, "blobs are kept again")
        self.assertEqual(self.cache.health(), 200)

    def fill(self, ballast: Path) -> None:
        """Somebody else takes all the room there is."""
        with ballast.open("ab", buffering=0) as file:
            for piece in (_MIB, 4096, 1):
                try:
                    while file.write(bytes(piece)):
                        pass
                except OSError:
                    continue


@needs("unshare", "mount", root=True)
class TwoWorkersSmallDiskTests(SmallDiskTests):
    """The same with two workers."""

    workers = 2
