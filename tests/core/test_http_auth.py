"""Tests for :mod:`contentcache.core.http_auth`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.http_auth import credentials_for, decode_basic, encode_basic


class HttpAuthTests(SynchronousTestCase):
    """Values of ``Authorization``."""

    @given(st.binary(max_size=20), st.binary(max_size=20))
    def test_round_trip(self, username: bytes, password: bytes) -> None:
        """A user name without a colon and any password come back."""
        username = username.replace(b":", b"")
        credentials = credentials_for("basic", encode_basic(username, password))
        assert credentials is not None
        self.assertEqual(decode_basic(credentials), (username, password))

    def test_malformed(self) -> None:
        """Missing padding, another alphabet, white space, characters beyond ASCII and a missing colon: nothing."""
        for credentials in ("", "YTp", "YT pi", "YTpi\n", "_-__", "é", "\ud800", "YQ=="):
            self.assertIsNone(decode_basic(credentials), credentials)

    def test_schemes(self) -> None:
        """A scheme is found in any case, with any number of spaces behind it, and nowhere but at the start."""
        for authorization, expected in (
            ("Bearer a", "a"),
            ("BEARER   a b ", "a b"),
            ("Bearer", None),
            ("Bearer ", None),
            (" Bearer a", None),
            ("Bearer\ta", None),
            ("Bearers a", None),
            ("Basic a", None),
            ("", None),
            (None, None),
        ):
            self.assertEqual(credentials_for("Bearer", authorization), expected, authorization)

    @given(st.text(max_size=40))
    def test_any_text(self, text: str) -> None:
        """No header raises."""
        for authorization in (text, "Basic " + text):
            decode_basic(credentials_for("Basic", authorization) or "")
