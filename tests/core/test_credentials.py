"""Who asks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.credentials import ANONYMOUS, OWN, Credential

SECRET = b"0123456789abcdef" * 4


class KeyTests(SynchronousTestCase):
    """The name of a credential at a place."""

    @settings(deadline=None)
    @given(st.lists(st.lists(st.text(alphabet="ab\x00=", max_size=3), max_size=3), min_size=2, max_size=2))
    def test_places_are_apart(self, places: list[list[str]]) -> None:
        """No two places share a key, however their parts are cut."""
        one, other = (Credential("Basic x").key(SECRET, *place) for place in places)
        self.assertEqual(one == other, places[0] == places[1])

    @settings(deadline=None)
    @given(st.lists(st.none() | st.text(max_size=4), min_size=2, max_size=2))
    def test_credentials_are_apart(self, values: list[str | None]) -> None:
        """No two credentials share a key; to have none is not to have an empty one."""
        one, other = (Credential(value).key(SECRET, "a") for value in values)
        self.assertEqual(one == other, values[0] == values[1])

    def test_odd_ones(self) -> None:
        """The anonymous, the cache's own account, half a character and the bytes it stands for: all differ."""
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
        """Without the secret nothing can be told from a key, and none is in it."""
        one, other = Credential("Basic eDp5").key(b"1", "a"), Credential("Basic eDp5").key(b"2", "a")
        self.assertNotEqual(one, other)
        self.assertEqual(len(one), 32)

    def test_not_shown(self) -> None:
        """A credential that ends up in a message does not tell itself."""
        self.assertNotIn("c2VjcmV0", repr(Credential("Basic c2VjcmV0")))

    def test_lasting(self) -> None:
        """Who has a name or a password outlives a token."""
        for credential, lasting in [
            (ANONYMOUS, True),
            (OWN, True),
            (Credential("Basic eDp5"), True),
            (Credential("Bearer opaque"), False),
            (Credential("bEaReR x"), False),
            (Credential("Bearer"), False),
            (Credential("token ghs_x"), False),
            (Credential("Negotiate YII="), False),
            (Credential("Digest username=u"), False),
        ]:
            self.assertEqual(credential.lasting, lasting)
