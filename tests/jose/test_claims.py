"""Tests for :mod:`contentcache.jose.claims`."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.credentials import ANONYMOUS, OWN, Credential
from contentcache.jose.claims import unverified_expiry

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["exp", "a"]), inner),
    max_leaves=8,
)


def bearer(claims: str, scheme: str = "Bearer ") -> Credential:
    """A token that says ``claims``, unsigned."""
    return Credential(f"{scheme}e30.{urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.c2ln")


class ExpiresTests(SynchronousTestCase):
    """What a token says of its end."""

    def test_table(self) -> None:
        """A number is taken, bounded to what a clock can tell; anything else is no word about it."""
        for claims, expected in [
            ('{"exp": 1700000000}', 1.7e9),
            ('{"exp": 1700000000.5}', 1700000000.5),
            ('{"exp": 0}', 0.0),
            ('{"exp": -1}', 0.0),
            ('{"exp": 1e400}', 1e12),
            ('{"exp": Infinity}', 1e12),
            ('{"exp": -Infinity}', 0.0),
            ('{"exp": NaN}', 0.0),
            ('{"exp": 1' + "0" * 400 + "}", 1e12),
            ('{"exp": -1' + "0" * 400 + "}", 0.0),
            ('{"exp": 1' + "0" * 5000 + "}", None),
            ('{"exp": true}', None),
            ('{"exp": "1700000000"}', None),
            ('{"exp": null}', None),
            ('{"exp": [1]}', None),
            ("{}", None),
            ("[1]", None),
            ('"exp"', None),
            ("1", None),
            ("", None),
            ("{", None),
            ("[" * 100_000, None),
            ('{"exp":' * 10_000, None),
        ]:
            with self.subTest(claims=claims[:30]):
                self.assertEqual(unverified_expiry(bearer(claims).authorization), expected)

    def test_scheme(self) -> None:
        """The scheme's case does not matter, nor how far the token is from it; only bearer tokens are read."""
        for scheme in ("bearer ", "BEARER  ", "Bearer\t"):
            with self.subTest(scheme=scheme):
                token = bearer('{"exp": 5}', scheme)
                self.assertEqual((unverified_expiry(token.authorization), token.lasting), (5.0, False))
        for scheme in ("Basic ", "Bearer", "", "Bearer2 "):
            with self.subTest(scheme=scheme):
                self.assertIsNone(unverified_expiry(bearer('{"exp": 5}', scheme).authorization))
        for other in (ANONYMOUS, OWN, Credential(""), Credential("Bearer"), Credential("Bearer a.b")):
            self.assertIsNone(unverified_expiry(other.authorization))

    @settings(deadline=None)
    @given(_JSON)
    def test_any_json(self, claims: object) -> None:
        """Whatever a token says, the answer is a moment that can be reckoned with, or none."""
        expires = unverified_expiry(bearer(json.dumps(claims)).authorization)
        self.assertTrue(expires is None or 0.0 <= expires <= 1e12)

    @settings(deadline=None)
    @given(st.text(max_size=60) | st.from_regex(r"Bearer [A-Za-z0-9_=-]*(\.[A-Za-z0-9_=é-]*){2}"))
    def test_never_raises(self, authorization: str) -> None:
        """A hostile header is no error here."""
        credential = Credential(authorization)
        expires = unverified_expiry(credential.authorization)
        self.assertTrue(expires is None or not credential.lasting)
