"""Tests for :mod:`contentcache.gateway.directory`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.directory import parse_host, parse_id, parse_name
from contentcache.gateway.errors import InvalidContentCache


class SpellingTests(SynchronousTestCase):
    """Names, hosts and ids."""

    def test_hosts(self) -> None:
        """Each host has one spelling."""
        for written, spelled in (
            ("https://near.example", "https://near.example"),
            ("https://NEAR.example.:443/", "https://near.example"),
            ("http://near.example:80", "http://near.example"),
            ("http://near.example:443", "http://near.example:443"),
            ("https://[::1]:5000", "https://[::1]:5000"),
            ("https://192.0.2.1", "https://192.0.2.1"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
        ):
            self.assertEqual(parse_host(written), spelled)

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """Any text is a host in one spelling, an unchanged name, an id, or refused with a message."""
        for read in (parse_host, parse_name):
            try:
                spelled = read(text)
            except InvalidContentCache as error:
                self.assertTrue(error.message)
            else:
                self.assertEqual(read(spelled), spelled)
        found = parse_id(text)
        self.assertTrue(found is None or str(found) == text.lower())

    @given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?", fullmatch=True))
    def test_names(self, name: str) -> None:
        """Names are not changed."""
        self.assertEqual(parse_name(name), name)
