"""Tests for ``contentcache.core.retry_after``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.retry_after import DEFAULT, LONGEST, SHORTEST, RateLimits, retry_after_seconds

NOW = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


class RetryAfterTests(SynchronousTestCase):
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
                self.assertEqual(expected, retry_after_seconds(value, NOW))

    @given(st.text(max_size=80), st.floats(0, 4e9))
    def test_always_within_bounds(self, value: str, now: float) -> None:
        """No input raises or leaves the bounds."""
        self.assertTrue(SHORTEST <= retry_after_seconds(value, now) <= LONGEST)


class RateLimitsTests(SynchronousTestCase):
    """The table of the keys that were asked to wait."""

    def test_until(self) -> None:
        """What remains goes down to nothing, and is forgotten then."""
        limits = RateLimits()
        limits.limit(b"a", 10.0)
        self.assertEqual(limits.remaining(b"a", 4.0), 6.0)
        self.assertIsNone(limits.remaining(b"b", 4.0))
        self.assertIsNone(limits.remaining(b"a", 10.0))
        self.assertIsNone(limits.remaining(b"a", 4.0))

    def test_replaced(self) -> None:
        """A later limit replaces the earlier one."""
        limits = RateLimits()
        limits.limit(b"a", 10.0)
        limits.limit(b"a", 5.0)
        self.assertEqual(limits.remaining(b"a", 4.0), 1.0)

    def test_bounded(self) -> None:
        """Of very many the oldest are forgotten."""
        limits = RateLimits()
        for number in range(10_001):
            limits.limit(b"%d" % number, 10.0)
        self.assertIsNone(limits.remaining(b"0", 0.0))
        self.assertEqual(limits.remaining(b"10000", 0.0), 10.0)
