"""Tests for :mod:`contentcache.core.manifest_check`: what is a manifest."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.manifest_check import (
    DEEPEST,
    OCI_INDEX,
    OCI_MANIFEST,
    SIGNED_SCHEMA_1,
    ManifestInvalid,
    check_manifest,
)

_PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


def _nested(levels: int) -> bytes:
    """A JSON object of so many levels."""
    return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)


class CheckTests(SynchronousTestCase):
    """Bodies that are manifests, and those that are not."""

    def test_not_a_manifest(self) -> None:
        """Everything that is no JSON object as Go reads it: pages, marks, constants, other values."""
        for content in (
            b"",
            _PAGE,
            b"null",
            b"[]",
            b'"{}"',
            b"1",
            b"{} {}",
            b"{}x",
            b"\xef\xbb\xbf{}",
            "{}".encode("utf-16"),
            b'{"a": NaN}',
            b'{"a": -Infinity}',
            b'{"a": "\xff"}',
            b'{"a": 1,}',
            b"{'a': 1}",
            b'{"mediaType": "a/b", "mediaType": "a/c"}',
            b'{"mediaType": 5}',
            b'{"a": "' + b"[" * 100,
        ):
            with self.subTest(content=content[:20]):
                self.assertRaises(ManifestInvalid, check_manifest, content)

    def test_nesting(self) -> None:
        """Depth is bounded at a fixed level; no input raises RecursionError."""
        self.assertIsNone(check_manifest(_nested(DEEPEST)).declared)
        for content in (
            _nested(DEEPEST + 1),
            _nested(100_000),
            b"[" * 4_000_000,
            b"{" * 2_000_000 + b"}" * 2_000_000,
            b"[{" * 500_000,
            b'{"a":' * 800_000,
        ):
            self.assertRaises(ManifestInvalid, check_manifest, content)

    def test_brackets_in_strings(self) -> None:
        """Only the structure counts: strings may hold any number of brackets, quotes and backslashes."""
        content = json.dumps({"a": "[{" * 1000 + '"' * 500 + "\\" * 501}).encode()
        self.assertIsNone(check_manifest(content).declared)

    def test_wide(self) -> None:
        """Many members on one level are no depth, and long numbers are not converted."""
        content = b'{"layers": [' + b",".join([b"{}"] * 100_000) + b'], "n": ' + b"9" * 100_000 + b"}"
        self.assertIsNone(check_manifest(content).declared)

    @given(st.dictionaries(st.text(max_size=8).filter(lambda name: name != "mediaType"), _JSON))
    def test_every_object(self, value: dict[str, object]) -> None:
        """Every JSON object is a manifest of some vendor's."""
        self.assertIsNone(check_manifest(json.dumps(value).encode()).declared)

    @given(st.binary(max_size=60))
    def test_any_bytes(self, content: bytes) -> None:
        """No bytes raise anything else."""
        try:
            check_manifest(content)
        except ManifestInvalid:
            return
        self.assertIsInstance(json.loads(content), dict)


class MediaTypeTests(SynchronousTestCase):
    """Whose word of the media type counts."""

    def test_agrees(self) -> None:
        """A declared type has to be that of the header, but for case and parameters."""
        for declared, said, expected in (
            (b'{"mediaType": "a/b"}', "a/b", True),
            (b'{"mediaType": "a/b"}', "A/B; charset=utf-8", True),
            (b'{"mediaType": "a/b"}', None, True),
            (b'{"mediaType": "a/b"}', "text/html", False),
            (b'{"mediaType": ""}', "text/x", True),
            (b'{"mediaType": null}', "text/x", True),
            (b"{}", "application/vnd.vendor+json", True),
        ):
            self.assertEqual(check_manifest(declared).agrees(said), expected, (declared, said))

    def test_precedence(self) -> None:
        """The manifest itself, then GET, then HEAD if that says JSON, then what it looks like."""
        index, image = b'{"manifests": []}', b'{"config": {}, "layers": []}'
        signed = b'{"schemaVersion": 1, "signatures": []}'
        for content, get, head, expected in (
            (b'{"mediaType": "a/b"}', None, "text/plain", "a/b"),
            (index, "a/get", "a/head+json", "a/get"),
            (index, None, "a/head+json", "a/head+json"),
            (index, None, "text/plain", OCI_INDEX),
            (image, None, None, OCI_MANIFEST),
            (signed, None, None, SIGNED_SCHEMA_1),
            (b"{}", None, "text/plain", "text/plain"),
            (b"{}", None, None, None),
        ):
            self.assertEqual(check_manifest(content).media_type(get=get, head=head), expected)
