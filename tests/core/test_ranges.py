"""Tests for :mod:`contentcache.core.ranges`: which bytes a client wants, and which an upstream sends."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.errors import RangeUnsatisfiable, UpstreamBroken
from contentcache.core.ranges import (
    MOST_PARTS,
    BodyStart,
    ContentRange,
    Span,
    parse_body_start,
    parse_content_range,
    parse_length,
    parse_range,
    parse_unsatisfied_size,
    spans,
)

_SPECS = st.one_of(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    st.integers(0, 60).map(lambda first: f"{first}-"),
    st.integers(0, 60).map(lambda count: f"-{count}"),
    st.sampled_from(["", " ", "-", "x", "1-2-3", "+1-2", "1 - 2", "0x1-", "\u0661-", " 1-2\t", "007-008"]),
    st.sampled_from([f"0-{10**30}", f"{10**30}-", f"{10**30}-{10**29}", f"{10**29}-{10**30}", f"-{10**30}"]),
)
_HEADERS = st.lists(_SPECS, max_size=8).map(",".join).map("bytes=".__add__)


def wanted(header: str, size: int) -> list[list[int]] | str:
    """The parts of a header as sorted sets of offsets, in the naive way: ``"whole"``, ``"none"`` or the parts."""
    sets: list[set[int]] = []
    specs = [spec.strip(" \t") for spec in header.removeprefix("bytes=").split(",")]
    specs = [spec for spec in specs if spec]
    for spec in specs:
        if re.fullmatch("[0-9]*-[0-9]*", spec) is None or spec == "-":
            return "whole"
        first, last = spec.split("-")
        if first and last and int(first) > int(last):
            return "whole"
    for spec in specs:
        first, last = spec.split("-")
        if not first:
            there = range(max(0, size - int(last)), size)
        else:
            there = range(min(size, int(first)), min(size, int(last) + 1) if last else size)
        if there:
            sets.append(set(there))
    if not specs or (size == 0 and any(spec.startswith("-") and int(spec[1:]) for spec in specs)):
        return "whole"
    merged: list[set[int]] = []
    for part in sets:
        near = [other for other in merged if {min(part) - 1, *part, max(part) + 1} & other]
        place = min((merged.index(other) for other in near), default=len(merged))
        merged = [other for other in merged if other not in near]
        merged.insert(place, part.union(*near))
    return [sorted(part) for part in merged] or "none"


class RangeTests(SynchronousTestCase):
    """``Range`` (RFC 9110 §14.2)."""

    @settings(max_examples=1000, deadline=None)
    @given(_HEADERS, st.integers(0, 50))
    def test_as_the_naive_way(self, header: str, size: int) -> None:
        """Whatever is asked of a content of any size, the parts are those that a list of offsets gives."""
        expected = wanted(header, size)
        try:
            found = spans(parse_range(header), size) if parse_range(header) else ()
        except RangeUnsatisfiable as error:
            self.assertEqual(expected, "none")
            self.assertEqual((error.status, error.headers["Content-Range"]), (416, f"bytes */{size}"))
            return
        self.assertEqual([list(range(part.start, part.stop)) for part in found] or "whole", expected)
        for part in found:
            self.assertEqual((part.size, part.length), (size, part.stop - part.start))

    @settings(deadline=None)
    @given(st.text(max_size=40) | st.text(alphabet="bytes=0123456789-, \t", max_size=40))
    def test_never_raises(self, header: str) -> None:
        """No header is an error: what makes no sense is ignored."""
        for spec in parse_range(header):
            self.assertTrue(spec.first is not None or spec.last is not None)

    def test_ignored(self) -> None:
        """Other units and malformed sets mean the whole, even where one part would make sense."""
        for header in [
            None,
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "lines=1-2",
            "bytes=5-4",
            "bytes=0-1,5-4",
            "bytes=0-1,x",
            "bytes:0-1",
            "bytes=0-1\n",
            "=0-1",
            "bytes=--1",
        ]:
            with self.subTest(header=header):
                self.assertEqual(parse_range(header), ())

    def test_unit(self) -> None:
        """The unit's case does not matter (RFC 9110 §14.1), nor does space around a part."""
        self.assertEqual(spans(parse_range("BYTES= 1-2 ,\t-1"), 10), (Span(1, 3, 10), Span(9, 10, 10)))

    def test_order(self) -> None:
        """Parts come in the order of the request; a merged one stands where its first member stood."""
        found = spans(parse_range("bytes=50-59,0-9,10-19,100-,55-64"), 110)
        self.assertEqual(
            [part.content_range() for part in found],
            ["bytes 50-64/110", "bytes 0-19/110", "bytes 100-109/110"],
        )

    def test_too_many(self) -> None:
        """As many parts as are allowed are served; one more is refused, never answered by the whole."""
        parts = [f"{2 * place}-{2 * place}" for place in range(MOST_PARTS)]
        size = 1000
        self.assertEqual(len(spans(parse_range("bytes=" + ",".join(parts)), size)), MOST_PARTS)
        parts.append("500-")
        self.assertRaises(RangeUnsatisfiable, spans, parse_range("bytes=" + ",".join(parts)), size)
        # What counts is how many are left.
        parts.append("0-400")
        self.assertEqual(len(spans(parse_range("bytes=" + ",".join(parts)), size)), 2)
        self.assertEqual(spans(parse_range("bytes=" + ",".join(["0-"] * 5000)), size), (Span(0, size, size),))

    def test_long_numbers(self) -> None:
        """Thousands of digits are a number like any other."""
        nines, zeros = "9" * 5000, "0" * 5000
        for header, expected in [
            (f"bytes=0-{nines}", (Span(0, 10, 10),)),
            (f"bytes={zeros}3-{zeros}4", (Span(3, 5, 10),)),
            (f"bytes=-{nines}", (Span(0, 10, 10),)),
            (f"bytes=-{zeros}2", (Span(8, 10, 10),)),
        ]:
            with self.subTest(header=header[:12]):
                self.assertEqual(spans(parse_range(header), 10), expected)
        self.assertRaises(RangeUnsatisfiable, spans, parse_range(f"bytes={nines}-"), 10)
        self.assertEqual(parse_range(f"bytes={nines}9-{nines}"), ())

    def test_empty_content(self) -> None:
        """An empty content has no first byte; its last five are the whole of it (RFC 9110 §14.1.2)."""
        self.assertRaises(RangeUnsatisfiable, spans, parse_range("bytes=0-"), 0)
        self.assertRaises(RangeUnsatisfiable, spans, parse_range("bytes=-0"), 0)
        self.assertEqual(spans(parse_range("bytes=-5"), 0), ())


