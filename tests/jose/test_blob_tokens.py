"""Signed URLs that are good, and what signing makes."""

from __future__ import annotations

from typing import Any

import jwt
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import SignatureRefused
from contentcache.jose.blob_tokens import (
    AUDIENCE,
    LEEWAY,
    MAX_LIFETIME,
    SigningKey,
    VerifiedBlobToken,
    normalize_issuer,
    parse_blob_token,
    same_issuer,
    sign_blob_token,
    verify_blob_token,
)
from contentcache.jose.jwk import InvalidJWKError
from contentcache.jose.keyset import parse_key_set
from tests.signer import Signer, b64, keys

NOW = 1_800_000_000.0
ISSUER = "https://registry.example.com"
DIGEST = Digest.of(b"layer")
SIGNER = Signer(ISSUER, "org/app", str(DIGEST), NOW)
KEYS = parse_key_set(SIGNER.jwks())


def judge(text: str, **changes: Any) -> VerifiedBlobToken:
    """All that happens to a token."""
    presented = parse_blob_token(text)
    asked: dict[str, Any] = {
        "issuer": ISSUER,
        "repository": "org/app",
        "digest": DIGEST,
        "now": NOW,
        **changes,
    }
    return verify_blob_token(presented, KEYS.find(presented.kid), **asked)


def signing_keys() -> list[SigningKey]:
    """One of each algorithm."""
    mine = keys()
    return [
        SigningKey("es", "ES256", mine.es),
        SigningKey("ed", "EdDSA", mine.ed),
        SigningKey("rs", "RS256", mine.rs),
    ]


class VerifyTests(SynchronousTestCase):
    """Good tokens, made by hand."""

    def test_what_it_says(self) -> None:
        """A token of each algorithm says who may have what until when."""
        ways = (("ES256", "es", SIGNER.by_es), ("EdDSA", "ed", SIGNER.by_ed), ("RS256", "rs", SIGNER.by_rs))
        for algorithm, kid, way in ways:
            with self.subTest(algorithm=algorithm):
                text = SIGNER.token(SIGNER.header(alg=algorithm, kid=kid), sign=way)
                presented = parse_blob_token(text)
                self.assertEqual(
                    (presented.kid, presented.algorithm, presented.issuer), (kid, algorithm, ISSUER)
                )
                self.assertNotIn(text, repr(presented))
                self.assertEqual(
                    judge(text), VerifiedBlobToken(ISSUER, "jane", "org/app", DIGEST, NOW + 600, kid)
                )

    def test_claims(self) -> None:
        """Whatever is allowed to differ may differ."""
        good = SIGNER.claims()["access"][0]
        other = {"type": "repository", "name": "org/other", "actions": ["pull", "push"]}
        cases: dict[str, dict[str, Any]] = {
            "aud a list": {"aud": ["contentcache"]},
            "aud a list with others": {"aud": ["registry.example.com", "contentcache"]},
            "anonymous": {"sub": ""},
            "beyond ASCII": {"sub": "jané \U0001f433"},
            "unknown claims": {"jti": "x", "more": [{"deep": [1.5, None]}], "context": {"a": {}}},
            "a large number": {"more": 10**40},
            "several entries": {
                "access": [other, good, {"type": "registry", "name": "catalog", "actions": ["*"]}]
            },
            "no actions elsewhere": {"access": [good, {**other, "actions": []}]},
            "several actions": {"access": [{**good, "actions": ["push", "pull"]}]},
            "more in an entry": {"access": [{**good, "class": "image"}]},
            "fractions": {"iat": NOW - 0.25, "nbf": NOW - 0.25, "exp": NOW + 599.75},
            "exactly one hour": {"exp": NOW + 3600},
            "exactly one hour with fractions": {"iat": NOW + 0.1, "exp": NOW + 0.1 + 3600.0},
            "begins before it is issued": {"nbf": NOW - 10},
            "begins at the epoch": {"nbf": 0},
        }
        for name, changes in cases.items():
            with self.subTest(name=name):
                self.assertEqual(judge(SIGNER.saying(**changes)).repository, "org/app")

    def test_headers(self) -> None:
        """``typ`` may be in any case or missing, and members that mean nothing do not matter."""
        for header in (
            {"alg": "ES256", "kid": "es"},
            SIGNER.header(typ="jwt"),
            SIGNER.header(more=[1], iat=7),
        ):
            judge(SIGNER.token(header))

    def test_clocks(self) -> None:
        """A token is good from a minute before it begins until less than a minute after it ends."""
        text = SIGNER.token()
        for moment in (-60, 0, 599, 600, 659.9):
            with self.subTest(moment=moment):
                self.assertEqual(judge(text, now=NOW + moment).expires, NOW + 600)
        for moment in (-60.1, -1e9, 660, 1e9):
            with self.subTest(moment=moment):
                self.assertRaises(SignatureRefused, judge, text, now=NOW + moment)

    def test_sha512(self) -> None:
        """The other registered algorithm's digests can be signed as well."""
        digest = Digest.of(b"layer", "sha512")
        text = SIGNER.saying(digest=str(digest))
        self.assertEqual(judge(text, digest=digest).digest, digest)
        self.assertRaises(SignatureRefused, judge, text)

    def test_only_here(self) -> None:
        """A good token opens no other path and no other origin."""
        text = SIGNER.token()
        for changes in (
            {"repository": "org/ap"},
            {"repository": "org/app/sub"},
            {"repository": "app"},
            {"digest": Digest.of(b"other")},
            {"issuer": "https://other.example.com"},
            {"issuer": "http://registry.example.com"},
            {"issuer": "https://registry.example.com:5000"},
        ):
            with self.subTest(changes=changes):
                self.assertRaises(SignatureRefused, judge, text, **changes)

    def test_order(self) -> None:
        """What is wrong with a claim is only said to whoever has a good signature."""
        forged = SIGNER.token(claims=SIGNER.claims(exp=1, iat=0, nbf=0, digest="x"), sign=lambda _: bytes(64))
        error = self.assertRaises(SignatureRefused, judge, forged)
        self.assertIn("signature", error.message)


