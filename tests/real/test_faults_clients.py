"""Clients of bad manners, in numbers, before the real daemon; and the end of it."""

from __future__ import annotations

import resource
import signal
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.storage.partial_files import origin_tag, partial_name
from tests.real.audit import descriptors_of
from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import random_bytes
from tests.real.programs import needs, run, until
from tests.real.unruly import Unruly, ask, blob_url, read_to_end

_MIB = 1 << 20
_RST = struct.pack("ii", 1, 0)


class ClientsTestCase(SynchronousTestCase):
    """A cache that has a large blob, and one to come."""

    def setUp(self) -> None:
        """The upstream; a test begins the cache of its own."""
        self.blobs = [random_bytes(8 * _MIB, f"clients {number}") for number in range(2)]
        self.upstream = Unruly(self, *self.blobs)
        self.digests = self.upstream.digests
        self.paths = [f"/v2/org/app/blobs/{digest}" for digest in self.digests]
        self.curl = Curl(self)
        self.held = ExitStack()
        self.addCleanup(self.held.close)

    def begin(self, **more: Any) -> None:
        """Start a cache, and store the first blob in it."""
        self.cache = ContentCache(self, self.upstream.url, log={"level": "info"}, **more)
        self.pull(0)
        until(lambda: self.cache.stored(self.digests[0]), "it in the store")

    def pull(self, number: int) -> None:
        """A good client is served."""
        read = ask(self.cache.port, self.paths[number])
        self.assertEqual((read.status, read.end, read.body == self.blobs[number]), (200, "fin", True))

    def connect(self, data: str | None = None) -> socket.socket:
        """A client that takes little, and what it says."""
        client = self.held.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", self.cache.port))
        if data is not None:
            client.sendall(data.encode())
        return client

    def get(self, number: int) -> str:
        """A request for a blob."""
        return f"GET {self.paths[number]} HTTP/1.1\r\nHost: {self.cache.host}\r\n\r\n"

    def partial(self, number: int) -> Path:
        """Where what has come of a blob is kept."""
        name = partial_name(Digest.parse(self.digests[number]), origin_tag(self.upstream.url))
        return self.cache.root / "contentcache/partial/sha256" / name

    def descriptors(self) -> int:
        """How many the daemon has open."""
        return sum(map(descriptors_of, self.cache.pids))

    def limit_descriptors(self, most: int) -> None:
        """No process of the daemon may have more."""
        for pid in self.cache.pids:
            run(["prlimit", "--pid", str(pid), f"--nofile={most}"])

    def assert_forgotten(self, before: int) -> None:
        """When the clients are gone, so is everything that was held for them; no log has a traceback."""
        self.held.close()
        until(lambda: self.cache.metrics()["contentcache_connections"] == 0, "no connection")
        until(lambda: self.descriptors() <= before + 4, "descriptors given back")
        self.assertNotIn("Traceback", self.cache.log())


