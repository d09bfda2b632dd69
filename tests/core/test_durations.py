"""Tests for :mod:`contentcache.core.durations`."""

from __future__ import annotations

import doctest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core import durations
from contentcache.core.durations import DurationInvalid, is_bare, parse, spell

READ = {
    "0": 0.0,
    "300ms": 0.3,
    "1h30m": 5400.0,
    "168h": 604800.0,
    "1h1m1s1ms1us1ns": 3661.001001001,
    "2us": 2e-6,
    "2\u00b5s": 2e-6,
    "2\u03bcs": 2e-6,
    "1.5h": 5400.0,
    ".5s": 0.5,
    "5.s": 5.0,
    "+5m": 300.0,
    "-5m": -300.0,
    "-0": 0.0,
    "1m1m": 120.0,
    "24": 24e-9,
    "-24": -24e-9,
    "86400000000000": 86400.0,
    "0.0000000001ns": 0.0,
    "1." + "0" * 5000 + "s": 1.0,
    "0" * 5000 + "1s": 1.0,
    "9223372036854775807": 9223372036.854776,
}

REFUSED = [
    "",
    " ",
    "24hours",
    "1d",
    "1h 30m",
    " 1h",
    "1h\n",
    "h",
    ".s",
    "s5",
    "1.2.3s",
    "1e9",
    "1.5",
    "--5s",
    "+",
    "-",
    "5H",
    "\u0665s",
    "None",
    "inf",
]

TOO_LONG = ["9223372036854775808", "9" * 5000, "9" * 5000 + "h", "2562048h", "-9223372036854775809ns"]


class ParseTests(SynchronousTestCase):
    """Reading durations."""

    def test_read(self) -> None:
        """Go's syntax is read in full, and digits alone count nanoseconds."""
        for text, seconds in READ.items():
            self.assertEqual(parse(text), seconds, text[:40])

    def test_refused(self) -> None:
        """What Go refuses is refused, in a sentence that repeats it and says what would be right."""
        for text in REFUSED:
            error = self.assertRaises(DurationInvalid, parse, text)
            self.assertEqual(str(error), f"{text!r} is not a duration; write e.g. 24h or 1h30m")

    def test_too_long(self) -> None:
        """What 64 bits of nanoseconds do not hold is refused, however many digits it has."""
        for text in TOO_LONG:
            self.assertIn("too long", str(self.assertRaises(DurationInvalid, parse, text)))

    @settings(deadline=None)
    @given(st.text(alphabet="0123456789.+-nuµμsmh ", max_size=30))
    def test_anything(self, text: str) -> None:
        """Any text gives a number of seconds or the one error."""
        try:
            seconds = parse(text)
        except DurationInvalid:
            return
        self.assertIsInstance(seconds, float)

    @settings(deadline=None)
    @given(st.integers(-(2**52), 2**52))
    def test_round_trip(self, nanoseconds: int) -> None:
        """The spelling of a duration is read back as the same."""
        seconds = nanoseconds / 1e9
        self.assertEqual(parse(spell(seconds)), seconds)

    def test_bare(self) -> None:
        """Only digits with at most a sign lack a unit."""
        self.assertEqual(
            [is_bare(text) for text in ("24", "+24", "24h", "", "1.5")], [True, True, False, False, False]
        )

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(durations).failed, 0)
