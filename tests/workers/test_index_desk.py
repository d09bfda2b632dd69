"""
Tests for :mod:`contentcache.workers.index_desk`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from threading import Event

from contentcache.core.digest import Digest
from contentcache.storage.interfaces import Affirmation, Index, Link
from contentcache.storage.memory_index import MemoryIndex
from contentcache.workers.index_desk import DistantIndex, IndexDesk
from tests.storage import suites

_LINK = Link("https://one.example", "org/app", "blobs", Digest.of(b"x"))


class _Failing(MemoryIndex):
    """
    An index on a full disk, with a defect besides.
    """

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        raise OSError(errno.ENOSPC, "no space left", "/index")

    def total(self) -> int:
        raise RuntimeError("a defect")


class DistantIndexTests(suites.IndexSuite):
    """
    Across a pair of sockets an index does what it does.
    """

    def make_index(self) -> Index:
        return self.at_a_desk(MemoryIndex())

    def at_a_desk(self, index: Index) -> DistantIndex:
        """An index, asked by worker 7."""
        self.denied: list[tuple[Link, int]] = []
        self.heard = Event()

        def denied(link: Link, number: int) -> None:
            self.denied.append((link, number))
            self.heard.set()

        mine, theirs = socket.socketpair()
        IndexDesk(index, denied).serve(7, theirs)
        distant = DistantIndex(mine)
        self.addCleanup(distant.close)
        return distant

    def test_denials(self) -> None:
        """The parent hears of each link that a worker revokes, and who it was."""
        index = self.at_a_desk(MemoryIndex())
        index.affirm(_LINK, Affirmation(1.5, None))
        self.assertEqual(self.denied, [])
        index.revoke(_LINK)
        self.assertIsNone(index.affirmation(_LINK))
        self.assertEqual(self.denied, [(_LINK, 7)])

    def test_errors(self) -> None:
        """Who asks hears of a disk that fails, and of a defect alike; the next question is answered."""
        index = self.at_a_desk(_Failing())
        error = self.assertRaises(OSError, index.touch, {Digest.of(b"x"): 1.0})
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertRaises(OSError, index.total)
        self.assertIsNone(index.blob(Digest.of(b"x")))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_gone(self) -> None:
        """Without a parent there is no index."""
        mine, theirs = socket.socketpair()
        index = DistantIndex(mine)
        theirs.close()
        self.assertRaises(OSError, index.blob, Digest.of(b"x"))
        index.close()
        self.assertRaises(OSError, index.blob, Digest.of(b"x"))

    def test_only_questions(self) -> None:
        """Nobody can close the parent's index, or call anything else of it."""
        mine, theirs = socket.socketpair()
        IndexDesk(MemoryIndex(), lambda _link, _number: None).serve(1, theirs)
        with mine, mine.makefile("rwb") as stream:
            for method in ("close", "__init__", "_ask"):
                stream.write(b'["%s", []]\n' % method.encode())
                stream.flush()
                self.assertIn(b"nobody may ask", stream.readline())
