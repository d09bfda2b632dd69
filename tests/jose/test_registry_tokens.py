"""Tests for :mod:`contentcache.jose.registry_tokens` and :mod:`contentcache.jose.x5c`."""

from __future__ import annotations

import json
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import Certificate
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.base64url import base64url_encode
from contentcache.jose.jwa import ALGORITHMS
from contentcache.jose.jwk import derived_kids, libtrust_fingerprint
from contentcache.jose.keyset import TrustedKeys, certified_keys, encode_jwk
from contentcache.jose.registry_tokens import (
    InvalidTokenError,
    RegistryTokenClaims,
    check_claims,
    verify_registry_token,
)
from tests.auth.authenticators import NOW, certificate, claims, token, x5c

KEY: Final = ec.generate_private_key(ec.SECP256R1())
OTHER: Final = ec.generate_private_key(ec.SECP256R1())
P384: Final = ec.generate_private_key(ec.SECP384R1())
P521: Final = ec.generate_private_key(ec.SECP521R1())
RSA: Final = rsa.generate_private_key(65537, 2048)
EDWARDS: Final = ed25519.Ed25519PrivateKey.generate()
KID: Final = libtrust_fingerprint(KEY.public_key())
ROOT: Final = certificate(KEY, name="root", authority=True)


def trusted(*certificates: Certificate) -> TrustedKeys:
    """The keys of certificates, which end chains too."""
    return TrustedKeys(certified_keys(certificates), certificates)


def good(**changes: Any) -> str:
    """A valid token but for changes of its claims."""
    return token(KEY, {"kid": KID}, claims(**changes))


class RegistryTokenCase(SynchronousTestCase):
    """Tokens that ``KEY`` signs, for the service ``cache``."""

    def valid(self, text: str, keys: TrustedKeys | None = None) -> RegistryTokenClaims:
        """The claims of a token that must be valid."""
        keys = keys or trusted(ROOT)
        verified = verify_registry_token(text, keys, algorithms=ALGORITHMS, now=NOW).claims
        check_claims(verified, issuer="auth.example.com", service="cache", now=NOW)
        return verified

    def invalid(self, text: str, keys: TrustedKeys | None = None) -> str:
        """Why a token is invalid, which it must be. The reason quotes nothing of it."""
        reason = str(self.assertRaises(InvalidTokenError, self.valid, text, keys))
        self.assertTrue(reason)
        self.assertFalse(any(len(part) > 11 and part in reason for part in text.split(".")), reason)
        return reason


class ClaimsTests(RegistryTokenCase):
    """What a token claims."""

    def test_claims(self) -> None:
        """Claims are read by their types; what is absent or ``null`` is empty."""
        entry = {"type": "repository", "name": "org/app", "actions": ["pull", "*"]}
        found = self.valid(good(access=[entry, {"actions": ["pull"]}], aud=["a", "cache"], sub=None, nbf=...))
        self.assertEqual(
            found,
            RegistryTokenClaims(
                issuer="auth.example.com",
                subject="",
                audience=frozenset({"a", "cache"}),
                expires=int(NOW) + 300,
                not_before=0,
                access=frozenset(
                    {
                        ("repository", "org/app", "pull"),
                        ("repository", "org/app", "*"),
                        ("", "", "pull"),
                    }
                ),
            ),
        )
        self.assertTrue(found.allows("repository", "org/app", "push"))
        self.assertFalse(found.allows("repository", "org", "pull"))
        self.assertFalse(found.allows("registry", "org/app", "pull"))

    def test_wrong_claims(self) -> None:
        """Another issuer or service, and every claim of a wrong type: the token is invalid, if well signed."""
        wrong: list[dict[str, Any]] = [
            {"iss": "auth.example.com/"},
            {"iss": ...},
            {"iss": ["auth.example.com"]},
            {"aud": "cach"},
            {"aud": ...},
            {"aud": []},
            {"aud": ["cache", 1]},
            {"aud": {"cache": 1}},
            {"exp": str(int(NOW) + 300)},
            {"exp": NOW + 300.5},
            {"exp": True},
            {"nbf": "0"},
            {"iat": "0"},
            {"sub": 1},
            {"jti": []},
            {"access": {}},
            {"access": [None]},
            {"access": [[]]},
            {"access": [{"type": "repository", "name": "org/app", "actions": "pull"}]},
            {"access": [{"type": "repository", "name": "org/app", "actions": ["pull", 1]}]},
            {"access": [{"type": 1, "name": "org/app", "actions": ["pull"]}]},
            {"access": [{"type": "repository", "class": 1, "name": "org/app", "actions": ["pull"]}]},
        ]
        for changes in wrong:
            with self.subTest(changes=changes):
                self.invalid(good(**changes))


