"""Conditional requests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.http_caching import etag, evaluate, range_holds

DIGEST = "sha256:" + "ab" * 32
TAG = f'"{DIGEST}"'


class EvaluateTests(SynchronousTestCase):
    """``If-Match`` and ``If-None-Match`` (RFC 9110 §13.1.1, §13.1.2, §13.2.2)."""

    def test_none_match(self) -> None:
        """A weak comparison (§8.8.3.2) of each tag in the list; what is malformed matches nothing."""
        for value, matches in [
            (TAG, True),
            (f"W/{TAG}", True),
            ("*", True),
            (" *\t", True),
            (DIGEST, True),  # without quotes, from old clients
            (f'"x", {TAG}', True),
            (f'"x",W/{TAG},"y"', True),
            (f',, "x" ,, {TAG} ,', True),
            ('"a,b", ' + TAG, True),
            (f'"",{TAG}', True),
            (f'"\xe9",{TAG}', True),
            ("", False),
            (",", False),
            ('"x"', False),
            (f"w/{TAG}", False),
            (f'"x" {TAG}', False),
            (f'"{DIGEST}', False),
            (f'"x{DIGEST}"', False),
            (TAG.upper(), False),
            (f"{TAG}\n", False),
            ('"*"', False),
        ]:
            with self.subTest(value=value):
                expected = "not modified" if matches else "go on"
                self.assertEqual(evaluate(DIGEST, None, value), expected)

    def test_match(self) -> None:
        """A strong comparison: a weak tag never matches."""
        for value, matches in [
            (TAG, True),
            ("*", True),
            (f'"x", {TAG}', True),
            (f"W/{TAG}, {TAG}", True),
            (f"W/{TAG}", False),
            ('"x"', False),
            ("", False),
        ]:
            with self.subTest(value=value):
                self.assertEqual(evaluate(DIGEST, value, None), "go on" if matches else "failed")

    def test_order(self) -> None:
        """``If-Match`` is looked at first."""
        self.assertEqual(evaluate(DIGEST, '"x"', TAG), "failed")
        self.assertEqual(evaluate(DIGEST, TAG, TAG), "not modified")
        self.assertEqual(evaluate(DIGEST, None, None), "go on")

    @settings(deadline=None)
    @given(st.lists(st.text(alphabet="abc:,/!#", max_size=5), max_size=5), st.booleans())
    def test_lists(self, others: list[str], weak: bool) -> None:
        """In any list of other tags ours is found, if it is there, and only then."""
        listed = ", ".join(f'"{other}"' for other in others)
        self.assertEqual(evaluate(DIGEST, None, listed), "go on")
        ours = f"{'W/' if weak else ''}{etag(DIGEST)}"
        self.assertEqual(evaluate(DIGEST, None, f"{listed},{ours}"), "not modified")
        self.assertEqual(evaluate(DIGEST, f"{listed},{ours}", None), "failed" if weak else "go on")

    @settings(deadline=None)
    @given(st.text(max_size=50) | st.text(alphabet='W/", *\tab', max_size=50))
    def test_rubbish(self, value: str) -> None:
        """Nothing raises, and rubbish never counts as our digest."""
        self.assertIn(evaluate(DIGEST, None, value), {"go on", "not modified"} if "*" in value else {"go on"})
        self.assertEqual(range_holds(DIGEST, value), False)

    def test_long_lists_end(self) -> None:
        """The longest header that is taken is read once."""
        for unit in ('"', ",", " ", 'W/"', '"",', '" ', "W/"):
            with self.subTest(unit=unit):
                self.assertEqual(evaluate(DIGEST, None, unit * 8000), "go on")


class RangeHoldsTests(SynchronousTestCase):
    """``If-Range`` (RFC 9110 §13.1.5)."""

    def test_table(self) -> None:
        """One strong tag, and nothing else."""
        for value, holds in [
            (None, True),
            (TAG, True),
            (f" {TAG}\t", True),
            (f"W/{TAG}", False),
            (DIGEST, False),
            ("*", False),
            (f"{TAG}, {TAG}", False),
            ("Sun, 06 Nov 1994 08:49:37 GMT", False),
            ("", False),
        ]:
            with self.subTest(value=value):
                self.assertEqual(range_holds(DIGEST, value), holds)
