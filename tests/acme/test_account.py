"""Tests for :mod:`contentcache.acme.account`."""

from __future__ import annotations

import hashlib
import json

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.account import AccountKey
from tests.acme.server import decoded


class KeyTests(SynchronousTestCase):
    """Signatures and thumbprints."""

    def test_rsa(self) -> None:
        """An RSA key signs with RS256."""
        theirs = rsa.generate_private_key(65537, 2048)
        key = AccountKey.from_pem(theirs.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        signed = json.loads(key.sign("https://a/", None, "n", "https://a/1"))
        self.assertEqual(signed["payload"], "")
        head = json.loads(decoded(signed["protected"]))
        self.assertEqual(head, {"alg": "RS256", "nonce": "n", "url": "https://a/", "kid": "https://a/1"})
        content = f"{signed['protected']}.".encode()
        theirs.public_key().verify(decoded(signed["signature"]), content, padding.PKCS1v15(), SHA256())

    def test_thumbprint(self) -> None:
        """Challenges are answered with the SHA-256 of the key's required members, sorted (RFC 7638 §3)."""
        key = AccountKey.generate()
        members = json.dumps(key.jwk(), sort_keys=True, separators=(",", ":")).encode()
        self.assertEqual(set(key.jwk()), {"crv", "kty", "x", "y"})
        self.assertEqual(key.thumbprint(), hashlib.sha256(members).digest())