@needs("curl", "prlimit")
class ManyClientsTests(ClientsTestCase):
    """What one client, or two thousand, must not do to others."""

    def test_idle_connections(self) -> None:
        """2,000 connections that say nothing, or half a head, cost less than 64 MiB; others are served.

        Of half heads an address may have 256 at once (``limits.headsperaddress``).
        """
        many = 2000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < many + 200:
            self.skipTest(f"needs {many + 200} descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many + 200), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.begin()
        self.limit_descriptors(many + 500)
        descriptors, memory = self.descriptors(), self.cache.rss()
        for number in range(many):
            self.connect(None if number % 20 else "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        until(lambda: self.cache.metrics()["contentcache_connections"] >= many, "all of them")
        self.pull(0)
        self.pull(1)
        self.assertLess(self.cache.rss() - memory, 64 * _MIB)
        self.assert_forgotten(descriptors)

    def test_few_descriptors(self) -> None:
        """More connections than descriptors: the daemon lives, and serves again when they are gone."""
        self.begin()
        self.limit_descriptors(128)
        for _ in range(300):
            self.connect()
        until(
            lambda: self.cache.process.alive and self.descriptors() >= 120 * self.cache.workers,
            "descriptors used up",
        )
        self.held.close()
        until(lambda: self.descriptors() < 60 * self.cache.workers, "descriptors given back")
        self.pull(0)
        self.pull(1)

    def test_slow_readers(self) -> None:
        """A client that takes nothing for ``clientstall`` is let go; one that takes a little is not."""
        self.begin(options={"limits": {"clientstall": "2s"}})
        before = self.descriptors()
        stuck = [self.connect(self.get(number % 2)) for number in range(20)]
        slow = self.curl.start(blob_url(self.cache.url, self.digests[0]), "--limit-rate", "3M")
        until(lambda: self.cache.metrics()["contentcache_connections"] <= 1, "the stuck ones gone")
        self.pull(1)
        done = slow.result()
        self.assertEqual((done.ended, done.size), (0, len(self.blobs[0])))
        self.assertEqual(len(stuck), 20)
        self.assert_forgotten(before)

    def test_aborts(self) -> None:
        """Clients that leave in the middle, with FIN or with RST, of hits and of a miss, change nothing."""
        self.begin()
        before = self.descriptors()
        self.upstream.misbehave("stall", self.digests[1], at=4 * _MIB, times=1)
        stays = self.curl.start(blob_url(self.cache.url, self.digests[1]))
        until(lambda: stays.received() > _MIB, "a part of it")
        clients = [self.connect(self.get(number % 2)) for number in range(60)]
        for client in clients:
            self.assertIn(b"200", client.recv(64))
        for number, client in enumerate(clients):
            if number % 3:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            client.close()
        self.upstream.behave()
        done = stays.result()
        self.assertEqual((done.ended, done.body.read_bytes() == self.blobs[1]), (0, True))
        self.pull(0)
        self.assertEqual(len(self.upstream.asked(self.digests[1], "GET")), 1)
        self.assert_forgotten(before)

    def test_nobody_is_left(self) -> None:
        """A fetch whose clients have all left goes on and is stored."""
        self.begin()
        self.upstream.misbehave("stall", self.digests[1], at=4 * _MIB, times=1)
        client = self.connect(self.get(1))
        # What a client has had is what the daemon knows of: the file may be ahead of it.
        body = b""
        while len(body) < _MIB:
            body += client.recv(_MIB)
        client.close()
        until(lambda: self.cache.metrics()["contentcache_connections"] == 0, "nobody left")
        self.upstream.behave()
        until(lambda: self.cache.stored(self.digests[1]), "it in the store")
        self.assertEqual(len(self.upstream.asked(self.digests[1], "GET")), 1)


@needs("curl")
class DrainTests(ClientsTestCase):
    """``SIGTERM``."""

    def test_drain(self) -> None:
        """
        A transfer under way is finished, a hit and a miss; new connections are refused, idle ones ended; and
        then it ends by itself.
        """
        self.begin(http={"draintimeout": "30s"})
        self.upstream.misbehave("stall", self.digests[1], at=4 * _MIB, times=1)
        idle = self.connect()
        running = [
            self.curl.start(blob_url(self.cache.url, digest), "--limit-rate", "6M") for digest in self.digests
        ]
        until(lambda: all(one.received() > 0 for one in running), "their first bytes")
        self.cache.process.send(signal.SIGTERM)
        until(self.refuses, "new connections refused")
        self.assertEqual(idle.recv(1), b"")
        self.upstream.behave()
        for one, blob in zip(running, self.blobs, strict=True):
            done = one.result()
            self.assertEqual((done.status, done.ended, done.body.read_bytes() == blob), (200, 0, True))
        self.assertIn(self.cache.process.wait(10), {0, -15})
        self.assertNotIn("Traceback", self.cache.log())

    def test_drain_is_over(self) -> None:
        """Who has not finished by then is ended short, with FIN, and what was fetched is gone on with."""
        self.begin(http={"draintimeout": "1s"})
        self.upstream.misbehave("stall", self.digests[1], at=4 * _MIB)
        client = self.connect(self.get(1))
        partial = self.partial(1)
        until(lambda: partial.exists() and partial.stat().st_size > _MIB, "a part of it")
        self.cache.process.send(signal.SIGTERM)
        read = read_to_end(client)
        self.assertEqual((read.status, read.end), (200, "fin"))
        self.assertEqual(read.body, self.blobs[1][: len(read.body)])
        self.assertLess(len(read.body), len(self.blobs[1]))
        self.assertIn(self.cache.process.wait(10), {0, -15})
        kept = partial.stat().st_size
        self.upstream.behave()
        self.cache.start()
        self.pull(1)
        self.assertEqual(self.upstream.ranges(self.digests[1])[-1], kept)
        self.assertNotIn("Traceback", self.cache.log())

    def refuses(self) -> bool:
        """Whether nobody listens any more."""
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.cache.port)) != 0
