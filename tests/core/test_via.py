"""
Loops and depth of a chain.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.via import FAMILY, Path, added

_HOPS = st.lists(st.sampled_from(["fred", "proxy:80", FAMILY + "ab", FAMILY + "cd", "[::1]:1"]), max_size=6)


class ViaTests(SynchronousTestCase):
    """
    ``Via`` (RFC 9110 §7.6.3).
    """

    def test_table(self) -> None:
        """
        Hops are read from one header line or several; what is none is passed over.
        """
        for values, hops in [
            ((), ()),
            (("",), ()),
            (("1.1 a",), ("a",)),
            (("1.1 a, HTTP/2 b:80",), ("a", "b:80")),
            (("1.1 a", "1.1 b"), ("a", "b")),
            (("1.1\ta (a comment) ,, ,1.0   b",), ("a", "b")),
            (("1.1", "1.1 "), ()),
        ]:
            with self.subTest(values=values):
                self.assertEqual(Path.of(values).hops, hops)

    @settings(deadline=None)
    @given(_HOPS, st.integers(0, 6))
    def test_round(self, hops: list[str], cut: int) -> None:
        """
        Who adds itself is met by whoever reads that, and nobody else is.
        """
        ours = FAMILY + "me"
        lines = [", ".join(f"1.1 {hop}" for hop in part) for part in (hops[:cut], hops[cut:]) if part]
        self.assertFalse(Path.of(lines).has_met(ours))
        path = Path.of([added(lines, ours)])
        self.assertEqual(path.hops, (*hops, ours))
        self.assertTrue(path.has_met(ours))
        self.assertEqual(path.caches, sum(hop.startswith(FAMILY) for hop in hops) + 1)

    def test_part_of_a_name(self) -> None:
        """
        A longer name is another one.
        """
        path = Path.of([f"1.1 {FAMILY}ab, 1.1 x{FAMILY}cd"])
        self.assertFalse(path.has_met(FAMILY + "a") or path.has_met(FAMILY + "cd"))
        self.assertEqual(path.caches, 1)
