"""Tests for :mod:`contentcache.config.urls`."""

from __future__ import annotations

import doctest
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config import urls
from contentcache.config.document import Scalar
from contentcache.config.faults import InvalidValueError, Origin, Report
from contentcache.config.tables import Item

BASES = {
    "https://a.example": "https://a.example",
    "https://A.Example/": "https://a.example",
    "HTTPS://a.example:443": "https://a.example",
    "http://a.example:80/": "http://a.example",
    "http://a.example:443": "http://a.example:443",
    "https://a.example:05000": "https://a.example:5000",
    "https://a.example:": "https://a.example",
    "https://a.example.": "https://a.example",
    "https://m\u00fcnchen.example": "https://xn--mnchen-3ya.example",
    "https://FA\u00df.example": "https://xn--fa-hia.example",
    "http://127.0.0.1:5000": "http://127.0.0.1:5000",
    "https://[2001:DB8::0:1]:5000": "https://[2001:db8::1]:5000",
    "http://my_registry:5000": "http://my_registry:5000",
    "http://registry": "http://registry",
}

NO_BASES = [
    "a.example",
    "a.example:5000",
    "//a.example",
    "ftp://a.example",
    "https:/a.example",
    "https:a.example",
    "https://",
    "https:///v2/",
    "https://:5000",
    "https://a.example:0",
    "https://a.example:65536",
    "https://a.example:port",
    "https://a.example:\uff11",
    "https://a.example:" + "9" * 5000,
    "https://a.example/v2",
    "https://a.example//",
    "https://a.example?",
    "https://a.example?x=1",
    "https://a.example#",
    "https://a.example/#x",
    "https://a b.example",
    "https://a\\b.example",
    "https://a..example",
    "https://-a.example",
    "https://a-.example",
    "https://*.example",
    "https://%61.example",
    "https://" + "a" * 64 + ".example",
    "https://" + "a." * 130 + "example",
    "https://256.0.0.1",
    "https://1.2.3",
    "https://[::1",
    "https://::1",
    "https://[::g]",
    "https://[fe80::1%eth0]",
    "https://[127.0.0.1]",
    "https://\u2100.example",
    "https://\u0661.example\u3002\u3002",
    "https://a.example\n",
    "https://a\t.example",
]

WITH_SECRETS = [
    "https://user:topsecret@a.example",
    "https://topsecret@a.example/x?y#z",
    "user:topsecret@a.example",
    "https://user:topsecret@a.example\n",
    "https://user:topsecret@[",
    "https://user:top@topsecret@a.example",
]

AUTHORITIES = {
    "Quay.IO": "quay.io",
    "quay.io:443": "quay.io:443",
    "[::1]": "[::1]",
    "[::1]:5000": "[::1]:5000",
    "10.0.0.1": "10.0.0.1",
}

NO_AUTHORITIES = [
    "",
    ":5000",
    "a:b:c",
    "::1",
    "quay.io/org",
    "https://quay.io",
    "a b",
    "quay.io:",
    "quay.io:0",
]

NETWORKS = {
    "Storage.Example": "storage.example",
    "10.0.0.1": "10.0.0.1",
    "10.1.2.3/8": "10.0.0.0/8",
    "fd00::/8": "fd00::/8",
    "FD00::1": "fd00::1",
    "[fd00::1]": "fd00::1",
}

NO_NETWORKS = [
    "10.0.0.0/33",
    "10.0.0.1:80",
    "https://storage.example",
    "storage.example/x",
    "300.1.1.1",
    "/",
    "*",
]


def item(text: str) -> Item:
    """A text as a value of a file."""
    return Item(Scalar(Origin(1), text, text), "url", Report())


class ReadersTests(SynchronousTestCase):
    """URLs and hosts."""

    def reads(self, reader: Callable[[Item], str], table: dict[str, str]) -> None:
        """``reader`` reads every text of a table as the table says."""
        for text, expected in table.items():
            self.assertEqual(reader(item(text)), expected)

    def refuses(self, reader: Callable[[Item], str], texts: list[str]) -> None:
        """``reader`` refuses every one of ``texts``, without repeating a secret."""
        for text in texts:
            try:
                found = reader(item(text))
            except InvalidValueError as wrong:
                self.assertNotIn("topsecret", str(wrong))
                self.assertNotIn("\n", str(wrong))
            else:
                self.fail(f"{text!r} is read as {found!r}")

    def test_base_urls(self) -> None:
        """Equal origins have equal texts: case, default port, final dot and IDNA are settled."""
        self.reads(urls.base_url, BASES)

    def test_no_base_urls(self) -> None:
        """Everything beyond scheme, host and port is refused."""
        self.refuses(urls.base_url, NO_BASES)

    def test_secrets(self) -> None:
        """A password in a URL is refused, and repeated nowhere."""
        self.refuses(urls.base_url, WITH_SECRETS)

    def test_authorities(self) -> None:
        """Hosts with and without ports."""
        self.reads(urls.authority, AUTHORITIES)
        self.refuses(urls.authority, NO_AUTHORITIES)

    def test_either(self) -> None:
        """Realms are hosts, or URLs that may have a path."""
        self.reads(
            urls.url_or_authority,
            {"https://Auth.Example:443/token/": "https://auth.example/token", "Auth.Example": "auth.example"},
        )

    def test_networks(self) -> None:
        """Hosts, addresses and ranges."""
        self.reads(urls.host_or_network, NETWORKS)
        self.refuses(urls.host_or_network, NO_NETWORKS)

    @settings(deadline=None)
    @given(st.text(max_size=20), st.sampled_from(["", "http://", "https://", "https://["]))
    def test_anything(self, text: str, scheme: str) -> None:
        """Any text is read or refused, and what is read is read again as the same."""
        for reader in (urls.base_url, urls.url, urls.authority, urls.host_or_network):
            try:
                found = reader(item(scheme + text))
            except InvalidValueError:
                continue
            self.assertEqual(reader(item(found)), found)

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(urls).failed, 0)
