"""Tests for :mod:`contentcache.workers.worker_process`; processes are in the tests of its pool."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.workers.worker_process import RestartBackoff


class RestartBackoffTests(SynchronousTestCase):
    """How long the supervisor waits before it starts a worker again."""

    def test_backoff(self) -> None:
        """None the first time; then longer and longer, up to a bound, until a start has succeeded."""
        backoff = RestartBackoff()
        pauses = [backoff.after(0.5) for _ in range(14)]
        self.assertEqual(pauses[:4], [0.0, 0.25, 0.5, 1.0])
        self.assertEqual(pauses[-1], 30.0)
        self.assertEqual(pauses, sorted(pauses))
        self.assertEqual([backoff.after(seconds) for seconds in (60, 0.5, 0.5)], [0.0, 0.25, 0.5])
