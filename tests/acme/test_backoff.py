"""Tests for :mod:`contentcache.acme.backoff`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.backoff import AFTER_NO_RESPONSE, AFTER_REFUSAL, AFTER_UNUSABLE_ORDER, backoff_delay


class BackoffTests(SynchronousTestCase):
    """How long the pause after a failed attempt is."""

    def test_delays(self) -> None:
        """Delays grow to six hours, start longer where the server counts, and shrink near the expiry."""
        for failures, policy, retry_after, left, delay in (
            (1, AFTER_REFUSAL, None, None, 60.0),
            (5, AFTER_REFUSAL, None, None, 960.0),
            (10**9, AFTER_NO_RESPONSE, None, None, 21600.0),
            (20, AFTER_NO_RESPONSE, None, 8000.0, 1000.0),
            (20, AFTER_REFUSAL, None, 8.0, 60.0),
            (20, AFTER_REFUSAL, None, -8.0, 21600.0),
            (1, AFTER_REFUSAL, 86400.0, 100.0, 86400.0),
            (1, AFTER_UNUSABLE_ORDER, None, 8e6, 3600.0),
            (3, AFTER_UNUSABLE_ORDER, None, 8e6, 14400.0),
            (3, AFTER_UNUSABLE_ORDER, None, 8.0, 10.0),
        ):
            self.assertEqual(backoff_delay(failures, 0.0, policy, retry_after=retry_after, left=left), delay)
        self.assertEqual(backoff_delay(1, 1.0, AFTER_NO_RESPONSE, retry_after=None, left=None), 12.0)