class ContentRangeTests(SynchronousTestCase):
    """``Content-Range`` (RFC 9110 §14.4)."""

    def test_table(self) -> None:
        """What makes sense is read, all else is nothing."""
        for value, expected in [
            ("bytes 0-0/1", ContentRange(0, 0, 1)),
            ("Bytes 5-9/*", ContentRange(5, 9, None)),
            ("bytes 5-4/10", None),
            ("bytes 5-10/10", None),
            ("bytes */10", None),
            ("bytes=5-9/10", None),
            ("bytes 5-9/10, bytes 0-1/10", None),
            ("bytes 5-9/10\n", None),
            ("bytes \u0661-9/10", None),
            ("bytes 5-" + "9" * 5000 + "/*", None),
            ("", None),
            (None, None),
        ]:
            with self.subTest(value=(value or "")[:20]):
                self.assertEqual(parse_content_range(value), expected)

    @settings(deadline=None)
    @given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
    def test_reads_what_is_written(self, start: int, length: int, more: int) -> None:
        """A cache understands another."""
        span = Span(start, start + length, start + length + more)
        self.assertEqual(
            parse_content_range(span.content_range()), ContentRange(span.start, span.stop - 1, span.size)
        )


class OpeningTests(SynchronousTestCase):
    """What it says of the body."""

    def test_table(self) -> None:
        """A 200 begins at the start whatever was asked for; a 206 where it was asked to, or it is of no use."""
        for status, length, content_range, wanted, expected in [
            (200, 10, None, 0, BodyStart(0, 10)),
            (200, None, None, 7, BodyStart(0, None)),
            (200, 10, "bytes 5-9/10", 5, BodyStart(0, 10)),
            (206, None, "bytes 5-9/10", 5, BodyStart(5, 10)),
            (206, 5, "bytes 5-9/*", 5, BodyStart(5, None)),
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
                    self.assertRaises(UpstreamBroken, parse_body_start, status, length, content_range, wanted)
                else:
                    self.assertEqual(parse_body_start(status, length, content_range, wanted), expected)

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
                self.assertEqual(parse_unsatisfied_size(value), expected)

    @settings(deadline=None)
    @given(st.integers(100, 599), st.none() | st.text(max_size=30), st.integers(0, 20))
    def test_nothing_else_raises(self, status: int, content_range: str | None, wanted: int) -> None:
        """Rubbish is a broken upstream."""
        try:
            opening = parse_body_start(status, None, content_range, wanted)
        except UpstreamBroken:
            return
        self.assertIn(opening.start, (0, wanted))
