"""
Turns that are fair between addresses.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.auth.line import Line
from contentcache.core.errors import Overloaded


class LineTests(SynchronousTestCase):
    """
    One may work, six wait, three of them from one address.
    """

    def setUp(self) -> None:
        self.line = Line(1, 6, 3)
        self.turns: list[str] = []
        self.take("first")

    def take(self, address: str) -> Deferred[None]:
        """Get in line."""
        taking = Deferred.fromCoroutine(self.line.take(address))
        taking.addCallback(lambda _none: self.turns.append(address))
        return taking

    def test_round(self) -> None:
        """Addresses take turns, however many of one wait."""
        for address in ("a", "a", "a", "b", "c"):
            self.take(address)
        for _ in range(5):
            self.line.give_back()
        self.assertEqual(self.turns, ["first", "a", "b", "c", "a", "a"])

    def test_too_many_of_one(self) -> None:
        """One address has so many places, and no more."""
        for _ in range(3):
            self.take("a")
        self.failureResultOf(self.take("a"), Overloaded)
        self.assertNoResult(self.take("b"))

    def test_full(self) -> None:
        """While the line is full, somebody new takes the last place of the address that has most."""
        waiting = [self.take(address) for address in ("a", "a", "a", "b", "b", "b")]
        taken = [self.take("a"), self.take("b")]
        for each in taken:
            self.failureResultOf(each, Overloaded)
        self.assertNoResult(self.take("c"))
        self.failureResultOf(waiting[2], Overloaded)
        for _ in range(6):
            self.line.give_back()
        self.assertEqual(sorted(self.turns), ["a", "a", "b", "b", "b", "c", "first"])

    def test_left(self) -> None:
        """Who has left takes no turn, and the place is free again."""
        waiting = self.take("a")
        waiting.cancel()
        self.failureResultOf(waiting)
        self.line.give_back()
        self.assertEqual(self.turns, ["first"])
        self.take("b")
        self.assertEqual(self.turns, ["first", "b"])
