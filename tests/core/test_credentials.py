"""
Who asks.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.credentials import ANONYMOUS, OWN, Credential

SECRET = b"0123456789abcdef" * 4
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["exp", "a"]), inner),
    max_leaves=8,
)


def bearer(claims: str, scheme: str = "Bearer ") -> Credential:
    """
    A token that says ``claims``, unsigned.
    """
    return Credential(f"{scheme}e30.{urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.c2ln")


class ExpiresTests(SynchronousTestCase):
    """
    What a token says of its end.
    """

    def test_table(self) -> None:
        """
        A number is taken, bounded to what a clock can tell; anything else is no word about it.
        """
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
                self.assertEqual(bearer(claims).expires(), expected)

    def test_scheme(self) -> None:
        """
        The scheme's case does not matter, nor how far the token is from it; only bearer tokens are read.
        """
        for scheme in ("bearer ", "BEARER  ", "Bearer\t"):
            with self.subTest(scheme=scheme):
                token = bearer('{"exp": 5}', scheme)
                self.assertEqual((token.expires(), token.lasting), (5.0, False))
        for scheme in ("Basic ", "Bearer", "", "Bearer2 "):
            with self.subTest(scheme=scheme):
                self.assertIsNone(bearer('{"exp": 5}', scheme).expires())
        for other in (ANONYMOUS, OWN, Credential(""), Credential("Bearer"), Credential("Bearer a.b")):
            self.assertIsNone(other.expires())

    @settings(deadline=None)
    @given(_JSON)
    def test_any_json(self, claims: object) -> None:
        """
        Whatever a token says, the answer is a moment that can be reckoned with, or none.
        """
        expires = bearer(json.dumps(claims)).expires()
        self.assertTrue(expires is None or 0.0 <= expires <= 1e12)

    @settings(deadline=None)
    @given(st.text(max_size=60) | st.from_regex(r"Bearer [A-Za-z0-9_=-]*(\.[A-Za-z0-9_=é-]*){2}"))
    def test_never_raises(self, authorization: str) -> None:
        """
        A hostile header is no error here.
        """
        credential = Credential(authorization)
        expires = credential.expires()
        self.assertTrue(expires is None or not credential.lasting)


class KeyTests(SynchronousTestCase):
    """
    The name of a credential at a place.
    """

    @settings(deadline=None)
    @given(st.lists(st.lists(st.text(alphabet="ab\x00=", max_size=3), max_size=3), min_size=2, max_size=2))
    def test_places_are_apart(self, places: list[list[str]]) -> None:
        """
        No two places share a key, however their parts are cut.
        """
        one, other = (Credential("Basic x").key(SECRET, *place) for place in places)
        self.assertEqual(one == other, places[0] == places[1])

    @settings(deadline=None)
    @given(st.lists(st.none() | st.text(max_size=4), min_size=2, max_size=2))
    def test_credentials_are_apart(self, values: list[str | None]) -> None:
        """
        No two credentials share a key; to have none is not to have an empty one.
        """
        one, other = (Credential(value).key(SECRET, "a") for value in values)
        self.assertEqual(one == other, values[0] == values[1])

    def test_odd_ones(self) -> None:
        """
        The anonymous, the cache's own account, half a character and the bytes it stands for: all differ.
        """
        credentials = [ANONYMOUS, OWN, Credential(""), Credential("True"), Credential("\udc80")]
        credentials += [
            Credential("\ud800"),
            Credential("\xc3\xa9"),
            Credential("é"),
            Credential("\udcc3\udca9"),
        ]
        keys = {credential.key(SECRET, "a") for credential in credentials}
        self.assertEqual(len(keys), len(set(credentials)))

    def test_secret(self) -> None:
        """
        Without the secret nothing can be told from a key, and none is in it.
        """
        one, other = Credential("Basic eDp5").key(b"1", "a"), Credential("Basic eDp5").key(b"2", "a")
        self.assertNotEqual(one, other)
        self.assertEqual(len(one), 32)

    def test_not_shown(self) -> None:
        """
        A credential that ends up in a message does not tell itself.
        """
        self.assertNotIn("c2VjcmV0", repr(Credential("Basic c2VjcmV0")))

    def test_lasting(self) -> None:
        """
        Who has a name or a password outlives a token.
        """
        for credential, lasting in [
            (ANONYMOUS, True),
            (OWN, True),
            (Credential("Basic eDp5"), True),
            (Credential("Bearer opaque"), False),
            (Credential("bEaReR x"), False),
            (Credential("Bearer"), False),
        ]:
            self.assertEqual(credential.lasting, lasting)
