"""Keys as the origin shows them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed448, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.jose.jwa import PublicKey
from contentcache.jose.jwk import InvalidJWKError
from contentcache.jose.keyset import (
    MAX_KEYS,
    MAX_SET_BYTES,
    KeySet,
    UnknownKeyError,
    VerificationKey,
    algorithm_of,
    encode_jwk,
    encode_key_set,
    parse_key_set,
)
from tests.jose.test_jwk import EC_EXAMPLE, OKP_EXAMPLE, RSA_EXAMPLE
from tests.signer import b64, elliptic, keys, number


def document(*entries: object) -> bytes:
    """A set."""
    return json.dumps({"keys": entries}).encode()


def public_keys() -> list[tuple[str, PublicKey]]:
    """A key of each kind, and its algorithm."""
    mine = keys()
    return [
        ("ES256", mine.es.public_key()),
        ("EdDSA", mine.ed.public_key()),
        ("RS256", mine.rs.public_key()),
    ]


def useless() -> dict[str, tuple[dict[str, Any], str]]:
    """Keys that are of no use, and the word that the reason has."""
    good = {**EC_EXAMPLE, "kid": "a"}
    wide = {**RSA_EXAMPLE, "kid": "a"}
    okp = {**OKP_EXAMPLE, "kid": "a"}
    short = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
    return {
        "kid missing": (dict(EC_EXAMPLE), "'kid'"),
        "kid empty": ({**good, "kid": ""}, "'kid'"),
        "kid a number": ({**good, "kid": 7}, "'kid'"),
        "kid overlong": ({**good, "kid": "k" * 300}, "'kid'"),
        "kid not printable": ({**good, "kid": "a\x1b[2J"}, "'kid'"),
        "kty missing": ({"kid": "a"}, "'kty'"),
        "kty a list": ({**good, "kty": ["EC"]}, "'kty'"),
        "symmetric": ({"kid": "a", "kty": "oct", "k": "c2VjcmV0"}, "'kty'"),
        "a secret beside the key": ({**good, "k": "c2VjcmV0"}, "secret"),
        "private": ({**good, "d": "c2VjcmV0"}, "secret"),
        "private, RSA": ({**wide, "p": "c2VjcmV0"}, "secret"),
        "for encryption": ({**good, "use": "enc"}, "'use'"),
        "use a list": ({**good, "use": ["sig"]}, "'use'"),
        "for signing only": ({**good, "key_ops": ["sign"]}, "'key_ops'"),
        "key_ops a text": ({**good, "key_ops": "verify"}, "'key_ops'"),
        "alg of another kind": ({**good, "alg": "RS256"}, "'alg'"),
        "alg of another RSA": ({**wide, "alg": "PS256"}, "'alg'"),
        "alg none": ({**good, "alg": "none"}, "'alg'"),
        "alg null": ({**good, "alg": None}, "'alg'"),
        "P-384": (elliptic(keys().p384.public_key(), "a"), "'crv'"),
        "P-384 called P-256": ({**elliptic(keys().p384.public_key(), "a"), "crv": "P-256"}, "48 bytes"),
        "Ed448": ({"kid": "a", "kty": "OKP", "crv": "Ed448", "x": b64(bytes(57))}, "'crv'"),
        "X25519": ({**okp, "crv": "X25519"}, "'crv'"),
        "x too short": ({**okp, "x": b64(bytes(31))}, "31 bytes"),
        "x padded": ({**okp, "x": OKP_EXAMPLE["x"] + "="}, "base64url"),
        "x a number": ({**okp, "x": 7}, "'x'"),
        "y missing": ({name: value for name, value in good.items() if name != "y"}, "'y'"),
        "no point of the curve": ({**good, "y": EC_EXAMPLE["x"]}, "no valid EC key"),
        "the point nought": ({**good, "x": b64(bytes(32)), "y": b64(bytes(32))}, "no valid EC key"),
        "RSA of 1024 bits": ({**wide, "n": number(short)}, "1024 bits"),
        "RSA of 1024 bits with noughts before": ({**wide, "n": number(short, 256)}, "1024 bits"),
        "RSA of 16384 bits": ({**wide, "n": number((1 << 16383) + 1)}, "16384 bits"),
        "e of one": ({**wide, "e": "AQ"}, "no valid RSA key"),
        "e even": ({**wide, "e": "Ag"}, "no valid RSA key"),
        "e too large": ({**wide, "e": number((1 << 64) + 1)}, "'e'"),
        "e empty": ({**wide, "e": ""}, "no valid RSA key"),
    }


class ParseTests(SynchronousTestCase):
    """What is made of a document."""

    def test_examples(self) -> None:
        """The RFCs' own keys are read, with and without what need not be said."""
        for example, algorithm in ((EC_EXAMPLE, "ES256"), (RSA_EXAMPLE, "RS256"), (OKP_EXAMPLE, "EdDSA")):
            for more in (
                {},
                {"use": "sig"},
                {"alg": algorithm},
                {"key_ops": ["verify"]},
                {"x5t": "AAAA", "other": [{}]},
            ):
                with self.subTest(algorithm=algorithm, more=more):
                    found = parse_key_set(document({**example, "kid": "2026-01", **more}))
                    self.assertEqual(found.skipped, ())
                    self.assertEqual(found.find("2026-01").algorithm, algorithm)

    def test_useless(self) -> None:
        """A key that is of no use is passed over with a reason that repeats no secret; the others are there."""
        for name, (entry, word) in useless().items():
            with self.subTest(name=name):
                found = parse_key_set(document(entry, {**OKP_EXAMPLE, "kid": "other"}))
                self.assertEqual(set(found.keys), {"other"})
                [reason] = found.skipped
                self.assertIn("keys[0]: ", reason)
                self.assertIn(word, reason)
                self.assertNotIn("c2VjcmV0", reason)
                self.assertTrue(reason.isprintable())
        for nothing in (None, 7, "x", [], [EC_EXAMPLE]):
            self.assertEqual(parse_key_set(document(nothing)).skipped, ("keys[0]: not a JSON object",))

    def test_twice(self) -> None:
        """A name that is there twice is nobody's, whichever keys have it, and the set says so."""
        for second in (OKP_EXAMPLE, EC_EXAMPLE, {**EC_EXAMPLE, "use": "enc"}):
            for entries in ((EC_EXAMPLE, second), (second, EC_EXAMPLE), (second, second, EC_EXAMPLE)):
                with self.subTest(entries=entries):
                    named = [{**entry, "kid": "a"} for entry in entries]
                    found = parse_key_set(document(*named, {**RSA_EXAMPLE, "kid": "b"}))
                    self.assertEqual((found.duplicates, set(found.keys)), (frozenset({"a"}), {"b"}))
                    self.assertIn(f"{len(entries)} times", found.skipped[-1])
                    self.assertRaises(UnknownKeyError, found.find, "a")

    def test_unknown(self) -> None:
        """A name that is not there is refused as any wrong token is."""
        for found in (
            KeySet(),
            parse_key_set(document()),
            parse_key_set(document({**EC_EXAMPLE, "kid": "a"})),
        ):
            for kid in ("", "A", "a ", "b", "á"):
                error = self.assertRaises(UnknownKeyError, found.find, kid)
                self.assertEqual((error.code, error.status), ("DENIED", 403))

    def test_faulty(self) -> None:
        """What is no set is refused in one sentence."""
        good = document({**EC_EXAMPLE, "kid": "a"})
        for name, wrong in {
            "empty": b"",
            "HTML": b"<html></html>",
            "null": b"null",
            "a list": b"[]",
            "a key alone": json.dumps(EC_EXAMPLE).encode(),
            "keys a mapping": b'{"keys": {}}',
            "keys null": b'{"keys": null}',
            "keys twice": b'{"keys": [], "keys": []}',
            "a member twice": good.replace(b'"kty"', b'"kty": "OKP", "kty"'),
            "not UTF-8": b'{"keys": ["\xff"]}',
            "UTF-16": good.decode().encode("utf-16"),
            "a mark": b"\xef\xbb\xbf" + good,
            "NaN": b'{"keys": [NaN]}',
            "deep": b'{"keys": ' + b"[" * 20000 + b"]" * 20000 + b"}",
            "a huge number": b'{"keys": [1' + b"0" * 5000 + b"]}",
            "too large": good + b" " * MAX_SET_BYTES,
            "too many": document(*[{"kid": str(n)} for n in range(MAX_KEYS + 1)]),
        }.items():
            with self.subTest(name=name):
                error = self.assertRaises(InvalidJWKError, parse_key_set, wrong)
                self.assertTrue(str(error).startswith("the JWK set "), str(error))
        self.assertEqual(len(parse_key_set(document(*[{}] * MAX_KEYS)).skipped), MAX_KEYS)

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, content: bytes) -> None:
        """Any bytes are a set or a fault."""
        with contextlib.suppress(InvalidJWKError):
            parse_key_set(content)

    @settings(deadline=None)
    @given(st.data())
    def test_any_members(self, data: st.DataObject) -> None:
        """Any values in a key's members give a set of a sort."""
        value = st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=44) | st.just("AQAB"),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        )
        example = data.draw(st.sampled_from([EC_EXAMPLE, RSA_EXAMPLE, OKP_EXAMPLE]))
        members = [*example, "kid", "use", "alg", "key_ops"]
        changed = {**example, "kid": "a", **data.draw(st.dictionaries(st.sampled_from(members), value))}
        found = parse_key_set(document(changed))
        self.assertEqual(len(found.keys) + len(found.skipped), 1)


