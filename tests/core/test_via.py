"""Loops and depth of a chain."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.via import FAMILY, MOST_HOPS, CachesBehind, ViaPath, append_via

_HOPS = st.lists(st.sampled_from(["fred", "proxy:80", FAMILY + "ab", FAMILY + "cd", "[::1]:1"]), max_size=6)


class ViaTests(SynchronousTestCase):
    """``Via`` (RFC 9110 §7.6.3)."""

    def test_table(self) -> None:
        """Hops are read from one header line or several; what is none is passed over."""
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
                self.assertEqual(ViaPath.of(values).hops, hops)

    @settings(deadline=None)
    @given(_HOPS, st.integers(0, 6))
    def test_round(self, hops: list[str], cut: int) -> None:
        """Who adds itself is met by whoever reads that, and nobody else is."""
        ours = FAMILY + "me"
        lines = [", ".join(f"1.1 {hop}" for hop in part) for part in (hops[:cut], hops[cut:]) if part]
        self.assertFalse(ViaPath.of(lines).contains(ours))
        path = ViaPath.of([append_via(lines, ours)])
        self.assertEqual(path.hops, (*hops, ours))
        self.assertTrue(path.contains(ours))
        self.assertEqual(path.caches, sum(hop.startswith(FAMILY) for hop in hops) + 1)

    def test_part_of_a_name(self) -> None:
        """A longer name is another one."""
        path = ViaPath.of([f"1.1 {FAMILY}ab, 1.1 x{FAMILY}cd"])
        self.assertFalse(path.contains(FAMILY + "a") or path.contains(FAMILY + "cd"))
        self.assertEqual(path.caches, 1)

    def test_bounds(self) -> None:
        """Eight names of ordinary length may be sent on."""
        self.assertTrue(ViaPath.of(["1.1 a"] * MOST_HOPS).is_bounded)
        self.assertFalse(ViaPath.of(["1.1 a"] * (MOST_HOPS + 1)).is_bounded)
        self.assertFalse(ViaPath.of(["1.1 " + "a" * 256]).is_bounded)


class CachesBehindTests(SynchronousTestCase):
    """Which caches are behind a host."""

    def test_until_learned(self) -> None:
        """
        A request that came through a cache may come back from a host that has not answered yet; one that came
        from a client, or through another kind of proxy, has no way back.
        """
        caches = CachesBehind()
        through = f"1.1 {FAMILY}x, 1.1 {FAMILY}me"
        self.assertTrue(caches.may_lead_back(through, ["a", "b"]))
        for via in ("", f"1.1 {FAMILY}me", f"1.1 fred, 1.1 {FAMILY}me"):
            self.assertFalse(caches.may_lead_back(via, ["a", "b"]))
        caches.learn("a", [])
        self.assertFalse(caches.may_lead_back(through, ["a"]))
        self.assertTrue(caches.may_lead_back(through, ["a", "b"]))
        caches.learn("b", [f"1.1 {FAMILY}b, 1.1 {FAMILY}x"])
        self.assertTrue(caches.may_lead_back(through, ["a", "b"]))
        self.assertFalse(caches.may_lead_back(through, ["a"]))
        self.assertEqual(list(caches.names()), [FAMILY + "b", FAMILY + "x"])

    def test_bounded(self) -> None:
        """A host that names ever new caches fills no memory; the newest count."""
        caches = CachesBehind()
        for number in range(1000):
            caches.learn("a", [f"1.1 {FAMILY}{number}"])
        self.assertEqual(len(caches.names()), 16)
        self.assertTrue(caches.may_lead_back(f"1.1 {FAMILY}999, 1.1 {FAMILY}me", ["a"]))
        caches.learn("a", ["1.1 " + FAMILY + "y" * 300])
        self.assertEqual(len(caches.names()), 16)
