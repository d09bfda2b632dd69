"""Several bodies on their way into one file."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from contentcache.aio.threads import at_once
from contentcache.core.digest import Digest
from contentcache.core.errors import DiskFailed
from contentcache.delivery.download_file import DownloadFile
from contentcache.storage.memory import MemoryStore
from contentcache.upstream.inflow import Inflow
from tests.delivery.in_memory import ORIGIN


class Body:
    """An answer whose body comes when a test says so."""

    stopped = False
    paused = False

    def stream(self, received: Any) -> Inflow:
        """Let it come in (``Answer``)."""
        self.inflow = Inflow(received, Clock(), 30.0)
        transport: Any = self
        self.inflow.makeConnection(transport)
        return self.inflow

    def pauseProducing(self) -> None:
        """Too much waits (``Transport``)."""
        self.paused = True

    def resumeProducing(self) -> None:
        """No longer (``Transport``)."""
        self.paused = False

    def stopProducing(self) -> None:
        """Nobody wants it any more (``Transport``)."""
        self.stopped = True


class Later:
    """A ``Run`` whose work is done when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def __call__(self, function: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, partial(function, *args, **kwargs)))
        return done

    def work(self) -> Deferred[Any]:
        """Let the thread do its work; it has ended when the Deferred that this answers is fired."""
        done, work = self.waiting.pop(0)
        self.result = work()
        return done