class SignTests(SynchronousTestCase):
    """What the origin's half makes."""

    def test_there_and_back(self) -> None:
        """What is signed is good here, and good for a library that never heard of us."""
        for key in signing_keys():
            with self.subTest(key=key):
                text = sign_blob_token(
                    key,
                    issuer=ISSUER,
                    subject="jané",
                    repository="org/app",
                    digest=DIGEST,
                    now=NOW + 0.75,
                    lifetime=300,
                )
                self.assertEqual(
                    judge(text), VerifiedBlobToken(ISSUER, "jané", "org/app", DIGEST, NOW + 300, key.kid)
                )
                claims = jwt.decode(
                    text,
                    key.verification_key().public,
                    [key.algorithm],
                    audience=AUDIENCE,
                    options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
                )
                self.assertEqual(claims["access"], SIGNER.claims()["access"])
                self.assertEqual((claims["iat"], claims["nbf"], claims["exp"]), (NOW, NOW, NOW + 300))
                self.assertEqual(
                    jwt.get_unverified_header(text), {"typ": "JWT", "alg": key.algorithm, "kid": key.kid}
                )
                self.assertNotIn("private", repr(key))

    @settings(deadline=None)
    @given(st.text(max_size=30), st.floats(1, 4e9), st.floats(0, MAX_LIFETIME, exclude_min=True))
    def test_always_good(self, subject: str, now: float, lifetime: float) -> None:
        """Whatever is signed is good from that moment for its lifetime."""
        if not subject.isprintable():
            subject = b64(subject.encode("utf-8", "surrogatepass"))
        text = sign_blob_token(
            signing_keys()[0],
            issuer=ISSUER + "/",
            subject=subject,
            repository="org/app",
            digest=DIGEST,
            now=now,
            lifetime=lifetime,
        )
        for moment in (now, now + lifetime):
            self.assertEqual(judge(text, now=moment).subject, subject)
        self.assertRaises(SignatureRefused, judge, text, now=now + lifetime + 1 + LEEWAY)

    def test_lifetimes(self) -> None:
        """What would be refused is not signed."""
        for lifetime in (0, -1, 3600.5, float("nan"), float("inf")):
            with self.assertRaises(ValueError):
                sign_blob_token(
                    signing_keys()[0],
                    issuer=ISSUER,
                    subject="",
                    repository="org/app",
                    digest=DIGEST,
                    now=NOW,
                    lifetime=lifetime,
                )

    def test_unfit_keys(self) -> None:
        """A key signs with its own algorithm or not at all."""
        for key in (
            SigningKey("es", "EdDSA", keys().es),
            SigningKey("es", "ES256", keys().p384),
            SigningKey("es", "RS256", keys().ed),
            SigningKey("", "ES256", keys().es),
        ):
            with self.subTest(key=key):
                self.assertRaises(InvalidJWKError, key.verification_key)
                with self.assertRaises(ValueError):
                    sign_blob_token(
                        key,
                        issuer=ISSUER,
                        subject="",
                        repository="org/app",
                        digest=DIGEST,
                        now=NOW,
                        lifetime=60,
                    )

    def test_size(self) -> None:
        """The longest names make a token that fits into a request line, with the largest of usual keys."""
        text = sign_blob_token(
            evolve(signing_keys()[2], kid="k" * 256),
            issuer="https://" + "h" * 253,
            subject="s" * 255,
            repository="r" * 255,
            digest=Digest.of(b"", "sha512"),
            now=NOW,
            lifetime=MAX_LIFETIME,
        )
        self.assertEqual(parse_blob_token(text).kid, "k" * 256)
        self.assertLess(len(text), 4096)


class IssuerTests(SynchronousTestCase):
    """When two URLs are one origin's."""

    def test_table(self) -> None:
        """A slash at the end, case, and the scheme's own port make no difference; all else does."""
        for a, b, same in (
            ("https://a.example", "https://a.example/", True),
            ("https://a.example", "HTTPS://A.Example:443/", True),
            ("https://a.example", "https://a.example:", True),
            ("http://a.example:80", "http://a.example", True),
            ("https://[::1]:5000", "https://[::1]:5000/", True),
            ("https://[FE80::1]", "https://[fe80::1]:443", True),
            ("tests", "tests", True),
            ("https://a.example", "http://a.example", False),
            ("https://a.example", "https://a.example:80", False),
            ("https://a.example", "https://a.example//", False),
            ("https://a.example", "https://a.example/x", False),
            ("https://a.example/x", "https://a.example/X", False),
            ("https://a.example", "https://a.example?", False),
            ("https://a.example", "https://a.example#x", False),
            ("https://a.example", "https://x@a.example", False),
            ("https://a.example", " https://a.example", False),
            ("https://a.example", "https://a.example\n", False),
            ("https://k.example", "https://\u212a.example", False),
            ("https://a.example", "a.example", False),
            ("https://a.example", "", False),
        ):
            with self.subTest(a=a, b=b):
                self.assertIs(same_issuer(a, b), same)
                self.assertIs(same_issuer(b, a), same)

    @example("a.example//")
    @given(st.text(max_size=30) | st.text("htps:/[]@.1A \n", max_size=30))
    def test_any_text(self, text: str) -> None:
        """Any text has one spelling, which is its own."""
        for url in (text, "https://" + text):
            self.assertEqual(normalize_issuer(normalize_issuer(url)), normalize_issuer(url))
