"""Tests for :mod:`contentcache.gateway.authority`."""

from __future__ import annotations

from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import ServerTLS
from contentcache.gateway.authority import Authority
from contentcache.tls.files import TLSFault
from tests.tls.certificates import make


class AuthorityTests(SynchronousTestCase):
    """What ``/ca`` hands out."""

    def setUp(self) -> None:
        self.root, self.leaf = make("root"), make("leaf")
        self.chain = Path(self.mktemp())
        self.chain.write_bytes(self.leaf.pem + self.root.pem)
        self.ca = Path(self.mktemp())
        self.ca.write_bytes(b"a comment\n" + self.root.pem)

    def test_plain(self) -> None:
        """Without TLS there is nothing to trust."""
        self.assertIsNone(Authority(None).pem)

    def test_chain(self) -> None:
        """The last certificate of the chain; the one there is where it is alone."""
        found = Authority(ServerTLS(str(self.chain), "unread")).pem or b""
        self.assertEqual(load_pem_x509_certificates(found), load_pem_x509_certificates(self.root.pem))
        self.chain.write_bytes(self.leaf.pem)
        found = Authority(ServerTLS(str(self.chain), "unread")).pem or b""
        self.assertEqual(load_pem_x509_certificates(found), load_pem_x509_certificates(self.leaf.pem))

    def test_file(self) -> None:
        """The file ``ca`` where there is one, its certificates and nothing else; read anew on request."""
        authority = Authority(ServerTLS(str(self.chain), "unread", ca=str(self.ca)))
        self.assertNotIn(b"comment", authority.pem or b"")
        self.ca.write_bytes(self.leaf.pem)
        authority.reload()
        self.assertEqual(
            load_pem_x509_certificates(authority.pem or b""), load_pem_x509_certificates(self.leaf.pem)
        )
        kept = authority.pem
        self.ca.write_bytes(b"nonsense")
        with self.assertRaises(TLSFault):
            authority.reload()
        self.assertEqual(authority.pem, kept)
