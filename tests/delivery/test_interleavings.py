"""
One stream and several ranges into one sparse file, in thousands of orders: real threads, a real file, and an
upstream whose bytes come when they come.

``CONTENTCACHE_INTERLEAVINGS`` is the number of orders. Each follows from its seed as far as threads let it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from contentcache.core.digest import Digest
from contentcache.core.spans import Spans
from contentcache.delivery.download_file import DownloadFile
from contentcache.storage.filesystem import FilesystemStore
from tests.delivery.in_memory import ORIGIN
from tests.delivery.test_download_file import Body

INTERLEAVINGS: Final = int(os.environ.get("CONTENTCACHE_INTERLEAVINGS", "1000"))
_MOST_RANGES: Final = 4
_LONGEST_WAIT: Final = 30.0


class SeededThreads:
    """A ``Run`` whose calls begin in real threads, and are answered, when :meth:`step` says so."""

    def __init__(self, random_: random.Random, executor: ThreadPoolExecutor) -> None:
        self._random = random_
        self._executor = executor
        self._waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        self._finished: SimpleQueue[tuple[Deferred[Any], Any]] = SimpleQueue()
        self._running = 0

    def __call__(self, function: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        done: Deferred[Any] = Deferred()
        self._waiting.append((done, partial(function, *args, **kwargs)))
        return done

    @property
    def is_idle(self) -> bool:
        """Whether no call waits or runs."""
        return not self._waiting and self._running == 0

    def step(self, *, wait: bool) -> None:
        """Begin a call or answer one; with ``wait`` something happens in any case."""
        if self._waiting and (self._random.random() < 0.5 or self._running == 0):
            done, work = self._waiting.pop(self._random.randrange(len(self._waiting)))
            self._running += 1
            self._executor.submit(self._work, done, work)
            return
        try:
            done, result = self._finished.get(block=wait and self._running > 0, timeout=_LONGEST_WAIT)
        except Empty:
            return
        self._running -= 1
        done.callback(result)

    def _work(self, done: Deferred[Any], work: Callable[[], Any]) -> None:
        try:
            result = work()
        except Exception:  # noqa: BLE001  # it is for who waits
            result = Failure()
        self._finished.put((done, result))


class _Download:
    """One content on its way, with a stream and some ranges, as a fetch would take them."""

    def __init__(self, content: bytes, download_file: DownloadFile, random_: random.Random) -> None:
        self.content = content
        self.download_file = download_file
        self.held = Spans()
        self.bodies: list[tuple[Any, int, int]] = []
        self.failures: list[Failure] = []
        self._random = random_
        self._taking = 0

    def take(self, start: int, stop: int) -> None:
        """Ask upstream for some of the bytes."""
        body: Any = Body()
        self._taking += 1
        taking = Deferred.fromCoroutine(self.download_file.receive(body, start, start, stop, self._arrived))
        taking.addErrback(self.failures.append)
        taking.addBoth(lambda _none: self._ended())
        self.bodies.append((body, start, stop))

    def feed(self) -> None:
        """Some bytes of one body come in, or its end."""
        number = self._random.randrange(len(self.bodies))
        body, start, stop = self.bodies.pop(number)
        if body.stopped:
            body.inflow.connectionLost(Failure(ResponseDone()))
            return
        end = min(stop, start + self._random.choice((1, 700, 2000, 4096)))
        body.inflow.dataReceived(self.content[start:end])
        if end == stop:
            body.inflow.connectionLost(Failure(ResponseDone()))
        else:
            self.bodies.append((body, end, stop))

    @property
    def is_over(self) -> bool:
        """Whether all bytes are there and no body is under way; a gap that is left is asked for."""
        if self._taking:
            return False
        reach = self.held.reach(0)
        if reach < len(self.content):
            self.take(reach, self.held.gap(reach)[1] or len(self.content))
            return False
        return True

    def _arrived(self, start: int, stop: int) -> bool:
        self.held.add(start, stop)
        self.download_file.hash_in_background()
        return self.held.reach(stop) - stop > 20_000  # as a download does that a segment has overtaken

    def _ended(self) -> None:
        self._taking -= 1


class InterleavingTests(SynchronousTestCase):
    """An honest upstream is never said to have delivered something else."""

    def setUp(self) -> None:
        self.store = FilesystemStore(self.mktemp())
        self.store.prepare()
        self.executor = ThreadPoolExecutor(4)
        self.addCleanup(self.executor.shutdown)

    def test_hash_of_an_honest_upstream(self) -> None:
        """In whatever order threads, stream and ranges go on, the digest is right, and so is the file."""
        for seed in range(INTERLEAVINGS):
            self._try_once(seed)

    def _try_once(self, seed: int) -> None:
        random_ = random.Random(seed)
        content = random_.randbytes(random_.choice((9000, 20_000, 40_000)))
        digest, size = Digest.of(content), len(content)
        run = SeededThreads(random_, self.executor)
        download_file = DownloadFile(digest, run)
        file = self.store.resume(digest, ORIGIN)
        download_file.open(file, ())
        download = _Download(content, download_file, random_)
        download.take(0, size)
        for _ in range(random_.randrange(1, _MOST_RANGES)):
            start = random_.randrange(size)
            download.take(start, random_.randrange(start, size) + 1)
        haste = random_.choice((0.1, 0.25, 0.5))  # of the upstream, compared with the disk
        while not download.is_over:
            if download.bodies and (run.is_idle or random_.random() < haste):
                download.feed()
            else:
                run.step(wait=not download.bodies or random_.random() < 0.7)
        judging = Deferred.fromCoroutine(download_file.matches_digest(size))
        while not judging.called or not run.is_idle:
            run.step(wait=True)
        self.assertEqual(download.failures, [], f"seed {seed}")
        self.assertTrue(self.successResultOf(judging), f"seed {seed}: the digest is wrong")
        self.assertEqual(file.read(0, size + 1), content, f"seed {seed}")
        file.discard()
        download_file.close()
