"""Tests for :mod:`contentcache.jose.strict_json`."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.jose.strict_json import InvalidJSONError, parse_json

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class ParseTests(SynchronousTestCase):
    """What is JSON, and what is in doubt."""

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(_VALUES)
    def test_values(self, value: object) -> None:
        """What JSON can say comes back."""
        self.assertEqual(parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8")), value)

    @given(st.binary())
    def test_anything(self, raw: bytes) -> None:
        """Anything else is refused in a sentence, and never raises something else."""
        try:
            parse_json(raw)
        except InvalidJSONError as error:
            self.assertTrue(str(error))

    def test_in_doubt(self) -> None:
        """What two readers could understand differently is refused."""
        for raw in (
            b"",
            b"{",
            b'{"a": 1, "a": 1}',
            b'{"x": {"a": 1, "a": 2}}',
            b"NaN",
            b"[Infinity]",
            b"-Infinity",
            b'"\xff"',
            b"\xff\xfe{\x00}\x00",
            b"\xef\xbb\xbf{}",
            b'"\\ud800"',
            b"{'a': 1}",
            b"[1,]",
            b"[" * 33 + b"]" * 33,
            b"[" * 60_000,
            b"1" * 5000,
            b"{} {}",
        ):
            self.assertRaises(InvalidJSONError, parse_json, raw)

    def test_linear(self) -> None:
        """Escaped quotes in a string without an end are looked at once each: else this would not end today."""
        self.assertRaises(InvalidJSONError, parse_json, b"[" * 20 + b'{"' * 20 + b'\\"' * (1 << 20))

    def test_depth_counts_no_strings(self) -> None:
        """Brackets within strings are no nesting."""
        self.assertEqual(parse_json(b'["' + b"[" * 100 + b'\\"{{"]'), ["[" * 100 + '"{{'])

    def test_messages(self) -> None:
        """The message quotes nothing of the document; ``detail`` says where, and quotes at most a name."""
        for document, message, detail in (
            (b'{"secret": 1, "secret": 2}', "has a duplicate member", "'secret'"),
            (b'{"secret": secret}', "is not JSON", "Expecting value: line 1 column 12 (char 11)"),
            (b'["secret", NaN]', "is not JSON", "NaN"),
            (b'["secret", 1e999]', "has a number that is too large", None),
            (b'["\\ud800"]', "has an unpaired surrogate", None),
            (b'"\xff"', "is not UTF-8", None),
        ):
            error = self.assertRaises(InvalidJSONError, parse_json, document)
            self.assertEqual((str(error), error.detail), (message, detail))
            self.assertIsNone(error.__cause__)

    def test_bound(self) -> None:
        """So deep, and no deeper."""
        self.assertTrue(parse_json(b"[" * 32 + b"]" * 32))
