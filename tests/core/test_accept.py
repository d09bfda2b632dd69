"""What a client is ready to take."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.accept import MANIFEST_TYPES, accepted, normalised

_KINDS = st.sampled_from(["a/b", "c/d", "e/f;q=0.5", "*/*", "G/h"])


class AcceptedTests(SynchronousTestCase):
    """What goes upstream."""

    def test_anything(self) -> None:
        """Who takes anything is given every manifest type by name, and anything at the end."""
        for values in [(), ("*/*",), ("",), (" */* ; q=0.8", ","), ("*/*", "*/*")]:
            with self.subTest(values=values):
                self.assertEqual(accepted(values), (*MANIFEST_TYPES, "*/*"))

    def test_own(self) -> None:
        """Who names a type is asked for in the client's own words."""
        for values in [("a/b",), ("a/b, */*",), ("*/*", "a/b;q=0.1"), ("A/B ; x=1",), ("application/*",)]:
            with self.subTest(values=values):
                self.assertEqual(accepted(values), values)


class NormalisedTests(SynchronousTestCase):
    """One key for all spellings."""

    @settings(deadline=None)
    @given(st.lists(_KINDS, min_size=1, max_size=6))
    def test_spelling(self, kinds: list[str]) -> None:
        """Order, case, space, repetition and the cut into header lines do not matter."""
        shuffled = [kind.upper().replace(";", " ; ") for kind in reversed(kinds)]
        key = normalised([",".join(kinds)])
        self.assertEqual(key, normalised(shuffled))
        self.assertEqual(key, normalised([*shuffled, " , ", kinds[0]]))

    @settings(deadline=None)
    @given(st.sets(_KINDS), st.sets(_KINDS))
    def test_meaning(self, some: set[str], others: set[str]) -> None:
        """Different wishes have different keys."""
        self.assertEqual(normalised(list(some)) == normalised(list(others)), some == others)

    def test_long(self) -> None:
        """Long ones are shortened, still apart, and nobody can ask for the short form itself."""
        long = [f"a/{'b' * 300}"]
        key = normalised(long)
        self.assertLessEqual(len(key), 256)
        self.assertNotEqual(key, normalised([f"a/{'b' * 301}"]))
        for guess in (key, key.strip(","), f" {key}", f"x,{key}"):
            self.assertNotEqual(normalised([guess]), key)
        self.assertLessEqual(len(normalised(["\udc80" * 300])), 256)
