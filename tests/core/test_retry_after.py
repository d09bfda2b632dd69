"""Tests for ``contentcache.core.retry_after``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.retry_after import DEFAULT, LONGEST, SHORTEST, seconds_of_patience

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


class SecondsOfPatienceTests(SynchronousTestCase):
    """What is made of ``Retry-After``."""

    def test_table(self) -> None:
        """Seconds and all three forms of a date are understood and bounded, all else is the default."""
        for value, expected in [
            (None, DEFAULT),
            ("", DEFAULT),
            ("soon", DEFAULT),
            ("-5", DEFAULT),
            ("1.5", DEFAULT),
            ("٣", DEFAULT),
            ("0", SHORTEST),
            ("1", 1.0),
            (" 90 ", 90.0),
            ("00000000000000000090", 90.0),
            ("600", LONGEST),
            ("601", LONGEST),
            ("9" * 10_000, LONGEST),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
            ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
            ("Sun Nov  6 08:50:37 1994", 60.0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", SHORTEST),
            ("Sun, 06 Nov 1993 08:49:37 GMT", SHORTEST),
            ("Sun, 06 Nov 2094 08:49:37 GMT", LONGEST),
            ("Sun, 99 Nov 1994 08:49:37 GMT", DEFAULT),
            ("Sun, 06 Nov 9999999999 08:49:37 GMT", DEFAULT),
        ]:
            with self.subTest(value=value):
                self.assertEqual(expected, seconds_of_patience(value, NOW))

    @given(st.text(max_size=80), st.floats(0, 4e9))
    def test_always_within_bounds(self, value: str, now: float) -> None:
        """No input raises or leaves the bounds."""
        self.assertTrue(SHORTEST <= seconds_of_patience(value, now) <= LONGEST)
