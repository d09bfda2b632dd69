"""The order of questions, whichever of their answers arrives first."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.request_order import LatestRequests, RequestClock


class RequestClockTests(SynchronousTestCase):
    """Times of questions."""

    def test_strictly_increasing(self) -> None:
        """No two questions have the same time, not even where the clock stands still or goes back."""
        seconds = iter([5.0, 5.0, 4.0, 9.0])
        clock = RequestClock(lambda: next(seconds))
        times = [clock() for _ in range(4)]
        self.assertEqual(times, sorted(set(times)))
        self.assertEqual((times[0], times[3]), (5.0, 9.0))


class LatestRequestsTests(SynchronousTestCase):
    """What was asked last."""

    def test_an_earlier_time_changes_nothing(self) -> None:
        """A late answer to an early question does not replace the later one."""
        latest = LatestRequests()
        latest.record("a", 5.0)
        latest.record("a", 3.0)
        self.assertEqual(latest.last("a"), 5.0)
        self.assertTrue(latest.outdates(4.0, "b", "a"))
        self.assertFalse(latest.outdates(5.0, "a"))

    def test_full_table_fails_closed(self) -> None:
        """An entry that was dropped for lack of room still outdates what was asked before it."""
        latest = LatestRequests(capacity=2)
        for number, key in enumerate("abc"):
            latest.record(key, float(number + 1))
        self.assertEqual(len(latest), 2)
        self.assertTrue(latest.outdates(0.5, "a"))
        self.assertTrue(latest.outdates(0.5, "never seen"))
        self.assertFalse(latest.outdates(1.5, "a"))
