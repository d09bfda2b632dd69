"""Tests for :mod:`contentcache.config.files`."""

from __future__ import annotations

import os

from contentcache.config import files
from contentcache.config.model import Account
from tests.config.writing import ConfigurationTestCase, with_options, with_upstream
from tests.tls.certificates import make


class CertificatesTests(ConfigurationTestCase):
    """The option ``cas``."""

    def test_read(self) -> None:
        """A bundle, and a leaf alone, are taken by their whole paths."""
        bundle = self.write(make("one").pem + b"between\n" + make("two").pem)
        leaf = self.write(make("leaf").pem)
        found = self.downstream(f"upstreams: ['https://a.example']\ncas: [{bundle}, {leaf}]")
        self.assertEqual(found.cas, (bundle, leaf))

    def test_refused(self) -> None:
        """Every file that cannot serve is named, each at its own place."""
        folder = os.path.dirname(self.write(b""))
        pem = make("ca").pem
        broken = {
            "ca.pem": "relative",
            folder + "/nope.pem": "No such file",
            folder: "is not a file",
            "/dev/null": "is not a file",
            self.write(b""): "does not hold certificates",
            self.write(b"\x00\xff garbage"): "does not hold certificates",
            self.write(pem[:-60]): "does not hold certificates",
            self.write(pem + pem.replace(b"MII", b"AAA", 1)): "does not hold certificates",
            "/" + "a" * 5000: "cannot be read",
        }
        listed = "".join(f"\n  - {path}" for path in broken)
        faults = self.faults(with_options("upstreams: ['https://a.example']\ncas:" + listed))
        self.assertEqual(len(faults), len(broken))
        for index, (fault, words) in enumerate(zip(faults, broken.values(), strict=True)):
            self.assertEqual(fault.path, f"middleware.registry[0].options.cas[{index}]")
            self.assertEqual(fault.line, 10 + index)
            self.assertIn(words, fault.message)

    def test_not_a_list(self) -> None:
        """One path alone is a fault with a hint."""
        fault = self.only_fault(with_options("upstreams: ['https://a.example']\ncas: /ca.pem"))
        self.assertEqual(fault.message, "'/ca.pem' is not a list; put it in brackets: [...]")

    def test_too_large(self) -> None:
        """A file that never ends is not read to its end."""
        self.patch(files, "LARGEST", 100)
        fault = self.only_fault(
            with_options(f"upstreams: ['https://a.example']\ncas: [{self.write(make('ca').pem)}]")
        )
        self.assertIn("larger than 100 bytes", fault.message)


class PairTests(ConfigurationTestCase):
    """Client certificates of upstreams."""

    def test_read(self) -> None:
        """A pair that fits is taken."""
        made = make("client")
        certificate, key = self.write(made.pem), self.write(made.key_pem())
        upstream = self.upstream(f"certificate: {certificate}\nkey: {key}")
        self.assertEqual((upstream.certificate, upstream.key), (certificate, key))

    def test_half(self) -> None:
        """Half a pair is a fault that names the other half."""
        path = self.write(make("client").pem)
        fault = self.only_fault(with_upstream(f"certificate: {path}"))
        self.assertEqual(fault.path, "middleware.registry[0].options.upstreams[0].key")


class PasswordTests(ConfigurationTestCase):
    """The key ``passwordfile``."""

    def test_read(self) -> None:
        """One newline at the end is not part of the password."""
        for content in (b"pass word", b"pass word\n", b"pass word\r\n"):
            upstream = self.upstream(f"public: true\nusername: u\npasswordfile: {self.write(content)}")
            self.assertEqual(upstream.account, Account("u", "pass word"))

    def test_refused(self) -> None:
        """A file without one line of text is a fault that does not repeat it."""
        for content in (b"", b"\n", b"topsecret\n\n", b"topsecret\nb\n", b"topsecret\xff", b"topsecret\x00"):
            path = self.write(content)
            fault = self.only_fault(with_upstream(f"public: true\nusername: u\npasswordfile: {path}"))
            self.assertEqual(fault.path, "middleware.registry[0].options.upstreams[0].passwordfile")
            self.assertNotIn("topsecret", fault.message)
        fault = self.only_fault(with_upstream("public: true\nusername: u\npasswordfile: /nope"))
        self.assertEqual(fault.message, "'/nope' cannot be read: No such file or directory")
