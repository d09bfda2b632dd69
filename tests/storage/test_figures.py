"""Tests for :mod:`contentcache.storage.figures`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from attrs import astuple
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.storage.figures import StoreFigures
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import BlobRecord
from contentcache.storage.memory import MemoryStore

_ONE, _TWO = Digest.of(b"one"), Digest.of(b"two")


class FiguresTests(SynchronousTestCase):
    """Figures of a store whose disk a test may slow down."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.index = MemoryIndex()
        self.held: list[Deferred[None]] = []
        self.is_slow = False
        self.figures = StoreFigures(self.store, self.index, self.run_in_thread, self.clock)
        self.index.record([BlobRecord(_ONE, 10, 1.0, True)])
        self.store.resume(_TWO, "https://a.example").write(0, b"x" * 7)

    async def run_in_thread(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, after the disk has moved."""
        if self.is_slow:
            self.held.append(Deferred())
            await self.held[-1]
        return function(*args, **kwargs)

    def refresh(self) -> Deferred[None]:
        """Read them."""
        return Deferred.fromCoroutine(self.figures.refresh())

    def test_figures(self) -> None:
        """Blobs by the index, partial files by the store; nothing is known before they are read."""
        self.assertTrue(all(math.isnan(figure) for figure in astuple(self.figures.now)))
        self.successResultOf(self.refresh())
        self.assertEqual(astuple(self.figures.now), (1, 10, 7, math.inf))

    def test_not_too_often(self) -> None:
        """Within a second they are not read again."""
        self.successResultOf(self.refresh())
        self.index.forget([_ONE])
        self.successResultOf(self.refresh())
        self.assertEqual(self.figures.now.blobs, 1)
        self.clock.advance(1)
        self.successResultOf(self.refresh())
        self.assertEqual(self.figures.now.blobs, 0)

    def test_slow_disk(self) -> None:
        """A disk that hangs leaves the last figures after a second, and is not asked a second time meanwhile."""
        self.successResultOf(self.refresh())
        self.index.forget([_ONE])
        self.is_slow = True
        self.clock.advance(1)
        first, second = self.refresh(), self.refresh()
        self.assertNoResult(first)
        self.clock.advance(1)
        for each in (first, second):
            self.successResultOf(each)
        self.assertEqual((self.figures.now.blobs, len(self.held)), (1, 1))
        self.held[0].callback(None)
        self.assertEqual(self.figures.now.blobs, 0)

    def test_failing_disk(self) -> None:
        """A disk that fails leaves the last figures."""
        self.successResultOf(self.refresh())
        self.clock.advance(1)
        self.is_slow = True
        refreshing = self.refresh()
        self.held[0].errback(OSError("no disk"))
        self.successResultOf(refreshing)
        self.assertEqual(self.figures.now.blobs, 1)
