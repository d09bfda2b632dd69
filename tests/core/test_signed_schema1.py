"""The payload of signed manifests."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.signed_schema1 import signed_payload

PAYLOAD = b'{\n   "schemaVersion": 1,\n   "name": "org/app"\n}'


def encode(data: bytes) -> str:
    """Base64url as JOSE has it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: bytes = PAYLOAD, *, length: int | None = None, copies: int = 1) -> bytes:
    """A manifest with signatures put in before its last bracket, as libtrust does."""
    kept = payload[:-2]
    header = {"formatLength": len(kept) if length is None else length, "formatTail": encode(payload[-2:])}
    signature = {
        "header": {"alg": "ES256"},
        "signature": "eA",
        "protected": encode(json.dumps(header).encode()),
    }
    return kept + b',\n   "signatures": ' + json.dumps([signature] * copies).encode() + b"\n}"


class SignedPayloadTests(SynchronousTestCase):
    """What the digest is of."""

    def test_round(self) -> None:
        """The bytes that were there before they were signed, however often."""
        self.assertEqual([signed_payload(signed(copies=copies)) for copies in (1, 2)], [PAYLOAD] * 2)

    def test_none(self) -> None:
        """What has no signatures, or such as lead nowhere, has none; nothing is raised."""
        for manifest in (
            PAYLOAD,
            b"",
            b"[]",
            b'{"signatures": []}',
            b'{"signatures": 1}',
            b'{"signatures": [{"protected": "!"}]}',
            b'{"signatures": [{"protected": 5}]}',
            b'{"signatures": [{"protected": "%s"}]}' % encode(b'{"formatLength": "1"}').encode(),
            b'{"signatures": [{"protected": "%s"}]}' % encode(b"[]").encode(),
            signed(length=-1),
            signed(length=10**9),
        ):
            self.assertIsNone(signed_payload(manifest), manifest)

    @given(st.binary(max_size=100))
    def test_rubbish(self, rubbish: bytes) -> None:
        """Rubbish raises nothing."""
        signed_payload(rubbish)
        signed_payload(b'{"signatures": [{"protected": "%s"}]}' % encode(rubbish).encode())
