"""Many at once on what is not here yet."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import digest_of, push_blob, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import needs, until

_MIB = 1 << 20


@needs("docker-registry", "curl")
class StampedeTests(SynchronousTestCase):
    """One fetch for all."""

    def setUp(self) -> None:
        """An origin at the far end of a line that counts."""
        self.origin = Origin(self)
        self.line = CountingProxy(self, self.origin.port)
        self.cache = ContentCache(self, self.line.url)

    def test_many_curls(self) -> None:
        """64 clients on one cold blob over a line of 100 MB/s: it crosses the line once, and each gets it whole."""
        content = random_bytes(64 * _MIB, "stampede")
        digest = push_blob(self.origin, "org/app", content)
        self.line.rate = 100e6
        self.line.forget()
        curl = Curl(self)
        url = f"{self.cache.url}/v2/org/app/blobs/{digest}"
        running = [curl.start(url) for _ in range(64)]
        fetched = [one.result() for one in running]
        self.assertEqual({one.status for one in fetched}, {200})
        self.assertEqual({one.ended for one in fetched}, {0})
        self.assertEqual({digest_of(one.body.read_bytes()) for one in fetched}, {digest})
        self.assertEqual(len(self.line.asked("/blobs/", "GET")), 1)
        self.assertLess(self.line.received, len(content) * 1.002)

    def test_first_client_is_slow(self) -> None:
        """A first client that reads slowly delays nobody else."""
        content = random_bytes(32 * _MIB, "slow")
        digest = push_blob(self.origin, "org/app", content)
        curl = Curl(self)
        url = f"{self.cache.url}/v2/org/app/blobs/{digest}"
        slow = curl.start(url, "--limit-rate", "20k")
        until(lambda: slow.received() > 0, "its first bytes")
        quick = curl.fetch(url)
        self.assertEqual(digest_of(quick.body.read_bytes()), digest)
        # On a busy machine curl takes more at once than its limit says, but never all.
        self.assertLess(slow.received(), len(content))

    def test_first_client_leaves(self) -> None:
        """A first client that is killed in the middle ends nothing: the blob is stored, fetched once."""
        content = random_bytes(32 * _MIB, "leaves")
        digest = push_blob(self.origin, "org/app", content)
        self.line.rate = 50e6
        first = Curl(self).start(f"{self.cache.url}/v2/org/app/blobs/{digest}")
        until(lambda: first.received() > _MIB, "a part of it")
        first.process.kill9()
        until(lambda: self.cache.stored(digest), "the blob in the store")
        self.assertEqual(len(self.line.asked("/blobs/", "GET")), 1)

    def test_slow_clients_and_memory(self) -> None:
        """100 clients that hardly read, each on a cold blob of its own, cost less than 64 MiB together."""
        digests = [
            push_blob(self.origin, "org/app", random_bytes(4 * _MIB, f"slow {number}"))
            for number in range(100)
        ]
        # What is built once at the first request counts for the daemon, not for the clients.
        warm_up = push_blob(self.origin, "org/app", random_bytes(_MIB, "first"))
        Curl(self).fetch(f"{self.cache.url}/v2/org/app/blobs/{warm_up}")
        before = self.cache.rss()
        with ExitStack() as open_ones:
            for digest in digests:
                client = open_ones.enter_context(socket.socket())
                # As small as can be: what the kernel takes for a slow client is not held by the daemon.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", self.cache.port))
                client.sendall(
                    f"GET /v2/org/app/blobs/{digest} HTTP/1.1\r\nHost: {self.cache.host}\r\n\r\n".encode()
                )
                self.assertIn(b"200", client.recv(64))
            until(lambda: all(map(self.cache.stored, digests)), "all blobs in the store")
            self.assertLess(self.cache.rss() - before, 64 * _MIB)
