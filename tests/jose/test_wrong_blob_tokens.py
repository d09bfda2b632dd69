"""Wrong tokens, each kind of them, and no kind at all: nothing but a refusal comes of any."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import SignatureRefused
from contentcache.jose.blob_tokens import VerifiedBlobToken, parse_blob_token, verify_blob_token
from contentcache.jose.keyset import UnknownKeyError, parse_key_set
from tests.signer import Signer
from tests.wrong_tokens import ALGORITHMS, WRONG

NOW = 1_800_000_000.0
DIGEST = Digest.of(b"layer")
SIGNER = Signer("https://registry.example.com", "org/app", str(DIGEST), NOW)
KEYS = parse_key_set(SIGNER.jwks())

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["contentcache", "repository", "org/app", "pull", "ES256", "es", str(DIGEST), NOW]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "name", "actions", "kid"]) | st.text(max_size=4), inner, max_size=4
        )
    ),
    max_leaves=8,
)
_CLAIMS = st.dictionaries(st.sampled_from([*SIGNER.claims(), "jti"]), _JSON)
_HEADER = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "jwk", "crit", "cty", "more"]), _JSON)


def judge(text: str) -> VerifiedBlobToken:
    """All that happens to a token."""
    presented = parse_blob_token(text)
    return verify_blob_token(
        presented,
        KEYS.find(presented.kid),
        issuer=SIGNER.issuer,
        repository=SIGNER.repository,
        digest=DIGEST,
        now=NOW,
    )


class WrongTests(SynchronousTestCase):
    """The table of wrong tokens."""

    def refused(self, text: str) -> SignatureRefused:
        """Judge a token that is refused, and look at what the client is told."""
        error: SignatureRefused = self.assertRaises(SignatureRefused, judge, text)
        self.assertEqual((error.code, error.status, error.detail, error.headers), ("DENIED", 403, None, {}))
        self.assertIn("ask the origin for the blob again", error.message)
        self.assertTrue(error.message.isprintable())
        self.assertLess(len(error.message), 200)
        for part in re.findall(r"[\w-]{12,}", text):
            self.assertNotIn(part, repr(error))
        return error

    def test_good_one(self) -> None:
        """What the wrong ones deviate from is good."""
        self.assertEqual(judge(SIGNER.token()).subject, "jane")

    def test_table(self) -> None:
        """Every kind is refused with 403 and one sentence that holds nothing of it."""
        self.assertGreaterEqual(len(WRONG), 250)
        for name, make in WRONG.items():
            with self.subTest(name=name):
                self.refused(make(SIGNER))

    def test_unknown_key(self) -> None:
        """A key that is not there, or twice, is told apart from all other faults."""
        lookups = {
            name for name, make in WRONG.items() if isinstance(self.refused(make(SIGNER)), UnknownKeyError)
        }
        self.assertEqual(
            lookups,
            {
                "ES256 with P-384",
                "kid 'ES'",
                "kid '../es'",
                "kid 'unknown'",
                "kid that is there twice, first",
                "kid that is there twice, second",
            },
        )

    def test_key_of_the_caller(self) -> None:
        """A token is never verified with another key than the one it names, even if the caller errs."""
        for make in (Signer.token, *ALGORITHMS.values()):
            text = make(SIGNER)
            for key in KEYS.keys.values():
                if make is Signer.token and key.kid == "es":
                    continue
                with self.assertRaises(SignatureRefused):
                    verify_blob_token(
                        parse_blob_token(text),
                        key,
                        issuer=SIGNER.issuer,
                        repository=SIGNER.repository,
                        digest=DIGEST,
                        now=NOW,
                    )

    @settings(deadline=None, max_examples=300)
    @given(st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        """A good token with letters changed, left out or put in is refused, and nothing else comes of it."""
        good = SIGNER.token()
        start = data.draw(st.integers(0, len(good)))
        stop = data.draw(st.integers(start, min(len(good), start + 8)))
        into = data.draw(st.text(max_size=4) | st.text("AQgw-_.= ", max_size=4))
        text = good[:start] + into + good[stop:]
        if text != good:
            self.refused(text)

    @settings(deadline=None)
    @given(st.text(max_size=60) | st.text("eyJ0.e30_-", max_size=60))
    def test_any_text(self, text: str) -> None:
        """Any text is refused."""
        self.refused(text)

    @settings(deadline=None)
    @given(st.binary(max_size=60), st.binary(max_size=60))
    def test_any_bytes(self, header: bytes, claims: bytes) -> None:
        """Any bytes are refused, even where they are well signed."""
        self.refused(SIGNER.raw(header, claims))

    @settings(deadline=None, max_examples=300)
    @given(_HEADER, _CLAIMS)
    def test_any_json(self, header: dict[str, Any], claims: dict[str, Any]) -> None:
        """Any values in header and claims, well signed, are refused, or say what a good token says."""
        text = SIGNER.token(SIGNER.header(**header), SIGNER.claims(**claims))
        try:
            signed = judge(text)
        except SignatureRefused:
            return
        said = json.loads(json.dumps(SIGNER.claims(**claims)))
        self.assertEqual(
            (signed.issuer, signed.subject, signed.repository, signed.digest),
            (SIGNER.issuer, said["sub"], SIGNER.repository, DIGEST),
        )
        self.assertTrue(said["iat"] - 60 <= NOW < said["exp"] + 60 <= said["iat"] + 3660)
