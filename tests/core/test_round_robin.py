"""Tests for :mod:`contentcache.core.round_robin`."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.round_robin import FIRST_BACKOFF, LONGEST_BACKOFF, RoundRobin

_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["order", "failed", "answered", "wait"]),
        st.sampled_from("abcO"),
        st.floats(0, 40),
    ),
    max_size=40,
)


class RoundRobinTests(SynchronousTestCase):
    """Whose turn it is."""

    def test_round_robin(self) -> None:
        """Each host is first equally often, the others follow in their order."""
        hosts = RoundRobin(["a", "b", "c"])
        orders = [tuple(hosts.order(0.0)) for _ in range(300)]
        self.assertEqual(orders[:3], [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")])
        self.assertEqual(Counter(order[0] for order in orders), {"a": 100, "b": 100, "c": 100})

    def test_fallback_is_last(self) -> None:
        """The fallback has no turn: it is asked after all others that are as healthy."""
        hosts = RoundRobin(["a", "b"], "O")
        self.assertEqual({tuple(hosts.order(0.0)) for _ in range(4)}, {("a", "b", "O"), ("b", "a", "O")})
        hosts.failed("a", 0.0)
        hosts.failed("b", 0.0)
        self.assertEqual(hosts.order(0.5)[0], "O")
        hosts = RoundRobin(["a", "b"], "O")
        hosts.failed("O", 0.0)
        hosts.failed("a", 0.5)
        hosts.failed("b", 0.6)
        self.assertEqual(tuple(hosts.order(0.7)), ("a", "b", "O"))

    def test_fallback_among_the_hosts(self) -> None:
        """A fallback that has a turn anyway is asked and shown once."""
        hosts = RoundRobin(["a", "O"], "O")
        self.assertEqual(sorted(hosts.order(0.0)), ["O", "a"])


class EjectionTests(SynchronousTestCase):
    """Who goes last, and for how long."""

    def test_doubles(self) -> None:
        """Each failure after an ejection is over doubles the next one, up to the longest."""
        hosts = RoundRobin(["a", "b"])
        now, found = 0.0, []
        for _ in range(7):
            found.append(hosts.failed("a", now))
            self.assertTrue(hosts.is_ejected("a", now + found[-1] - 0.01))
            now += found[-1]
            self.assertFalse(hosts.is_ejected("a", now))
        self.assertEqual(found, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0])
        hosts.answered("a")
        self.assertEqual(hosts.failed("a", now), FIRST_BACKOFF)

    def test_away_for_weeks(self) -> None:
        """A host that never comes back is ejected for no longer, however often it has failed."""
        hosts = RoundRobin(["a"])
        now = 0.0
        for _ in range(5000):
            now += hosts.failed("a", now)
        self.assertEqual(hosts.failed("a", now), LONGEST_BACKOFF)

    def test_many_at_once_count_once(self) -> None:
        """A host that fails a hundred requests in one moment has failed once."""
        hosts = RoundRobin(["a"])
        for _ in range(100):
            hosts.failed("a", 0.0)
        self.assertFalse(hosts.is_ejected("a", FIRST_BACKOFF))
        self.assertEqual(hosts.failed("a", FIRST_BACKOFF), 2.0)

    def test_good_ones_first(self) -> None:
        """Ejected hosts are asked last, the one whose time is up soonest before the others."""
        hosts = RoundRobin(["a", "b", "c"])
        hosts.failed("a", 0.0)
        hosts.failed("b", 0.5)
        for _ in range(3):
            self.assertEqual(tuple(hosts.order(0.9)), ("c", "a", "b"))
        hosts.failed("c", 0.9)
        self.assertEqual(tuple(hosts.order(0.95)), ("a", "b", "c"))

    def test_suspects(self) -> None:
        """A suspect is asked last although it is not ejected, and the fallback after its equals."""
        hosts = RoundRobin(["a", "b"], "O")
        for _ in range(3):
            self.assertEqual(tuple(hosts.order(0.0, ("a",))), ("b", "O", "a"))
        self.assertEqual(tuple(hosts.order(0.0, ("a", "O"))), ("b", "a", "O"))
        hosts.failed("b", 0.0)
        self.assertEqual(tuple(hosts.order(2.0, ("a",)))[-1], "a")

    @settings(deadline=None)
    @given(_EVENTS)
    def test_nobody_is_lost(self, events: list[tuple[str, str, float]]) -> None:
        """
        Whatever happened, every host is in the order once, no ejected one before a healthy one, and no
        ejection is longer than the longest.
        """
        hosts = RoundRobin("abc", "O")
        now = 0.0
        for event, host, seconds in events:
            if event == "wait":
                now += seconds
            elif event == "failed":
                self.assertTrue(0.0 < hosts.failed(host, now) <= LONGEST_BACKOFF)
            elif event == "answered":
                hosts.answered(host)
                self.assertFalse(hosts.is_ejected(host, now))
            order = hosts.order(now)
            self.assertEqual(sorted(order), ["O", "a", "b", "c"])
            ejected = [hosts.is_ejected(one, now) for one in order]
            self.assertEqual(ejected, sorted(ejected))
            self.assertFalse(any(hosts.is_ejected(one, now + LONGEST_BACKOFF) for one in order))
