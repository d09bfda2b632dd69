"""Who has lately been told yes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.grants import Grants

_STORIES = st.lists(
    st.tuples(
        st.sampled_from(["give", "ending", "revoke", "holds", "held"]),
        st.sampled_from([b"a", b"b", b"c"]),
        st.integers(0, 15),
    ),
    max_size=40,
)


class GrantsTests(SynchronousTestCase):
    """A table of grants."""

    def test_ttl(self) -> None:
        """A grant is good for less than ``ttl`` after the last yes."""
        grants = Grants(ttl=60)
        grants.add(b"a", 100)
        self.assertTrue(grants.is_valid(b"a", 159.9))
        self.assertFalse(grants.is_valid(b"b", 100))
        grants.add(b"a", 159)
        self.assertTrue(grants.is_valid(b"a", 218.9))
        self.assertFalse(grants.is_valid(b"a", 219))
        self.assertEqual(len(grants), 0)

    def test_use_does_not_prolong(self) -> None:
        """However often a grant is used, only the origin can renew it."""
        grants = Grants(ttl=10)
        grants.add(b"a", 0)
        self.assertEqual([grants.is_valid(b"a", now) for now in (3, 6, 9, 12)], [True, True, True, False])

    def test_ends_with_the_token(self) -> None:
        """A grant ends with its token, stale or not; one for an ended token never begins."""
        grants = Grants(ttl=60, stale=600)
        grants.add(b"a", 0, ends=5)
        self.assertTrue(grants.is_valid(b"a", 4.9))
        self.assertFalse(grants.is_valid(b"a", 5))
        grants.add(b"a", 0, ends=5)
        self.assertFalse(grants.is_valid_if_error(b"a", 5))
        grants.add(b"a", 10, ends=10)
        self.assertFalse(grants.is_valid(b"a", 10) or grants.is_valid_if_error(b"a", 10))
        # A later yes to another token of the same key counts alone.
        grants.add(b"a", 10, ends=100)
        grants.add(b"a", 11, ends=12)
        self.assertFalse(grants.is_valid(b"a", 12))

    def test_stale(self) -> None:
        """While the origin is away a grant serves longer, and to ask whether it does not spoil that."""
        grants = Grants(ttl=60, stale=600)
        grants.add(b"a", 0)
        self.assertFalse(grants.is_valid(b"a", 60))
        self.assertTrue(grants.is_valid_if_error(b"a", 599))
        self.assertFalse(grants.is_valid_if_error(b"a", 600))

    def test_stale_shorter_than_ttl(self) -> None:
        """What is good while the origin is there is good while it is away."""
        grants = Grants(ttl=60, stale=1)
        grants.add(b"a", 0)
        self.assertTrue(grants.is_valid_if_error(b"a", 59) and grants.is_valid(b"a", 59))

    def test_nothing_is_remembered(self) -> None:
        """With ``authttl: 0`` the origin is asked every time, and nothing is kept for it."""
        grants = Grants(ttl=0)
        grants.add(b"a", 0)
        self.assertEqual(
            (len(grants), grants.is_valid(b"a", 0), grants.is_valid_if_error(b"a", 0)), (0, False, False)
        )
        grants = Grants(ttl=0, stale=60)
        grants.add(b"a", 0)
        self.assertEqual((grants.is_valid(b"a", 0), grants.is_valid_if_error(b"a", 0)), (False, True))

    def test_revoked(self) -> None:
        """A denied answer ends a grant at once, and does no harm where there is none."""
        grants = Grants(ttl=60, stale=600)
        grants.add(b"a", 0)
        grants.revoke(b"a")
        grants.revoke(b"b")
        self.assertFalse(grants.is_valid(b"a", 0) or grants.is_valid_if_error(b"a", 0))

    def test_ordered_by_question(self) -> None:
        """
        An *allowed* answer never revives what the *denied* answer to a later question has ended, and a
        *denied* answer to an earlier question ends nothing.
        """
        grants = Grants(ttl=60)
        grants.add(b"a", 10, asked=1)
        grants.revoke(b"a", 3)
        grants.add(b"a", 11, asked=2)
        self.assertFalse(grants.is_valid(b"a", 11))
        grants.add(b"a", 12, asked=4)
        grants.revoke(b"a", 3.5)
        self.assertTrue(grants.is_valid(b"a", 12))

    def test_late_allowed_keeps_the_order(self) -> None:
        """A late *allowed* answer does not make a grant look older than it is."""
        grants = Grants(ttl=60)
        grants.add(b"a", 10, asked=5)
        grants.add(b"a", 11, asked=1)
        grants.revoke(b"a", 3)
        self.assertTrue(grants.is_valid(b"a", 11))

    def test_identity(self) -> None:
        """When a credential is rejected all its grants end, and no earlier question makes a new one anywhere."""
        grants = Grants(ttl=60)
        for key in (b"one", b"two"):
            grants.add(key, 10, asked=1, identity=b"ann")
        grants.add(b"three", 10, asked=1, identity=b"bob")
        grants.revoke_identity(b"ann", 3)
        grants.add(b"four", 11, asked=2, identity=b"ann")
        held = [grants.is_valid(key, 12) for key in (b"one", b"two", b"three", b"four")]
        self.assertEqual(held, [False, False, True, False])
        grants.add(b"four", 13, asked=4, identity=b"ann")
        self.assertTrue(grants.is_valid(b"four", 13))

    def test_capacity(self) -> None:
        """Of more than ``capacity`` those stay that were given or used last."""
        grants = Grants(ttl=60, capacity=2)
        grants.add(b"a", 0)
        grants.add(b"b", 1)
        self.assertTrue(grants.is_valid(b"a", 2))
        grants.add(b"c", 3)
        self.assertEqual([grants.is_valid(key, 4) for key in (b"a", b"b", b"c")], [True, False, True])
        for number in range(1000):
            grants.add(str(number).encode(), 5)
            self.assertLessEqual(len(grants), 2)

    @settings(deadline=None)
    @given(_STORIES, st.integers(0, 30), st.integers(0, 60))
    def test_as_a_list_of_yeses(self, story: list[tuple[str, bytes, int]], ttl: int, stale: int) -> None:
        """Any story gives the answers that a list of all that the origin said would give."""
        grants = Grants(ttl=ttl, stale=stale)
        said: dict[bytes, tuple[float, float]] = {}
        now = 0.0
        for event, key, number in story:
            now += number
            given, ends = said.get(key, (-1e9, 0.0))
            if event in {"give", "ending"}:
                ends = now + number if event == "ending" else 1e9
                grants.add(key, now, ends=ends if event == "ending" else None)
                said[key] = now, ends
            elif event == "revoke":
                grants.revoke(key)
                said.pop(key, None)
            elif event == "holds":
                self.assertEqual(grants.is_valid(key, now), now - given < ttl and now < ends)
            else:
                self.assertEqual(
                    grants.is_valid_if_error(key, now), now - given < max(ttl, stale) and now < ends
                )
