"""Tests for :mod:`contentcache.core.manifests`."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.manifests import (
    DEEPEST,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    SIGNED_SCHEMA_1,
    ManifestInvalid,
    check_manifest,
    normalize_accept,
    signed_payload,
    upstream_accept,
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


_KINDS = st.sampled_from(["a/b", "c/d", "e/f;q=0.5", "*/*", "G/h"])


class AcceptedTests(SynchronousTestCase):
    """What is sent upstream."""

    def test_anything(self) -> None:
        """Who takes anything is given every manifest type by name, and anything at the end."""
        for values in [(), ("*/*",), ("",), (" */* ; q=0.8", ","), ("*/*", "*/*")]:
            with self.subTest(values=values):
                self.assertEqual(upstream_accept(values), (*MANIFEST_TYPES, "*/*"))

    def test_own(self) -> None:
        """Who names a type is asked for in the client's own words."""
        for values in [("a/b",), ("a/b, */*",), ("*/*", "a/b;q=0.1"), ("A/B ; x=1",), ("application/*",)]:
            with self.subTest(values=values):
                self.assertEqual(upstream_accept(values), values)


class NormalisedTests(SynchronousTestCase):
    """One key for all spellings."""

    @settings(deadline=None)
    @given(st.lists(_KINDS, min_size=1, max_size=6))
    def test_spelling(self, kinds: list[str]) -> None:
        """Order, case, space, repetition and the cut into header lines do not matter."""
        shuffled = [kind.upper().replace(";", " ; ") for kind in reversed(kinds)]
        key = normalize_accept([",".join(kinds)])
        self.assertEqual(key, normalize_accept(shuffled))
        self.assertEqual(key, normalize_accept([*shuffled, " , ", kinds[0]]))

    @settings(deadline=None)
    @given(st.sets(_KINDS), st.sets(_KINDS))
    def test_meaning(self, some: set[str], others: set[str]) -> None:
        """Different wishes have different keys."""
        self.assertEqual(normalize_accept(list(some)) == normalize_accept(list(others)), some == others)

    def test_long(self) -> None:
        """Long ones are shortened, still apart, and nobody can ask for the short form itself."""
        long = [f"a/{'b' * 300}"]
        key = normalize_accept(long)
        self.assertLessEqual(len(key), 256)
        self.assertNotEqual(key, normalize_accept([f"a/{'b' * 301}"]))
        for guess in (key, key.strip(","), f" {key}", f"x,{key}"):
            self.assertNotEqual(normalize_accept([guess]), key)
        self.assertLessEqual(len(normalize_accept(["\udc80" * 300])), 256)


PAYLOAD = b'{\n   "schemaVersion": 1,\n   "name": "org/app"\n}'


def encode(data: bytes) -> str:
    """Base64url as JOSE has it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: bytes = PAYLOAD, *, length: int | None = None, copies: int = 1) -> bytes:
    """A manifest with signatures put in before its last bracket, as libtrust does."""
    kept = payload[:-2]
    header = {"formatLength": len(kept) if length is None else length, "formatTail": encode(payload[-2:])}
    signature = {
        "header": {"alg": "ES256"},
        "signature": "eA",
        "protected": encode(json.dumps(header).encode()),
    }
    return kept + b',\n   "signatures": ' + json.dumps([signature] * copies).encode() + b"\n}"


class SignedPayloadTests(SynchronousTestCase):
    """What the digest is of."""

    def test_round(self) -> None:
        """The bytes that were there before they were signed, however often."""
        self.assertEqual([signed_payload(signed(copies=copies)) for copies in (1, 2)], [PAYLOAD] * 2)

    def test_none(self) -> None:
        """What has no signatures, or such as lead nowhere, has none; nothing is raised."""
        for manifest in (
            PAYLOAD,
            b"",
            b"[]",
            b'{"signatures": []}',
            b'{"signatures": 1}',
            b'{"signatures": [{"protected": "!"}]}',
            b'{"signatures": [{"protected": 5}]}',
            b'{"signatures": [{"protected": "%s"}]}' % encode(b'{"formatLength": "1"}').encode(),
            b'{"signatures": [{"protected": "%s"}]}' % encode(b"[]").encode(),
            signed(length=-1),
            signed(length=10**9),
        ):
            self.assertIsNone(signed_payload(manifest), manifest)

    @given(st.binary(max_size=100))
    def test_rubbish(self, rubbish: bytes) -> None:
        """Rubbish raises nothing."""
        signed_payload(rubbish)
        signed_payload(b'{"signatures": [{"protected": "%s"}]}' % encode(rubbish).encode())
