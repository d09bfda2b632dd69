"""What every provider of a directory store must do."""

from __future__ import annotations

from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.directory import Cache, DirectoryStore, NameTakenError


def cache(number: int, name: str | None = None) -> Cache:
    """The cache of a number."""
    return Cache(UUID(int=number), name or f"cache-{number}", f"https://cache-{number}.example")


class DirectorySuite(SynchronousTestCase):
    """A provider's test case says how to make its directory."""

    def make_directory(self) -> DirectoryStore:
        raise NotImplementedError

    def setUp(self) -> None:
        self.directory = self.make_directory()
        self.addCleanup(self.directory.close)

    def test_caches(self) -> None:
        """Caches come back as they were added, in the order of their names, whatever their case."""
        first, second, third = cache(1, "b"), cache(2, "C"), cache(3, "a")
        for each in (first, second, third):
            self.directory.add(each)
        self.assertEqual(list(self.directory.caches()), [third, first, second])
        self.assertEqual(self.directory.cache(first.id), first)
        self.assertIsNone(self.directory.cache(UUID(int=9)))
        self.directory.remove(first.id)
        self.directory.remove(first.id)
        self.assertEqual(list(self.directory.caches()), [third, second])

    def test_name_taken(self) -> None:
        """A name is unique, whatever its case, until its cache is removed."""
        self.directory.add(cache(1, "near"))
        self.assertRaises(NameTakenError, self.directory.add, cache(2, "Near"))
        self.assertEqual(list(self.directory.caches()), [cache(1, "near")])
        self.directory.remove(UUID(int=1))
        self.directory.add(cache(2, "Near"))

    def test_choices(self) -> None:
        """A choice is set, changed and unset, and only for caches that exist; each account has its own."""
        self.directory.add(cache(1))
        self.directory.add(cache(2))
        self.assertIsNone(self.directory.choice("alice"))
        self.assertTrue(self.directory.choose("alice", UUID(int=1)))
        self.assertTrue(self.directory.choose("bob", UUID(int=2)))
        self.assertFalse(self.directory.choose("alice", UUID(int=3)))
        self.assertEqual(self.directory.choice("alice"), UUID(int=1))
        self.assertIsNone(self.directory.choice("Alice"))
        self.assertTrue(self.directory.choose("alice", UUID(int=2)))
        self.assertTrue(self.directory.choose("bob", None))
        self.assertEqual([self.directory.choice(who) for who in ("alice", "bob")], [UUID(int=2), None])

    def test_removed(self) -> None:
        """
        With a cache go the choices of it and no others; who had them is known all the same. A cache that
        comes later under the same name is another one.
        """
        for number in (1, 2):
            self.directory.add(cache(number))
        self.directory.choose("alice", UUID(int=1))
        self.directory.choose("bob", UUID(int=2))
        self.directory.remove(UUID(int=1))
        self.directory.add(cache(3, "cache-1"))
        self.assertEqual([self.directory.choice(who) for who in ("alice", "bob")], [None, UUID(int=2)])
        self.assertTrue(self.directory.has_account("alice"))

    def test_changed(self) -> None:
        """Another name or host leaves a cache's id, and with it the choices; names stay unique."""
        for number in (1, 2):
            self.directory.add(cache(number))
        self.directory.choose("alice", UUID(int=1))
        moved = Cache(UUID(int=1), "Cache-1", "https://elsewhere.example:8443")
        self.assertTrue(self.directory.change(moved))
        self.assertEqual(self.directory.cache(UUID(int=1)), moved)
        self.assertEqual(self.directory.choice("alice"), UUID(int=1))
        self.assertRaises(NameTakenError, self.directory.change, Cache(UUID(int=1), "CACHE-2", moved.host))
        self.assertFalse(self.directory.change(cache(3)))
        self.assertEqual(list(self.directory.caches()), [moved, cache(2)])

    def test_users(self) -> None:
        """Each cache has as many users as accounts have chosen it."""
        for number in (1, 2, 3):
            self.directory.add(cache(number))
        for name, number in (("alice", 1), ("bob", 2), ("carol", 1)):
            self.directory.choose(name, UUID(int=number))
        self.directory.add_account("dave")
        self.assertEqual(dict(self.directory.users()), {UUID(int=1): 2, UUID(int=2): 1})
        self.directory.choose("bob", None)
        self.directory.remove(UUID(int=1))
        self.assertEqual(dict(self.directory.users()), {})

    def test_known(self) -> None:
        """To add an account leaves its choice unchanged."""
        self.directory.add(cache(1))
        self.assertFalse(self.directory.has_account("alice"))
        self.directory.add_account("alice")
        self.assertTrue(self.directory.has_account("alice"))
        self.directory.choose("alice", UUID(int=1))
        self.directory.add_account("alice")
        self.assertEqual(self.directory.choice("alice"), UUID(int=1))

    def test_odd_names(self) -> None:
        """Whatever an account is called, it has its own choice."""
        self.directory.add(cache(1))
        names = ("x'; DROP TABLE caches; --", "ä\U0001f40b", "\udcff", "", "%", "a" * 5000)
        for name in names:
            self.assertTrue(self.directory.choose(name, UUID(int=1)))
        self.assertEqual([self.directory.choice(name) for name in names], [UUID(int=1)] * len(names))
