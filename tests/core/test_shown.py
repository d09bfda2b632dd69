"""What operators and strangers are shown of texts that come from outside."""

from __future__ import annotations

import doctest

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core import shown
from contentcache.core.host_health import HostHealth
from contentcache.core.shown import hide_names, hide_secrets, show_place


class ShownTests(SynchronousTestCase):
    """Secrets are shown to nobody, names not to strangers."""

    def test_place(self) -> None:
        """Of a URL, well-formed or not, scheme and host at most are shown."""
        for url, place in [
            ("https://a.example/secret", "https://a.example"),
            ("s3://alice:pw@bucket.example/secret?x=secret", "s3://bucket.example"),
            ("https://a.example:99999/secret", "https://a.example:99999"),
            ("https://[::1]:8443/secret", "https://[::1]:8443"),
            ("http:///alice:pw@a.example/secret", "http:…"),
            ("http://alice:p/w@a.example/", "http:…"),
            ("http://alice:pw%40a.example/", "http:…"),
            ("http://a%20b.example/secret", "http:…"),
            (r"http://alice:pw\@a.example/", "http:…"),
            ("http://" + "a" * 300, "http:…"),
            ("http:/secret", "…"),
            ("alice:pw", "…"),
            ("", "…"),
        ]:
            with self.subTest(url=url):
                self.assertEqual(show_place(url), place)

    def test_secrets(self) -> None:
        """A password with an @ in it is hidden to its end."""
        self.assertEqual(hide_secrets("to http://alice:p@w@a.example/x@y"), "to http://***@a.example/x@y")

    def test_names(self) -> None:
        """Paths of all URLs are hidden, also of those that are not of the registry's API."""
        for text, hidden in [
            ("to https://a.example/secret/app?x failed", "to https://a.example… failed"),
            ("to 'ftp://a.example?secret' failed", "to 'ftp://a.example… failed"),
            ("no token for repository:secret/app:pull", "no token for …"),
            ("list http://a.example:9000 in redirects", "list http://a.example:9000 in redirects"),
        ]:
            with self.subTest(text=text):
                self.assertEqual(hide_names(text), hidden)

    def test_reason(self) -> None:
        """A reason that is kept has no password."""
        health = HostHealth("https://a", 1.0).failed("to http://alice:pw@a.example/ failed", 2.0)
        self.assertEqual(health.reason, "to http://***@a.example/ failed")

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(shown).failed, 0)
