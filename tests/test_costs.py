"""
What requests cost, in things that can be counted: a second fetch, a hop to a thread too many or a copy of a
body shows here and not in a benchmark.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from contentcache.aio.threads import at_once
from contentcache.core.ports import Given, Result
from contentcache.wire.sendfile import FileTransport
from tests.delivery.in_memory import REPOSITORY
from tests.registry.harness import Client, replies, request
from tests.registry.test_fast_path import CacheTestCase
from tests.server.test_channel_sockets import read_all

reactor: Any = global_reactor
_LARGE = 8 << 20


class CostTestCase(CacheTestCase):
    """Counts hops to threads by the name of what runs there."""

    fast = True

    def build(self, **options: Any) -> None:
        self.hops: Counter[str] = Counter()
        super().build(run=self.count_and_run, **options)

    def forget(self) -> None:
        super().forget()
        self.hops.clear()

    def count_and_run(
        self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Awaitable[Result]:
        """Run at once what would be run in a thread."""
        self.hops[getattr(function, "__name__", "?")] += 1
        return at_once(function, *args, **kwargs)

    def put(self, size: int) -> tuple[str, bytes]:
        """A blob at the origin: its path and content."""
        content = os.urandom(size)
        return f"/v2/{REPOSITORY}/blobs/{self.there.origin.put_blob(REPOSITORY, content)}", content


class CountTests(CostTestCase):
    """Requests, hops, bytes."""

    def test_small_and_warm(self) -> None:
        """A small warm blob costs no thread, no question to the index, and nothing upstream."""
        for method in ("GET", "HEAD"):
            self.assertEqual(self.ask(self.ann, method=method).status, 200)
        self.assertEqual(self.hops, {})
        self.assert_fast(2)

    def test_part_of_a_warm_one(self) -> None:
        """So does a part of one, small or large."""
        path, _content = self.put(_LARGE)
        for _ in range(2):
            self.ask(self.ann, path=path)
        self.forget()
        for target, wanted in ((self.path, "0-9"), (path, "5000000-5000999")):
            self.assertEqual(self.ask(self.ann, f"Range: bytes={wanted}", path=target).status, 206)
        self.assertEqual(self.hops, {})
        self.assert_fast(2)

    def test_many_in_one_turn(self) -> None:
        """
        Many who ask for the same in one turn of the reactor cost one look at its file, the next turn another;
        each is one send, and one pull that the index hears of later.
        """
        looks: list[int] = []
        fstat = os.fstat

        def counted(descriptor: int) -> os.stat_result:
            looks.append(descriptor)
            return fstat(descriptor)

        self.patch(os, "fstat", counted)
        clients = [Client(self.factory) for _ in range(10)]
        for turn in (1, 2):
            for client in clients:
                self.assertEqual(client.ask(self.path, f"Authorization: {self.ann}").status, 200)
            self.assertEqual(len(looks), turn)
            self.there.clock.advance(0)
        self.assertEqual(self.hops, {})
        self.assert_fast(20)

    def test_several_parts(self) -> None:
        """Several parts of one cost one hop, to open it; its grant and its link are in memory."""
        self.assertEqual(self.ask(self.ann, "Range: bytes=0-9,20-29").status, 206)
        self.assertLessEqual(self.hops.total(), 3)  # and where nobody can tell, one to read each
        self.assertEqual(self.hops["look_up"], 1)
        self.assertNotIn("affirmation", self.hops)
        self.assert_asked()

    def test_another_credential(self) -> None:
        """A new credential costs one ``HEAD`` upstream, once."""
        self.there.origin.let("bob", "2", REPOSITORY)
        for _ in range(3):
            self.assertEqual(self.ask(self.bob).status, 200)
        self.assert_asked("HEAD")

    def test_cold(self) -> None:
        """A cold blob is asked for once, and written once, in few pieces."""
        path, content = self.put(_LARGE)
        written = 0
        pwrite = os.pwrite

        def counted(descriptor: int, data: Any, offset: int) -> int:
            nonlocal written
            done = pwrite(descriptor, data, offset)
            written += done
            return done

        self.patch(os, "pwrite", counted)
        self.assertEqual(self.ask(self.ann, path=path).body, content)
        self.assert_asked("GET")
        self.assertEqual(written, _LARGE)
        # In this room a piece of the line is 16 KiB, and each is put away as it comes.
        self.assertGreater(self.hops["_write"], 0)  # so the name is still right
        self.assertLessEqual(self.hops["_write"], _LARGE // (16 << 10))
        self.assertEqual(self.hops["commit"], 1)
        self.assertEqual(self.hops["hash_more"], 0)


class CopyTests(CostTestCase, TestCase):
    """Over a socket."""

    @inlineCallbacks
    def test_large_and_warm(self) -> Generator[Deferred[Any], Any, None]:
        """A large warm blob goes from the page cache to the socket: next to nothing of it is read into memory."""
        path, content = self.put(_LARGE)
        for _ in range(2):
            self.ask(self.ann, path=path)
        self.forget()
        read, sent, calls = self._count()
        port = reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        port.transport = FileTransport
        head = request(path, f"Authorization: {self.ann}", "Connection: close").encode()

        def work(number: int) -> bytes:
            with socket.create_connection(("127.0.0.1", number), 20) as connection:
                connection.sendall(head)
                return read_all(connection)

        (reply,) = replies((yield deferToThread(work, port.getHost().port)))
        yield port.stopListening()
        self.assertEqual(reply.body, content)
        # Where nobody can tell what is in memory, a thread first has the kernel read it, by the MiB.
        self.assertGreaterEqual(sum(sent), _LARGE)
        self.assertLessEqual(sum(sent), _LARGE + self.hops["load"] * (1 << 20))
        self.assertLess(sum(read), 200)
        self.assertLess(len(calls), 16 * (_LARGE >> 20))
        self.assert_asked()

    def _count(self) -> tuple[list[int], list[int], list[int]]:
        read: list[int] = []
        sent: list[int] = []
        calls: list[int] = []
        preadv, pread, sendfile = os.preadv, os.pread, os.sendfile

        def counted_preadv(*given: Any) -> int:
            calls.append(1)
            done = preadv(*given)
            read.append(done)
            return done

        def counted_pread(*given: Any) -> bytes:
            calls.append(1)
            found = pread(*given)
            read.append(len(found))
            return found

        def counted_sendfile(*given: Any) -> int:
            done = sendfile(*given)
            sent.append(done)
            return done

        self.patch(os, "preadv", counted_preadv)
        self.patch(os, "pread", counted_pread)
        self.patch(os, "sendfile", counted_sendfile)
        return read, sent, calls
