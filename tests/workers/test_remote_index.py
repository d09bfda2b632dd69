"""Tests for :mod:`contentcache.workers.remote_index`."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from threading import Event

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import Affirmation, BlobRecord, Index, IndexLimits, Link, Tag, TagRecord
from contentcache.workers.remote_index import IndexServer, RemoteIndex
from tests.storage import suites

_LINK = Link("https://one.example", "org/app", "blobs", Digest.of(b"x"))


class _Failing(MemoryIndex):
    """An index on a full disk, with a defect besides."""

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        raise OSError(errno.ENOSPC, "no space left", "/index")

    def total(self) -> int:
        raise RuntimeError("a defect")


class RemoteIndexTests(suites.IndexSuite):
    """Across a pair of sockets an index does what it does."""

    def make_index(self, limits: IndexLimits | None = None) -> Index:
        return self.remote(MemoryIndex(limits))

    def remote(self, index: Index) -> RemoteIndex:
        """An index, called by worker 7."""
        self.denied: list[tuple[Link, int]] = []
        self.heard = Event()

        def denied(link: Link, number: int) -> None:
            self.denied.append((link, number))
            self.heard.set()

        mine, theirs = socket.socketpair()
        IndexServer(index, denied).serve(7, theirs)
        remote = RemoteIndex(mine)
        self.addCleanup(remote.close)
        return remote

    def test_denials(self) -> None:
        """The parent hears of each link that a worker revokes, and who it was."""
        index = self.remote(MemoryIndex())
        index.affirm(_LINK, Affirmation(1.5, None))
        self.assertEqual(self.denied, [])
        index.revoke(_LINK)
        self.assertIsNone(index.affirmation(_LINK))
        self.assertEqual(self.denied, [(_LINK, 7)])

    def test_errors(self) -> None:
        """Who asks hears of a disk that fails, and of a defect alike; the next question is answered."""
        index = self.remote(_Failing())
        error = self.assertRaises(OSError, index.touch, {Digest.of(b"x"): 1.0})
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertRaises(OSError, index.total)
        self.assertIsNone(index.blob(Digest.of(b"x")))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_undecodable(self) -> None:
        """A call that cannot be decoded is logged, and the next one has a result."""
        mine, theirs = socket.socketpair()
        IndexServer(MemoryIndex(), lambda _link, _number: None).serve(1, theirs)
        with mine, mine.makefile("rwb") as stream:
            for line, answer in (
                (b"no JSON", b"the index has failed"),
                (b'[2,"total",[],{}]', b"[2,0,null]"),
            ):
                stream.write(line + b"\n")
                stream.flush()
                self.assertIn(answer, stream.readline())
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_gone(self) -> None:
        """Without a parent there is no index."""
        mine, theirs = socket.socketpair()
        index = RemoteIndex(mine)
        theirs.close()
        self.assertRaises(OSError, index.blob, Digest.of(b"x"))
        index.close()
        self.assertRaises(OSError, index.blob, Digest.of(b"x"))

    def test_only_questions(self) -> None:
        """Nobody can close the parent's index, or call anything else of it."""
        mine, theirs = socket.socketpair()
        IndexServer(MemoryIndex(), lambda _link, _number: None).serve(1, theirs)
        with mine, mine.makefile("rwb") as stream:
            for method in ("close", "__init__", "_call"):
                stream.write(b'[1, "%s", [], {}]\n' % method.encode())
                stream.flush()
                self.assertIn(b"may not be called", stream.readline())


class StoppedTests(SynchronousTestCase):
    """A parent that is there and does not answer."""

    def setUp(self) -> None:
        """It has an index, and is stopped when the test says so."""
        mine, theirs = socket.socketpair()
        self.index = _Stopping()
        self.denied: list[Link] = []
        IndexServer(self.index, lambda link, _number: self.denied.append(link)).serve(1, theirs)
        self.remote = RemoteIndex(mine, 0.2)
        self.addCleanup(self.remote.close)
        self.addCleanup(self.index.running.set)

    def test_fails_in_time(self) -> None:
        """Questions fail, and do not wait for ever; all that follow the first one fail at once."""
        self.index.running.clear()
        self.assertRaises(OSError, self.remote.total)
        self.remote._calls.timeout = 3600.0  # would be noticed
        for _ in range(100):
            self.assertRaises(OSError, self.remote.total)

    def test_answers_again(self) -> None:
        """As soon as it runs again it is asked again, and late answers are nobody's."""
        self.index.record([BlobRecord(Digest.of(b"x"), 7, 1.0, verified=True)])
        self.index.running.clear()
        self.assertRaises(OSError, self.remote.tag, Tag("https://one.example", "org/app", "1", ""))
        self.index.running.set()
        self.remote._calls.timeout = 60.0
        while True:
            try:
                total = self.remote.total()
            except OSError:
                continue
            break
        self.assertEqual(total, 7)

    def test_blobs_that_were_read(self) -> None:
        """What was read of a verified blob is still known, until it is gone; of another one nothing is."""
        known, doubted = Digest.of(b"known"), Digest.of(b"doubted")
        self.index.record([BlobRecord(known, 1, 1.0, verified=True)])
        self.index.record([BlobRecord(doubted, 1, 1.0, verified=False)])
        record = self.remote.blob(known)
        self.assertIsNotNone(self.remote.blob(doubted))
        self.index.running.clear()
        self.assertEqual(self.remote.blob(known), record)
        self.assertRaises(OSError, self.remote.blob, doubted)
        self.remote.uncache(known)
        self.assertRaises(OSError, self.remote.blob, known)

    def test_revoked_late(self) -> None:
        """A link that was revoked meanwhile is revoked before anything else is said of links."""
        self.remote.affirm(_LINK, Affirmation(1.5, None))
        self.index.running.clear()
        other = Link("https://one.example", "org/app", "blobs", Digest.of(b"other"))
        self.assertRaises(OSError, self.remote.total)
        self.assertRaises(OSError, self.remote.revoke, _LINK)
        self.assertRaises(OSError, self.remote.affirmation, other)
        self.index.running.set()
        self.remote._calls.timeout = 60.0
        while True:
            try:
                self.remote.affirm(other, Affirmation(2.5, None))
            except OSError:
                continue
            break
        self.assertIsNone(self.remote.affirmation(_LINK))
        self.assertEqual(self.denied, [_LINK])

    def test_much_to_say(self) -> None:
        """A question that is larger than what the kernel buffers arrives whole, or not at all."""
        mine, theirs = socket.socketpair()
        remote = RemoteIndex(mine, 0.2)
        self.addCleanup(remote.close)
        pulls = {Digest.of(b"%d" % number): 1.0 for number in range(20_000)}
        self.assertRaises(OSError, remote.touch, pulls)
        IndexServer(self.index, lambda _link, _number: None).serve(2, theirs)
        remote._calls.timeout = 60.0
        while True:
            try:
                total = remote.total()
            except OSError:
                continue
            break
        self.assertEqual(total, 0)


class _Stopping(MemoryIndex):
    """An index that answers while it is running."""

    def __init__(self) -> None:
        super().__init__()
        self.running = Event()
        self.running.set()

    def total(self) -> int:
        self.running.wait()
        return super().total()

    def blob(self, digest: Digest) -> BlobRecord | None:
        self.running.wait()
        return super().blob(digest)

    def tag(self, tag: Tag) -> TagRecord | None:
        self.running.wait()
        return super().tag(tag)
