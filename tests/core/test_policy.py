"""The operator's own rules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.policy import Glob, allowed, immutable

_NAMES = st.text(alphabet="ab/", max_size=6)
_GLOBS = st.text(alphabet="ab/*?", max_size=5)


def matches(glob: str, name: str) -> bool:
    """The meaning of a glob, a character at a time."""
    if not glob:
        return not name
    if glob.startswith("**"):
        return any(matches(glob[2:], name[skipped:]) for skipped in range(len(name) + 1))
    if glob[0] == "*":
        reach = name.find("/") if "/" in name else len(name)
        return any(matches(glob[1:], name[skipped:]) for skipped in range(reach + 1))
    if not name or (name[0] == "/" if glob[0] == "?" else name[0] != glob[0]):
        return False
    return matches(glob[1:], name[1:])


class GlobTests(SynchronousTestCase):
    """Globs of repositories."""

    @settings(deadline=None)
    @given(_GLOBS, _NAMES)
    def test_as_defined(self, glob: str, name: str) -> None:
        """The matching says of every name what the definition says."""
        self.assertEqual(Glob(glob).matches(name), matches(glob, name))

    def test_nothing_else_is_special(self) -> None:
        """What means something in a regular expression means itself."""
        for glob in ("a.b", "a+b", "[ab]", "(a|b)", "^a$", "a\\b", "a{2}"):
            with self.subTest(glob=glob):
                self.assertTrue(allowed(glob, [glob], []))
                self.assertFalse(allowed("axb", [glob], []))
                self.assertFalse(allowed("aab", [glob], []))

    def test_newline(self) -> None:
        """A line end is no end."""
        self.assertFalse(allowed("a\n", ["a"], []))


class AllowedTests(SynchronousTestCase):
    """Which repositories pass."""

    def test_table(self) -> None:
        """What is denied is denied whatever is allowed, and below its star as well."""
        for name, allow, deny, expected in [
            ("org/app", [], [], True),
            ("org/app", ["org/*"], [], True),
            ("org/a/b", ["org/*"], [], False),
            ("org/a/b", ["org/**"], [], True),
            ("org", ["org/**"], [], False),
            ("other/app", ["org/*", "other/*"], [], True),
            ("org/app", ["**"], ["org/*"], False),
            ("org/a/b", ["**"], ["org/*"], False),
            ("org", ["**"], ["org/*"], True),
            ("secrets", [], ["secret"], True),
            ("secret-stuff/a", [], ["secret*"], False),
            ("x/secret", [], ["*/secret"], False),
            ("x/y/secret", [], ["*/secret"], True),
            ("x/y/secret", [], ["**/secret"], False),
            ("anything/at/all", [], ["*"], False),
        ]:
            with self.subTest(name=name, allow=allow, deny=deny):
                self.assertEqual(allowed(name, allow, deny), expected)

    @settings(deadline=None)
    @given(_NAMES, st.lists(_GLOBS, max_size=3), st.lists(_GLOBS, max_size=3))
    def test_deny_wins(self, name: str, allow: list[str], deny: list[str]) -> None:
        """No list of what is allowed lets pass what is denied, and a longer list denies no less."""
        if any(matches(glob, name) for glob in deny):
            self.assertFalse(allowed(name, allow, deny))
        if allowed(name, allow, deny):
            self.assertTrue(allowed(name, allow, deny[1:]))


class ImmutableTests(SynchronousTestCase):
    """Tags that never move."""

    def test_table(self) -> None:
        """A glob is for the whole tag; what starts with ``^`` is a regular expression."""
        for tag, pattern, expected in [
            ("v1.2.3", None, False),
            ("v1.2.3", "v*.*.*", True),
            ("v1.2", "v*.*.*", False),
            ("latest", "v*", False),
            ("v1x2", "v1.2", False),
            ("v12", r"^v\d+$", True),
            ("v12-rc", r"^v\d+$", False),
            ("v12-rc", r"^v\d+", True),
            ("v\u0661", r"^v\d+$", False),
        ]:
            with self.subTest(tag=tag, pattern=pattern):
                self.assertEqual(immutable(tag, pattern), expected)
