"""Names of contents."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import HEX_LENGTHS, Digest
from contentcache.core.errors import DigestInvalid


class DigestTests(SynchronousTestCase):
    """Digests (image-spec 1.1, descriptor.md)."""

    def test_refused(self) -> None:
        """Only registered algorithms, only lower case, only the right number of digits."""
        for text in [
            "",
            ":",
            "sha256",
            "sha256:",
            "sha256:" + "a" * 63,
            "sha256:" + "a" * 65,
            "sha256:" + "A" * 64,
            "sha256:" + "g" * 64,
            "sha256:" + "\u0661" * 64,
            "SHA256:" + "a" * 64,
            "sha512:" + "a" * 64,
            "sha256:" + "a" * 128,
            "sha384:" + "a" * 96,
            "md5:" + "a" * 32,
            "sha256:" + "a" * 64 + "\n",
            " sha256:" + "a" * 64,
            "sha256:../../" + "a" * 58,
            "sha256:" + "a" * 10**6,
        ]:
            with self.subTest(text=text[:20]):
                error = self.assertRaises(DigestInvalid, Digest.parse, text)
                self.assertLess(len(error.message), 300)

    @settings(deadline=None)
    @given(st.binary(max_size=100), st.sampled_from(sorted(HEX_LENGTHS)))
    def test_of(self, content: bytes, algorithm: str) -> None:
        """A content's digest is what its hash says, reads back as itself, and knows its content again."""
        digest = Digest.of(content, algorithm)
        self.assertEqual(str(digest), f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")
        self.assertEqual(Digest.parse(str(digest)), digest)
        hasher = digest.hasher()
        for byte in content:
            hasher.update(bytes([byte]))
        self.assertTrue(digest.is_of(hasher))
        hasher.update(b"x")
        self.assertFalse(digest.is_of(hasher))

    @settings(deadline=None)
    @given(st.text(max_size=80))
    def test_nothing_else_raises(self, text: str) -> None:
        """Any text is a digest or refused."""
        try:
            self.assertEqual(str(Digest.parse(text)), text)
        except DigestInvalid as error:
            self.assertEqual(error.status, 400)
