"""What readers of a growing content hear, and when."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.delivery.shared_download import Progress

MIB = 1 << 20


class NewsTests(SynchronousTestCase):
    """Few wake-ups, and none forgotten."""

    def setUp(self) -> None:
        """Nobody has been told anything."""
        self.clock = Clock()
        self.news = Progress(self.clock)
        self.news.notify_soon(1)

    def test_first_bytes_at_once(self) -> None:
        """The first bytes are news at once."""
        self.assertEqual(self.news.announced, 1)

    def test_large_steps(self) -> None:
        """Small pieces are gathered: to a MiB, or for ten milliseconds."""
        waiting = self.news.wait()
        for prefix in range(2, MIB, 64 << 10):
            self.news.notify_soon(prefix)
        self.assertNoResult(waiting)
        self.assertEqual(self.news.announced, 1)
        self.news.notify_soon(MIB + 1)
        self.successResultOf(waiting)
        self.assertEqual(self.news.announced, MIB + 1)
        waiting = self.news.wait()
        self.news.notify_soon(MIB + 2)
        self.assertNoResult(waiting)
        self.clock.advance(0.01)
        self.successResultOf(waiting)
        self.assertEqual(self.news.announced, MIB + 2)

    def test_now(self) -> None:
        """What cannot wait is told at once, and nothing is left to be told later."""
        self.news.notify_soon(5)
        self.news.notify_all(7)
        self.assertEqual(self.news.announced, 7)
        self.assertEqual(self.clock.getDelayedCalls(), [])
