"""Tests for :mod:`contentcache.core.sizes`."""

from __future__ import annotations

import doctest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core import sizes
from contentcache.core.sizes import LARGEST, SizeInvalid, parse, spell

READ = {
    "0": 0,
    "7": 7,
    "7B": 7,
    "500GB": 500 * 10**9,
    "500gb": 500 * 10**9,
    "500 GB": 500 * 10**9,
    "2TiB": 2 << 40,
    "2tib": 2 << 40,
    "64KiB": 64 << 10,
    "1kB": 1000,
    "1.5MiB": 3 << 19,
    "0.5b": 0,
    "3PB": 3 * 10**15,
    "1EiB": 1 << 60,
    "0" * 5000 + "1": 1,
    "1." + "0" * 5000 + "GB": 10**9,
    str(LARGEST): LARGEST,
}

REFUSED = [
    "",
    "GB",
    "-1",
    "+1",
    "1e9",
    "5G",
    "5Gi",
    "5 X",
    "5  GB",
    " 5GB",
    "5GB\n",
    "1,5GB",
    ".5GB",
    "5.GB",
    "\u0665",
]

TOO_LARGE = [str(LARGEST + 1), "8EiB", "9" * 5000, "9" * 5000 + "GB"]


class ParseTests(SynchronousTestCase):
    """Reading sizes."""

    def test_read(self) -> None:
        """Units of 1000 and of 1024 are told apart, in any case, and fractions are exact."""
        for text, size in READ.items():
            self.assertEqual(parse(text), size, text[:40])

    def test_refused(self) -> None:
        """Nonsense is refused in a sentence that repeats it."""
        for text in REFUSED:
            self.assertIn(f"{text!r} is not a size", str(self.assertRaises(SizeInvalid, parse, text)))

    def test_ambiguous(self) -> None:
        """A unit that means two things is refused with both spellings."""
        self.assertIn("write 5GB (powers of 1000) or 5GiB", str(self.assertRaises(SizeInvalid, parse, "5G")))

    def test_too_large(self) -> None:
        """More than a file system counts is refused, however many digits it has."""
        for text in TOO_LARGE:
            self.assertIn("too large", str(self.assertRaises(SizeInvalid, parse, text)))

    @settings(deadline=None)
    @given(st.text(alphabet="0123456789.kKmMgGtTpPeEiIbB -", max_size=30))
    def test_anything(self, text: str) -> None:
        """Any text gives whole bytes or the one error."""
        try:
            size = parse(text)
        except SizeInvalid:
            return
        self.assertTrue(0 <= size <= LARGEST)

    @settings(deadline=None)
    @given(st.integers(0, LARGEST))
    def test_round_trip(self, size: int) -> None:
        """The spelling of a size is read back as the same."""
        self.assertEqual(parse(spell(size)), size)

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(sizes).failed, 0)
