"""The head of an upstream's answer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.errors import UpstreamBroken
from contentcache.core.opening import Opening, parse_length, read_opening, read_unsatisfied


class OpeningTests(SynchronousTestCase):
    """What it says of the body."""

    def test_table(self) -> None:
        """A 200 begins at the start whatever was asked for; a 206 where it was asked to, or it is of no use."""
        for status, length, content_range, wanted, expected in [
            (200, 10, None, 0, Opening(0, 10)),
            (200, None, None, 7, Opening(0, None)),
            (200, 10, "bytes 5-9/10", 5, Opening(0, 10)),
            (206, None, "bytes 5-9/10", 5, Opening(5, 10)),
            (206, 5, "bytes 5-9/*", 5, Opening(5, None)),
            (206, 5, "bytes 5-9/10", 4, None),
            (206, 5, "bytes 0-9/10", 5, None),
            (206, 10, None, 0, None),
            (206, 5, "bytes */10", 5, None),
            (206, 5, "bytes 5-10/10", 5, None),
            (204, None, None, 0, None),
            (304, None, None, 0, None),
            (203, 10, None, 0, None),
        ]:
            with self.subTest(status=status, content_range=content_range, wanted=wanted):
                if expected is None:
                    self.assertRaises(UpstreamBroken, read_opening, status, length, content_range, wanted)
                else:
                    self.assertEqual(read_opening(status, length, content_range, wanted), expected)

    def test_length(self) -> None:
        """``Content-Length`` is digits, and not more than make sense."""
        for value, expected in [
            ("0", 0),
            (" 12 ", 12),
            ("9" * 18, 10**18 - 1),
            ("9" * 5000, None),
            ("-1", None),
            ("+1", None),
            ("1, 1", None),
            ("0x1", None),
            ("\u0661", None),
            ("", None),
            (None, None),
        ]:
            with self.subTest(value=(value or "")[:20]):
                self.assertEqual(parse_length(value), expected)

    def test_unsatisfied(self) -> None:
        """A 416 may tell the size."""
        for value, expected in [
            ("bytes */10", 10),
            ("Bytes */0", 0),
            ("bytes */*", None),
            ("bytes 0-1/10", None),
            ("bytes */" + "9" * 5000, None),
            ("", None),
            (None, None),
        ]:
            with self.subTest(value=(value or "")[:20]):
                self.assertEqual(read_unsatisfied(value), expected)

    @settings(deadline=None)
    @given(st.integers(100, 599), st.none() | st.text(max_size=30), st.integers(0, 20))
    def test_nothing_else_raises(self, status: int, content_range: str | None, wanted: int) -> None:
        """Rubbish is a broken upstream."""
        try:
            opening = read_opening(status, None, content_range, wanted)
        except UpstreamBroken:
            return
        self.assertIn(opening.start, (0, wanted))
