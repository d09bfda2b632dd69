"""Tests for :mod:`contentcache.jose.jws` and :mod:`contentcache.jose.jwa`."""

from __future__ import annotations

import hashlib
import hmac
import json

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.base64url import base64url_encode
from contentcache.jose.jwa import ALGORITHMS, PrivateKey, is_supported, make_signature, verify_signature
from contentcache.jose.jws import (
    InvalidJWSError,
    base64url_decode,
    check_header,
    compact_json,
    flattened,
    parse_compact,
)
from tests.signer import keys

#: RFC 7515 §A.1.
EXAMPLE = (
    "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9"
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)


def private_keys() -> dict[str, PrivateKey]:
    """A key for each algorithm."""
    mine = keys()
    return {
        "EdDSA": mine.ed,
        "ES256": mine.es,
        "ES384": mine.p384,
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), mine.rs),
    }


class Base64urlTests(SynchronousTestCase):
    """base64url (RFC 7515 §2)."""

    @given(st.binary(max_size=60))
    def test_round_trip(self, content: bytes) -> None:
        """What is encoded is decoded."""
        self.assertEqual(base64url_decode(base64url_encode(content)), content)

    @given(st.text(max_size=12) | st.text("Aw_-+/=. \n", max_size=12))
    def test_one_spelling(self, text: str) -> None:
        """No two texts decode to the same bytes."""
        try:
            content = base64url_decode(text)
        except InvalidJWSError:
            return
        self.assertEqual(base64url_encode(content), text)


class CompactTests(SynchronousTestCase):
    """The compact form."""

    def test_example(self) -> None:
        """The example of RFC 7515 is parsed into its header, its claims and the bytes that are signed."""
        jws = parse_compact(EXAMPLE, max_length=len(EXAMPLE))
        self.assertEqual(jws.header, {"typ": "JWT", "alg": "HS256"})
        self.assertEqual(jws.claims(), {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True})
        self.assertEqual(jws.signing_input, EXAMPLE.rpartition(".")[0].encode())
        self.assertEqual(len(jws.signature), 32)
        self.assertNotIn("joe", repr(jws))

    def test_length(self) -> None:
        """A longer text is not even split."""
        error = self.assertRaises(InvalidJWSError, parse_compact, EXAMPLE, max_length=len(EXAMPLE) - 1)
        self.assertIn("is longer than", str(error))

    def test_payload_is_parsed_late(self) -> None:
        """A payload that is no JSON object is an error only where claims are asked for."""
        header = base64url_encode(b"{}")
        for payload in (b"", b"[]", b"\xff", b'{"a": 1, "a": 1}'):
            jws = parse_compact(f"{header}.{base64url_encode(payload)}.", max_length=100)
            self.assertEqual(jws.payload, payload)
            self.assertRaises(InvalidJWSError, jws.claims)

    @settings(deadline=None)
    @given(st.text(max_size=60) | st.text("eyJ0.e30_-", max_size=60))
    def test_any_text(self, text: str) -> None:
        """Any text is a JWS, byte for byte, or one kind of error."""
        try:
            jws = parse_compact(text, max_length=60)
        except InvalidJWSError:
            return
        self.assertEqual(f"{jws.signing_input.decode()}.{base64url_encode(jws.signature)}", text)

    def test_header(self) -> None:
        """A header parameter that is refused is named; others do not matter."""
        error = self.assertRaises(InvalidJWSError, check_header, {"zip": 1, "b64": 1}, {"zip", "b64", "x"})
        self.assertIn("'b64'", str(error))
        check_header({"alg": "ES256"}, {"zip"})


class FlattenedTests(SynchronousTestCase):
    """The flattened form, as ACME sends it."""

    def test_signed(self) -> None:
        """The signature is over the header and the payload as they are sent, by the header's algorithm."""
        for algorithm, key in private_keys().items():
            sent = flattened({"alg": algorithm, "nonce": "n"}, b"content", key)
            self.assertEqual(sorted(sent), ["payload", "protected", "signature"])
            self.assertEqual(
                json.loads(base64url_decode(sent["protected"])), {"alg": algorithm, "nonce": "n"}
            )
            self.assertEqual(base64url_decode(sent["payload"]), b"content")
            signing_input = f"{sent['protected']}.{sent['payload']}".encode()
            signature = base64url_decode(sent["signature"])
            self.assertTrue(verify_signature(algorithm, key.public_key(), signing_input, signature))

    def test_shared_secret(self) -> None:
        """``HS256`` signs with a shared secret, of any length, and is verified by nobody here."""
        sent = flattened({"alg": "HS256"}, b"", b"k")
        signing_input = f"{sent['protected']}.".encode()
        expected = hmac.digest(b"k", signing_input, hashlib.sha256)
        self.assertEqual(base64url_decode(sent["signature"]), expected)
        self.assertNotIn("HS256", ALGORITHMS)

    def test_compact_json(self) -> None:
        """JSON has no white space, and sorted members where the caller wants the same bytes each time."""
        self.assertEqual(compact_json({"b": 1, "a": "é"}), b'{"b":1,"a":"\\u00e9"}')
        self.assertEqual(compact_json({"b": 1, "a": 2}, sort_keys=True), b'{"a":2,"b":1}')


class AlgorithmTests(SynchronousTestCase):
    """Signature algorithms and their keys."""

    def test_matrix(self) -> None:
        """A signature verifies with its own algorithm and key, and with no other pair of them."""
        mine = private_keys()
        self.assertEqual(mine.keys(), ALGORITHMS)
        for algorithm, key in mine.items():
            signature = make_signature(algorithm, key, b"content")
            for other, other_key in mine.items():
                fits = verify_signature(other, other_key.public_key(), b"content", signature)
                self.assertIs(fits, other == algorithm, (algorithm, other))
            self.assertFalse(verify_signature(algorithm, key.public_key(), b"contents", signature))
            self.assertFalse(verify_signature(algorithm, key.public_key(), b"content", b""))
            for unknown in ("none", "HS256", "ES256K", "ES521", ""):
                self.assertFalse(verify_signature(unknown, key.public_key(), b"content", signature))

    def test_supported(self) -> None:
        """Keys that are too short, on other curves, private or of other types are for no algorithm."""
        self.assertTrue(all(is_supported(key.public_key()) for key in private_keys().values()))
        short = rsa.generate_private_key(65537, 1024)
        for key in (
            short.public_key(),
            ec.generate_private_key(ec.SECP256K1()).public_key(),
            ed448.Ed448PrivateKey.generate().public_key(),
            ed25519.Ed25519PrivateKey.generate(),
            b"secret",
        ):
            self.assertFalse(is_supported(key))
        signature = make_signature("RS256", short, b"")
        self.assertFalse(verify_signature("RS256", short.public_key(), b"", signature))