class ShowTests(SynchronousTestCase):
    """Keys as documents."""

    def test_there_and_back(self) -> None:
        """A set that was written is read as it was, in the same bytes each time, without anything private."""
        mine = [
            VerificationKey(f"k{n}", algorithm_of(public), public)
            for n, (_, public) in enumerate(public_keys())
        ]
        written = encode_key_set(mine)
        found = parse_key_set(written)
        self.assertEqual(list(found.keys.values()), mine)
        self.assertEqual((found.skipped, found.duplicates), ((), frozenset()))
        self.assertEqual(written, encode_key_set(list(found.keys.values())))
        allowed = {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}
        for entry in json.loads(written)["keys"]:
            self.assertLessEqual(set(entry), allowed)
            self.assertEqual(entry["use"], "sig")
        self.assertEqual(encode_key_set([]), b'{"keys":[]}')

    def test_unfit(self) -> None:
        """Keys that are of no use cannot be shown, nor can a key have another's algorithm or no proper name."""
        unfit: list[Any] = [
            keys().p384.public_key(),
            rsa.generate_private_key(65537, 1024).public_key(),
            ed448.Ed448PrivateKey.generate().public_key(),
            keys().es,
        ]
        for public in unfit:
            self.assertRaises(InvalidJWKError, algorithm_of, public)
            self.assertRaises(InvalidJWKError, encode_jwk, public, "a")
        for algorithm, public in public_keys():
            self.assertEqual(algorithm_of(public), algorithm)
            for other in {"ES256", "EdDSA", "RS256", "HS256"} - {algorithm}:
                wrong: Any = other
                self.assertRaises(InvalidJWKError, VerificationKey, "a", wrong, public)
            for kid in ("", "a\n", "k" * 300):
                self.assertRaises(InvalidJWKError, VerificationKey, kid, algorithm_of(public), public)