class IntakeTests(SynchronousTestCase):
    """One file, two bodies."""

    def begin(self, content: bytes, run: Any = at_once) -> DownloadFile:
        """An intake for a content."""
        download_file = DownloadFile(Digest.of(content), run)
        download_file.open(MemoryStore().resume(Digest.of(content), ORIGIN), ())
        return download_file

    def take(self, download_file: DownloadFile, body: Any, start: int, arrived: Any) -> Deferred[bool]:
        """Take a body from one of its bytes on."""
        return Deferred.fromCoroutine(download_file.receive(body, start, start, None, arrived))

    def test_one_hop_for_many_pieces(self) -> None:
        """A thread that writes takes along what comes meanwhile, and how far it is is told with the next bytes."""
        content = os.urandom(1000)
        run, body, told = Later(), Body(), []
        download_file = self.begin(content, run)
        taking = self.take(download_file, body, 0, lambda start, stop: told.append((start, stop)))
        for start in range(0, 500, 100):
            body.inflow.dataReceived(content[start : start + 100])
        self.assertEqual((len(run.waiting), told), (1, []))
        done = run.work()
        self.assertEqual(told, [])
        body.inflow.dataReceived(content[500:])
        self.assertEqual(told, [(0, 500)])
        done.callback(None)
        self.assertEqual((len(run.waiting), told), (1, [(0, 500)]))
        body.inflow.connectionLost(Failure(ResponseDone()))
        run.work().callback(None)
        self.successResultOf(taking)
        self.assertEqual(told, [(0, 500), (500, 1000)])
        judging = Deferred.fromCoroutine(download_file.matches_digest(len(content)))
        run.work().callback(run.result)
        self.assertTrue(self.successResultOf(judging))
        self.assertEqual(run.waiting, [])

    def test_paused(self) -> None:
        """Upstream is paused while more than 4 MiB wait, and goes on before the last of them is written."""
        run, body = Later(), Body()
        download_file = self.begin(b"", run)
        taking = self.take(download_file, body, 0, lambda _start, _stop: None)
        piece = bytes(1 << 20)
        for _ in range(4):
            body.inflow.dataReceived(piece)
        self.assertFalse(body.paused)
        body.inflow.dataReceived(piece)
        self.assertTrue(body.paused)
        run.work().callback(None)
        self.assertFalse(body.paused)
        self.assertEqual(download_file.file.read(0, 10 << 20), bytes(5 << 20))
        body.inflow.dataReceived(piece)
        run.work().callback(None)
        body.inflow.connectionLost(Failure(ResponseDone()))
        self.successResultOf(taking)

    def test_enough_while_a_thread_writes(self) -> None:
        """A body that is overtaken while its thread writes ends with all told that is written, and no more."""
        content = bytes(range(200)) * 5
        run, body, told = Later(), Body(), []

        def arrived(start: int, stop: int) -> bool:
            told.append((start, stop))
            return True

        download_file = self.begin(content, run)
        taking = self.take(download_file, body, 0, arrived)
        body.inflow.dataReceived(content[:100])
        done = run.work()
        body.inflow.dataReceived(content[100:200])
        self.assertEqual((told, body.stopped), ([(0, 100)], True))
        body.inflow.dataReceived(content[200:300])
        self.assertNoResult(taking)
        done.callback(None)
        self.assertFalse(self.successResultOf(taking))
        self.assertEqual((told, download_file.file.read(0, 1000)), ([(0, 100)], content[:100]))

    def test_what_is_hashed_stays(self) -> None:
        """What has been hashed is not written again by another body, which may say something else."""
        content = os.urandom(1000)
        download_file = self.begin(content)
        good, liar = Body(), Body()
        takings = [self.take(download_file, good, 0, lambda _start, _stop: None)]
        takings.append(self.take(download_file, liar, 500, lambda _start, _stop: None))
        good.inflow.dataReceived(content[:800])
        liar.inflow.dataReceived(bytes(300))
        liar.inflow.dataReceived(content[800:])
        for body in (good, liar):
            body.inflow.connectionLost(Failure(ResponseDone()))
        for taking in takings:
            self.successResultOf(taking)
        self.assertTrue(
            self.successResultOf(Deferred.fromCoroutine(download_file.matches_digest(len(content))))
        )
        self.assertEqual(download_file.file.read(0, 1000), content)

    def test_enough_ends_one_body_alone(self) -> None:
        """A body that is overtaken ends, and the other one, which overtakes it, goes on to its end."""
        content = bytes(2000)
        download_file = DownloadFile(Digest.of(content), at_once)
        download_file.open(MemoryStore().resume(Digest.of(content), ORIGIN), ())
        first, second = Body(), Body()

        def enough(_start: int, _stop: int) -> bool:
            return True

        def quiet(_start: int, _stop: int) -> None: ...

        answers: list[Any] = [first, second]
        overtaken = Deferred.fromCoroutine(download_file.receive(answers[0], 0, 0, 2000, enough))
        other = Deferred.fromCoroutine(download_file.receive(answers[1], 1000, 1000, 2000, quiet))
        first.inflow.dataReceived(content[:1000])
        self.assertFalse(self.successResultOf(overtaken))
        self.assertTrue(first.stopped)
        self.assertFalse(second.stopped)
        second.inflow.dataReceived(content[1000:])
        second.inflow.connectionLost(Failure(ResponseDone()))
        self.assertTrue(self.successResultOf(other))
        self.assertTrue(
            self.successResultOf(Deferred.fromCoroutine(download_file.matches_digest(len(content))))
        )

    def test_nothing_is_written_without_room(self) -> None:
        """
        Of a body of unknown length no byte is written before it has room, however fast it comes; where there
        is none, what had room is kept.
        """
        content = os.urandom(1000)
        run, body, asked = Later(), Body(), list[int]()
        rooms = [Deferred[int | None]() for _ in range(3)]

        async def reserve(stop: int) -> int | None:
            asked.append(stop)
            return await rooms[len(asked) - 1]

        download_file = self.begin(content, run)
        taking = Deferred.fromCoroutine(
            download_file.receive(body, 0, 0, None, lambda _start, _stop: None, reserve)  # type: ignore[arg-type]
        )
        for start in range(0, 1000, 100):
            body.inflow.dataReceived(content[start : start + 100])
        self.assertEqual((asked, run.waiting), ([100], []))
        rooms[0].callback(250)
        run.work().callback(None)
        self.assertEqual(download_file.file.read(0, 1000), content[:200])
        self.assertEqual(asked, [100, 300])
        rooms[1].callback(700)
        run.work().callback(None)
        self.assertEqual(download_file.file.read(0, 1000), content[:700])
        rooms[2].errback(DiskFailed("there is no room in the store"))
        self.failureResultOf(taking, DiskFailed)
        self.assertEqual((download_file.file.read(0, 1000), run.waiting), (content[:700], []))
        self.assertTrue(body.stopped)
