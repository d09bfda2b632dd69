"""Tests for :mod:`contentcache.acme.certificate`."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme import backoff, certificate, errors
from contentcache.acme.certificate import RenewalWindow, Validity, certificate_id, parse_renewal_window
from tests.tls.certificates import make


class CertificateTests(SynchronousTestCase):
    """When a certificate is renewed, and how renewal information names it."""

    @given(st.floats(1, 1e9), st.floats(0, 1))
    def test_third(self, length: float, share: float) -> None:
        """Without a window renewal is at a third of the lifetime before its end, or up to a thirtieth earlier."""
        left = 1 - Validity(0.0, length, share).renewal_time() / length
        self.assertTrue(1 / 3 - 1e-6 <= left <= 1 / 3 + 1 / 30 + 1e-6, left)

    def test_suggested(self) -> None:
        """The suggested window counts, unless it is too late."""
        for window, due in (
            (RenewalWindow(10, 20), 15.0),
            (RenewalWindow(-5, -3), -4.0),
            (RenewalWindow(96, 98), 95.0),
        ):
            self.assertEqual(Validity(0.0, 100.0, 0.5).renewal_time(window), due)

    def test_windows(self) -> None:
        """Malformed renewal information is none."""
        for start, end in (
            ("2026-01-01T00:00:00Z", 5),
            ("soon", "late"),
            ("2026-01-01T00:00:00", "2026-01-02"),
        ):
            self.assertIsNone(parse_renewal_window({"suggestedWindow": {"start": start, "end": end}}))
        self.assertIsNone(parse_renewal_window({}))

    def test_no_name(self) -> None:
        """A certificate without an authority key identifier has no identifier for renewal information."""
        self.assertIsNone(certificate_id(make("a").certificate))

    def test_examples(self) -> None:
        """The examples in the documentation hold."""
        for module in (backoff, certificate, errors):
            self.assertEqual(doctest.testmod(module).failed, 0)
