"""Tests for :mod:`contentcache.core.ciphersuites`."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.ciphersuites import OPENSSL_NAMES, TLS13

#: What today's OpenSSL is built without.
_GONE = ("RC4", "3DES")


class NamesTests(SynchronousTestCase):
    """The table of names."""

    def test_openssl_knows_them(self) -> None:
        """Every name that OpenSSL may still have is one that OpenSSL takes."""
        for name, openssl in OPENSSL_NAMES.items():
            if name in TLS13 or any(part in name for part in _GONE):
                continue
            context = SSL.Context(SSL.TLS_METHOD)
            context.set_cipher_list(openssl.encode() + b":@SECLEVEL=0")
            names = SSL.Connection(context, None).get_cipher_list()
            self.assertIn(openssl, names)

    def test_tls13(self) -> None:
        """The three suites of TLS 1.3 are in the table, by the names that OpenSSL has for them too."""
        names = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None).get_cipher_list()
        for name in TLS13:
            self.assertEqual(OPENSSL_NAMES[name], name)
            self.assertIn(name, names)