class SignatureTests(RegistryTokenCase):
    """Who has signed a token."""

    def test_algorithms(self) -> None:
        """Each algorithm with a key of its type, named by libtrust's fingerprint or by its thumbprint."""
        table: list[tuple[Any, list[str]]] = [
            (EDWARDS, ["EdDSA"]),
            (KEY, ["ES256"]),
            (P384, ["ES384"]),
            (P521, ["ES512"]),
        ]
        table.append((RSA, ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]))
        keys = trusted(*(certificate(key) for key, _ in table))
        for key, algorithms in table:
            for algorithm in algorithms:
                for kid in derived_kids(key.public_key()):
                    self.valid(token(key, {"kid": kid}, algorithm=algorithm), keys)

    def test_algorithm_and_key(self) -> None:
        """An algorithm that is not the key's, ``none``, and a public key used as a shared secret are invalid."""
        keys = trusted(ROOT, certificate(RSA), certificate(P384))
        rsa_kid, p384_kid = libtrust_fingerprint(RSA.public_key()), libtrust_fingerprint(P384.public_key())
        cases: list[tuple[Any, dict[str, Any], str]] = [
            (KEY, {"kid": KID, "alg": "ES384"}, "ES256"),
            (KEY, {"kid": KID, "alg": "RS256"}, "ES256"),
            (KEY, {"kid": KID, "alg": "none"}, "ES256"),
            (KEY, {"kid": KID, "alg": "ES256K"}, "ES256"),
            (KEY, {"kid": KID, "alg": None}, "ES256"),
            (KEY, {"kid": KID, "alg": ["ES256"]}, "ES256"),
            (KEY, {"kid": p384_kid}, "ES256"),
            (RSA, {"kid": rsa_kid, "alg": "PS256"}, "RS256"),
            (RSA, {"kid": rsa_kid, "alg": "RS512"}, "RS256"),
            (b"k" * 64, {"kid": KID}, "HS256"),
            (OTHER, {"kid": KID}, "ES256"),
        ]
        for key, header, algorithm in cases:
            with self.subTest(header=header, algorithm=algorithm):
                self.invalid(token(key, header, algorithm=algorithm), keys)
        unsigned = good().rpartition(".")[0] + "."
        self.invalid(unsigned)

    def test_malformed(self) -> None:
        """A text in another spelling than the shortest is invalid, and so are extensions and nested tokens."""
        header, payload, signature = good().split(".")
        for text in [
            "x",
            "..",
            f"{header}.{payload}",
            f"{header}.{payload}.{signature}.",
            f"{header}.{payload}.{signature}=",
            f"{header}. {payload}.{signature}",
            f"{header}.{payload}.{signature[:-2]}",
            f"{header}.{payload}é.{signature}",
            "\ud800.a.b",
            "A" * 20_000,
            f"{base64url_encode(b'[]')}.{payload}.{signature}",
            f"{base64url_encode(b'{' * 3000)}.{payload}.{signature}",
            json.dumps({"payload": payload, "protected": header, "signature": signature}),
        ]:
            with self.subTest(text=text[:40]):
                self.invalid(text)
        extras: list[dict[str, Any]] = [
            {"crit": ["exp"]},
            {"b64": False},
            {"cty": "JWT"},
            {"zip": "DEF"},
            {"enc": "A128GCM"},
        ]
        for extra in extras:
            with self.subTest(extra=extra):
                self.invalid(token(KEY, {"kid": KID, **extra}))
        for signed in [b"[]", b"1", b'{"exp": 1, "exp": 2}', b"{", b"\xff", b"[" * 4000]:
            with self.subTest(signed=signed[:20]):
                self.invalid(token(KEY, {"kid": KID}, signed))

    def test_nameless_key(self) -> None:
        """A token without a ``kid`` is invalid even where there is only one key, as is one of an unknown key."""
        headers: list[dict[str, Any]] = [
            {},
            {"kid": ""},
            {"kid": None},
            {"kid": 1},
            {"kid": "x"},
            {"jku": "https://a"},
            {"x5c": []},
        ]
        for header in headers:
            self.invalid(token(KEY, header))
        self.valid(token(KEY, {"kid": KID, "x5c": [], "jku": "https://a"}))

    def test_chain(self) -> None:
        """A chain to a trusted certificate certifies the key of its leaf, with intermediates or without."""
        middle = certificate(P384, name="middle", issuer=("root", KEY), authority=True)
        below = certificate(OTHER, name="leaf", issuer=("middle", P384))
        direct = certificate(OTHER, name="leaf", issuer=("root", KEY))
        for chain, key in [((ROOT,), KEY), ((direct,), OTHER), ((below, middle), OTHER)]:
            self.valid(token(key, {"x5c": x5c(*chain)}))
            jwk = encode_jwk(key.public_key(), "k")
            self.valid(token(key, {"jwk": {**jwk, "x5c": x5c(*chain)}}))

    def test_bad_chain(self) -> None:
        """Chains that end elsewhere, are not valid now, pass a certificate without CA rights or are malformed."""
        middle = certificate(P384, name="middle", issuer=("root", KEY), authority=False)
        for chain, key in [
            (x5c(certificate(OTHER)), OTHER),
            (x5c(certificate(OTHER, name="root", authority=True)), OTHER),
            (x5c(certificate(OTHER, issuer=("root", OTHER))), OTHER),
            (x5c(certificate(OTHER, issuer=("root", KEY), days=(-2, -1))), OTHER),
            (x5c(certificate(OTHER, issuer=("root", KEY), days=(1, 2))), OTHER),
            (x5c(certificate(OTHER, issuer=("middle", P384)), middle), OTHER),
            (x5c(certificate(OTHER, issuer=("middle", P384))), OTHER),
            (x5c(ROOT), OTHER),
            (x5c(*[ROOT] * 9), KEY),
            (["%"], KEY),
            (["AAAA"], KEY),
            ([1], KEY),
            ("x", KEY),
            ({}, KEY),
            (0, KEY),
        ]:
            with self.subTest(chain=str(chain)[:40]):
                # The kid is that of a trusted key: x5c and jwk are not skipped for it.
                self.invalid(token(key, {"x5c": chain, "kid": KID}))
                jwk = encode_jwk(key.public_key(), "k")
                self.invalid(token(key, {"jwk": {**jwk, "x5c": chain}}))

    def test_embedded_key(self) -> None:
        """A key in the header counts if it equals a trusted key; other keys and private keys do not."""
        known = encode_jwk(KEY.public_key(), "whatever")
        self.valid(token(KEY, {"jwk": known}))
        stranger = encode_jwk(OTHER.public_key(), KID)
        for jwk in [
            stranger,
            {},
            [],
            "x",
            0,
            {**known, "d": "AA"},
            {**known, "x": "AA"},
            {**known, "crv": []},
        ]:
            with self.subTest(jwk=jwk):
                self.invalid(token(OTHER, {"jwk": jwk, "kid": KID}))
        certified = {**stranger, "x5c": x5c(ROOT)}
        self.invalid(token(OTHER, {"jwk": certified}))

    def test_chain_expires(self) -> None:
        """A key that a chain certifies expires with the first of its certificates."""
        leaf = certificate(OTHER, issuer=("root", KEY), days=(-1, 0.5))
        text = token(OTHER, {"x5c": x5c(leaf)})
        verified = verify_registry_token(text, trusted(ROOT), algorithms=ALGORITHMS, now=NOW)
        self.assertEqual(verified.key_expires, NOW + 43_200)
        named = verify_registry_token(good(), trusted(ROOT), algorithms=ALGORITHMS, now=NOW)
        self.assertEqual(named.key_expires, float("inf"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_HEADERS = st.dictionaries(
    st.sampled_from(["kid", "jwk", "x5c", "typ", "crit", "alg"]),
    _JSON | st.just(KID) | st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "x5c"]), _JSON),
)
_CLAIMS = st.dictionaries(st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "access"]), _JSON)


class HostileTests(RegistryTokenCase):
    """Any input that is not a valid token raises one error and no other."""

    @settings(deadline=None, max_examples=150)
    @given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_=-]*(\.[A-Za-z0-9_=é-]*){2}"))
    def test_any_text(self, text: str) -> None:
        """Any text is invalid."""
        self.assertRaises(InvalidTokenError, self.valid, text)

    @settings(deadline=None, max_examples=150)
    @given(_HEADERS, _CLAIMS)
    def test_any_json(self, header: dict[str, Any], changes: dict[str, Any]) -> None:
        """Any header over any claims is refused, by whomever it is signed."""
        self.invalid(token(OTHER, header, claims(**changes)))
        self.invalid(token(KEY, {"kid": KID}, {**claims(exp=0), **changes, "exp": 0}))
