"""
Tests for ``timing``, ``problems`` and ``account_key`` of :mod:`contentcache.acme`.
"""

from __future__ import annotations

import doctest
import hashlib
import json

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme import certificate, errors, timing
from contentcache.acme.account import AccountKey
from contentcache.acme.certificate import RenewalWindow, Validity, certificate_id, parse_renewal_window
from contentcache.acme.errors import parse_problem
from contentcache.acme.timing import AFTER_NO, AFTER_SILENCE, AFTER_WASTE, pause_after
from tests.acme.server import decoded
from tests.tls.certificates import make

_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["type", "detail", "subproblems", "x"]), inner)
    ),
)


class TimingTests(SynchronousTestCase):
    """
    When.
    """

    @given(st.floats(1, 1e9), st.floats(0, 1))
    def test_third(self, length: float, share: float) -> None:
        """
        Without a suggestion renewal is a third of the life before its end, or up to a thirtieth earlier.
        """
        left = 1 - Validity(0.0, length, share).renewal_time() / length
        self.assertTrue(1 / 3 - 1e-6 <= left <= 1 / 3 + 1 / 30 + 1e-6, left)

    def test_suggested(self) -> None:
        """
        A suggestion counts, but for one that is too late.
        """
        for window, due in (
            (RenewalWindow(10, 20), 15.0),
            (RenewalWindow(-5, -3), -4.0),
            (RenewalWindow(96, 98), 95.0),
        ):
            self.assertEqual(Validity(0.0, 100.0, 0.5).renewal_time(window), due)

    def test_windows(self) -> None:
        """
        Renewal information that makes no sense is none.
        """
        for start, end in (
            ("2026-01-01T00:00:00Z", 5),
            ("soon", "late"),
            ("2026-01-01T00:00:00", "2026-01-02"),
        ):
            self.assertIsNone(parse_renewal_window({"suggestedWindow": {"start": start, "end": end}}))
        self.assertIsNone(parse_renewal_window({}))

    def test_pauses(self) -> None:
        """
        They grow to six hours, more slowly where the server counts, and shrink when the end is near.
        """
        for failures, pace, asked, left, pause in (
            (1, AFTER_NO, None, None, 60.0),
            (5, AFTER_NO, None, None, 960.0),
            (10**9, AFTER_SILENCE, None, None, 21600.0),
            (20, AFTER_SILENCE, None, 8000.0, 1000.0),
            (20, AFTER_NO, None, 8.0, 60.0),
            (20, AFTER_NO, None, -8.0, 21600.0),
            (1, AFTER_NO, 86400.0, 100.0, 86400.0),
            (1, AFTER_WASTE, None, 8e6, 3600.0),
            (3, AFTER_WASTE, None, 8e6, 14400.0),
            (3, AFTER_WASTE, None, 8.0, 10.0),
        ):
            self.assertEqual(pause_after(failures, 0.0, pace, asked=asked, left=left), pause)
        self.assertEqual(pause_after(1, 1.0, AFTER_SILENCE, asked=None, left=None), 12.0)

    def test_no_name(self) -> None:
        """
        A certificate that does not say who signed it has no name for renewal.
        """
        self.assertIsNone(certificate_id(make("a").certificate))


class ProblemTests(SynchronousTestCase):
    """
    Words of servers.
    """

    @given(_JSON)
    def test_anything(self, document: object) -> None:
        """
        Whatever a server says becomes one printable line.
        """
        said = str(parse_problem(document))
        self.assertTrue(said.isprintable())

    def test_remedies(self) -> None:
        """
        What to do may be known of a part of the problem only.
        """
        prefix = "urn:ietf:params:acme:error:"
        document = {
            "type": prefix + "compound",
            "detail": "two\nthings",
            "subproblems": [{"type": "x"}, {"type": prefix + "caa", "detail": "CAA forbids"}],
        }
        problem = parse_problem(document)
        self.assertEqual(str(problem), "two things (compound): x; CAA forbids (caa)")
        self.assertIn("CAA", problem.remedy)


class KeyTests(SynchronousTestCase):
    """
    Signatures.
    """

    def test_rsa(self) -> None:
        """
        An RSA key signs with RS256.
        """
        theirs = rsa.generate_private_key(65537, 2048)
        key = AccountKey.from_pem(theirs.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        signed = json.loads(key.sign("https://a/", None, "n", "https://a/1"))
        self.assertEqual(signed["payload"], "")
        head = json.loads(decoded(signed["protected"]))
        self.assertEqual(head, {"alg": "RS256", "nonce": "n", "url": "https://a/", "kid": "https://a/1"})
        content = f"{signed['protected']}.".encode()
        theirs.public_key().verify(decoded(signed["signature"]), content, padding.PKCS1v15(), SHA256())

    def test_thumbprint(self) -> None:
        """
        Challenges are answered with the SHA-256 of the key's required members, sorted (RFC 7638 §3).
        """
        key = AccountKey.generate()
        members = json.dumps(key.jwk(), sort_keys=True, separators=(",", ":")).encode()
        self.assertEqual(set(key.jwk()), {"crv", "kty", "x", "y"})
        self.assertEqual(key.thumbprint(), hashlib.sha256(members).digest())

    def test_examples(self) -> None:
        """
        The examples in the documentation hold.
        """
        for module in (certificate, errors, timing):
            self.assertEqual(doctest.testmod(module).failed, 0)
