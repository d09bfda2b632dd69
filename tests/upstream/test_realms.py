"""Tests for ``contentcache.upstream.realms``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.upstream.realms import may_have_password

HUB = "https://registry-1.docker.io"
OURS = "https://registry.example.com"


class MayHavePasswordTests(SynchronousTestCase):
    """Where the account's password may go."""

    def test_own_host_and_site(self) -> None:
        """The registry's own host and site get it over https, all others do not."""
        for realm, registry, expected in [
            ("https://auth.docker.io/token", HUB, True),
            ("https://auth.docker.io/token", "https://docker.io", True),
            ("https://auth.docker.io/token", "https://index.docker.io", True),
            ("https://auth.docker.com/token", HUB, False),
            ("http://auth.docker.io/token", HUB, False),
            ("https://registry.example.com/token", OURS, True),
            ("https://REGISTRY.example.COM./token", OURS, True),
            ("https://registry.example.com:8443/token", OURS, True),
            ("https://auth.example.com/token", OURS + ":5000", True),
            ("https://example.com/token", OURS, True),
            ("http://registry.example.com/token", OURS, False),
            ("http://registry.example.com/token", "http://registry.example.com:5000", True),
            ("https://registry.example.com/token", "http://registry.example.com:5000", True),
            ("http://evil.com/token", "http://registry.example.com:5000", False),
            ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", True),
            ("https://evil.github.io/token", "https://good.github.io", False),
            ("https://evil.co.uk/token", "https://good.co.uk", False),
            ("https://com/token", OURS, False),
            ("https://192.0.2.1/token", "https://192.0.2.1:5000", True),
            ("https://192.0.2.2/token", "https://192.0.2.1", False),
            ("https://9.0.2.1/token", "https://8.0.2.1", False),
            ("https://[2001:db8::1]/t", "https://[2001:DB8:0::1]:5000", True),
            ("https://[2001:db8::2]/t", "https://[2001:db8::1]", False),
            ("https://registry/token", "https://registry:5000", True),
            ("https://other/token", "https://registry:5000", False),
        ]:
            with self.subTest(realm=realm, registry=registry):
                self.assertIs(expected, may_have_password(realm, registry))

    def test_hostile_realms(self) -> None:
        """A realm that looks like the registry's and is another's gets nothing."""
        for realm in [
            "",
            "token",
            "/token",
            "//registry.example.com/token",
            "https://registry.example.com@evil.com/",
            "https://registry.example.com:443@evil.com/",
            "https://user:pw@registry.example.com/",
            "https://registry.example.com.evil.com/",
            "https://evilexample.com/",
            "https://registry.example.com\\@evil.com/",
            "https://evil.com\\.example.com/",
            "https://evil.com#.example.com/",
            "https://evil.com?.example.com/",
            "https://evil.com/.example.com/",
            "https://evil.com%2f.example.com/",
            "https://registry.example.com%00.evil.com/",
            "https://registry.example。com/",
            "https://registry.exаmple.com/",  # noqa: RUF001 - a Cyrillic letter
            "https://registry.example.com\t/token",
            " https://registry.example.com/token",
            "https://registry.example.com/to ken",
            "https://registry.example.com:99999/",
            "javascript://registry.example.com/",
            "ftp://registry.example.com/",
        ]:
            with self.subTest(realm=realm):
                self.assertFalse(may_have_password(realm, OURS))

    def test_listed(self) -> None:
        """A listed host, host with port, or URL permits exactly what it says."""
        for realm, entry, expected in [
            ("https://auth.corp/token", "auth.corp", True),
            ("https://AUTH.corp:8443/token", "auth.corp", True),
            ("https://auth.corp:8443/token", "auth.corp:8443", True),
            ("https://auth.corp/token", "auth.corp:8443", False),
            ("http://auth.corp/token", "auth.corp", False),
            ("https://sub.auth.corp/token", "auth.corp", False),
            ("https://sub.auth.corp/token", ".auth.corp", True),
            ("https://auth.corp/token", "https://auth.corp", True),
            ("https://auth.corp:443/token", "https://auth.corp/", True),
            ("https://auth.corp:8443/token", "https://auth.corp", False),
            ("http://auth.corp/token", "https://auth.corp", False),
            ("http://auth.corp/token", "http://auth.corp", True),
            ("https://auth.corp/token", "https://auth.corp/token", True),
            ("https://auth.corp/token?x=y", "https://auth.corp/token", True),
            ("https://auth.corp/token/a", "https://auth.corp/token/", True),
            ("https://auth.corp/tokenevil", "https://auth.corp/token", False),
            ("https://auth.corp/token/../evil", "https://auth.corp/token", False),
            ("https://auth.corp/token/%2e%2E/evil", "https://auth.corp/token", False),
            ("https://auth.corp/token\\..\\evil", "https://auth.corp/token", False),
            ("https://auth.corp@evil.com/token", "https://auth.corp", False),
            ("https://auth.corp.evil.com/token", "https://auth.corp", False),
            ("https://auth.corp/token", "https://", False),
            ("https://auth.corp/token", "", False),
        ]:
            with self.subTest(realm=realm, entry=entry):
                self.assertIs(expected, may_have_password(realm, OURS, [entry]))

    @given(st.text(max_size=60), st.text(max_size=30))
    def test_never_raises(self, realm: str, entry: str) -> None:
        """A strange challenge is refused, not raised about."""
        self.assertFalse(may_have_password(realm, OURS, [entry]))
