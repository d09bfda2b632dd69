"""Several upstreams as one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.rotation import FIRST_SETBACK, LONGEST_SETBACK, Rotation

_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["order", "failed", "answered", "wait"]),
        st.sampled_from("abcO"),
        st.floats(0, 40),
    ),
    max_size=40,
)


class TurnTests(SynchronousTestCase):
    """Whose turn it is."""

    def test_round_robin(self) -> None:
        """Each host is first equally often, the others follow in their order."""
        rotation = Rotation(["a", "b", "c"])
        orders = [tuple(rotation.order(0.0)) for _ in range(300)]
        self.assertEqual(orders[:3], [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")])
        self.assertEqual(Counter(order[0] for order in orders), {"a": 100, "b": 100, "c": 100})

    def test_fallback_is_last(self) -> None:
        """The fallback has no turn: it is asked when all others of its standing have been."""
        rotation = Rotation(["a", "b"], "O")
        self.assertEqual({tuple(rotation.order(0.0)) for _ in range(4)}, {("a", "b", "O"), ("b", "a", "O")})
        rotation.failed("a", 0.0)
        rotation.failed("b", 0.0)
        self.assertEqual(rotation.order(0.5)[0], "O")
        rotation = Rotation(["a", "b"], "O")
        rotation.failed("O", 0.0)
        rotation.failed("a", 0.5)
        rotation.failed("b", 0.6)
        self.assertEqual(tuple(rotation.order(0.7)), ("a", "b", "O"))

    def test_fallback_among_the_hosts(self) -> None:
        """A fallback that has a turn anyway is asked and shown once."""
        rotation = Rotation(["a", "O"], "O")
        self.assertEqual(sorted(rotation.order(0.0)), ["O", "a"])


class SetbackTests(SynchronousTestCase):
    """Who goes last, and for how long."""

    def test_doubles(self) -> None:
        """Each failure after a set-back is over doubles the next one, up to the longest."""
        rotation = Rotation(["a", "b"])
        now, found = 0.0, []
        for _ in range(7):
            found.append(rotation.failed("a", now))
            self.assertTrue(rotation.is_set_back("a", now + found[-1] - 0.01))
            now += found[-1]
            self.assertFalse(rotation.is_set_back("a", now))
        self.assertEqual(found, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0])
        rotation.answered("a")
        self.assertEqual(rotation.failed("a", now), FIRST_SETBACK)

    def test_away_for_weeks(self) -> None:
        """A host that never comes back is set back as ever, however often it has failed."""
        rotation = Rotation(["a"])
        now = 0.0
        for _ in range(5000):
            now += rotation.failed("a", now)
        self.assertEqual(rotation.failed("a", now), LONGEST_SETBACK)

    def test_many_at_once_count_once(self) -> None:
        """A host that fails a hundred requests in one moment has failed once."""
        rotation = Rotation(["a"])
        for _ in range(100):
            rotation.failed("a", 0.0)
        self.assertFalse(rotation.is_set_back("a", FIRST_SETBACK))
        self.assertEqual(rotation.failed("a", FIRST_SETBACK), 2.0)

    def test_good_ones_first(self) -> None:
        """Those set back are asked last, the one whose time is up soonest before the others."""
        rotation = Rotation(["a", "b", "c"])
        rotation.failed("a", 0.0)
        rotation.failed("b", 0.5)
        for _ in range(3):
            self.assertEqual(tuple(rotation.order(0.9)), ("c", "a", "b"))
        rotation.failed("c", 0.9)
        self.assertEqual(tuple(rotation.order(0.95)), ("a", "b", "c"))

    def test_suspects(self) -> None:
        """A host that others are preferred to goes last although it is not ejected, the fallback after its like."""
        rotation = Rotation(["a", "b"], "O")
        for _ in range(3):
            self.assertEqual(tuple(rotation.order(0.0, ("a",))), ("b", "O", "a"))
        self.assertEqual(tuple(rotation.order(0.0, ("a", "O"))), ("b", "a", "O"))
        rotation.failed("b", 0.0)
        self.assertEqual(tuple(rotation.order(2.0, ("a",)))[-1], "a")

    @settings(deadline=None)
    @given(_EVENTS)
    def test_nobody_is_lost(self, events: list[tuple[str, str, float]]) -> None:
        """
        Whatever happened, every host is in the order once, no set-back one before a good one, and no
        set-back is longer than the longest.
        """
        rotation = Rotation("abc", "O")
        now = 0.0
        for event, host, seconds in events:
            if event == "wait":
                now += seconds
            elif event == "failed":
                self.assertTrue(0.0 < rotation.failed(host, now) <= LONGEST_SETBACK)
            elif event == "answered":
                rotation.answered(host)
                self.assertFalse(rotation.is_set_back(host, now))
            order = rotation.order(now)
            self.assertEqual(sorted(order), ["O", "a", "b", "c"])
            ejected = [rotation.is_set_back(one, now) for one in order]
            self.assertEqual(ejected, sorted(ejected))
            self.assertFalse(any(rotation.is_set_back(one, now + LONGEST_SETBACK) for one in order))
