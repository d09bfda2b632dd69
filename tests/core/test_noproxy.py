"""Tests for ``contentcache.core.noproxy``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.noproxy import Exemptions


class ExemptionsTests(SynchronousTestCase):
    """Which hosts are asked directly."""

    def test_table(self) -> None:
        """Each form of an entry covers what it covers in Go's programs, and nothing else."""
        for value, host, port, expected in [
            ("", "example.com", 443, False),
            ("", "localhost", 5000, True),
            ("", "LOCALHOST", 5000, True),
            ("", "127.0.0.1", 5000, True),
            ("", "127.9.9.9", 5000, True),
            ("", "::1", 5000, True),
            ("", "[::1]", 5000, True),
            ("", "::ffff:127.0.0.1", 5000, True),
            ("", "localhost.example.com", 5000, False),
            ("*", "example.com", 443, True),
            ("a, *", "example.com", 443, True),
            ("example.com", "example.com", 443, True),
            ("example.com", "EXAMPLE.com.", 443, True),
            ("EXAMPLE.com", "registry.example.com", 443, True),
            ("example.com", "notexample.com", 443, False),
            ("example.com", "example.com.evil", 443, False),
            (".example.com", "registry.example.com", 443, True),
            (".example.com", "example.com", 443, False),
            ("*.example.com", "a.b.example.com", 443, True),
            ("*.example.com", "example.com", 443, False),
            ("example.com:8080", "example.com", 8080, True),
            ("example.com:8080", "example.com", 443, False),
            (".example.com:8080", "a.example.com", 8080, True),
            ("192.0.2.1", "192.0.2.1", 80, True),
            ("192.0.2.1", "::ffff:192.0.2.1", 80, True),
            ("192.0.2.1:80", "192.0.2.1", 80, True),
            ("192.0.2.1:80", "192.0.2.1", 443, False),
            ("192.0.2.0/24", "192.0.2.200", 443, True),
            ("192.0.2.0/24", "192.0.3.1", 443, False),
            ("192.0.2.7/24", "192.0.2.200", 443, True),
            ("2001:db8::/32", "2001:db8::5", 443, True),
            ("2001:db8::5", "2001:db8::5", 443, True),
            ("[2001:db8::5]:443", "2001:db8::5", 443, True),
            ("[2001:db8::5]:443", "2001:db8::5", 80, False),
            ("1.1", "192.0.1.1", 80, False),
            ("bücher.example", "xn--bcher-kva.example", 443, True),
            (" a.example ,\tb.example c.example", "c.example", 443, True),
            ("/, :80, [], ., *., ://x", "example.com", 80, False),
        ]:
            with self.subTest(value=value, host=host, port=port):
                self.assertIs(expected, Exemptions.parse(value).covers(host, port))

    @given(st.text(max_size=60), st.text(max_size=60), st.integers(1, 65535))
    def test_never_raises(self, value: str, host: str, port: int) -> None:
        """An odd value of the variable stops no daemon."""
        self.assertIsInstance(Exemptions.parse(value).covers(host, port), bool)
