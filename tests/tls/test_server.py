"""Tests for ``contentcache.tls.server``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import ClientAuth, ServerTLS
from contentcache.core.ciphersuites import OPENSSL_NAMES, TLS13
from contentcache.tls.files import TLSConfigurationError
from contentcache.tls.server import ServerContext
from tests.tls.certificates import Made, make
from tests.tls.handshakes import Handshake, PlainClient

VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)


class ServerContextTests(SynchronousTestCase):
    """Handshakes with the daemon's own port."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        self.authority = make("authority", authority=True)
        self.server = make("server", signed_by=self.authority, hosts=("cache.example",))
        self.certificate, self.key = self.server.write(self.folder, "server")

    def settings(self, **more: Any) -> ServerTLS:
        """Settings with the server's own files."""
        return ServerTLS(**{"certificate": self.certificate, "key": self.key, **more})

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are supported, versions below the minimum are not."""
        for minimum, version, expected in [
            ("tls1.2", SSL.TLS1_1_VERSION, False),
            ("tls1.2", SSL.TLS1_2_VERSION, True),
            ("tls1.2", SSL.TLS1_3_VERSION, True),
            ("tls1.3", SSL.TLS1_2_VERSION, False),
            ("tls1.3", SSL.TLS1_3_VERSION, True),
            ("tls1.0", SSL.TLS1_VERSION, True),
            ("tls1.1", SSL.TLS1_1_VERSION, True),
        ]:
            with self.subTest(minimum=minimum, version=version):
                client = PlainClient(version)
                client.context.set_cipher_list(b"ALL:@SECLEVEL=0")
                server = ServerContext(self.settings(minimumtls=minimum))
                self.assertIs(expected, Handshake(client, server).succeeded)

    def test_chain_is_sent(self) -> None:
        """All certificates of the file are sent to the client, the leaf first."""
        Path(self.certificate).write_bytes(self.server.pem + b"text between\n" + self.authority.pem)
        met = Handshake(PlainClient(), ServerContext(self.settings()))
        chain = met.client_connection.get_peer_cert_chain(as_cryptography=True)
        self.assertEqual([self.server.certificate, self.authority.certificate], chain)

    def test_one_file(self) -> None:
        """Certificate and key may be in one file, in either order, other PEM blocks around them."""
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        for content in (
            self.server.pem + self.server.key_pem(),
            parameters + self.server.key_pem() + self.server.pem,
        ):
            Path(self.certificate).write_bytes(content)
            context = ServerContext(self.settings(key=self.certificate))
            self.assertTrue(Handshake(PlainClient(), context).succeeded)

    def test_cipher_suites(self) -> None:
        """Go's names select suites, those of TLS 1.3 too; a list narrows only the version that it has suites of."""
        aes_1_2, aes_1_3 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"
        for suites, version, expected in [
            ((aes_1_2,), SSL.TLS1_2_VERSION, "ECDHE-ECDSA-AES256-GCM-SHA384"),
            ((aes_1_2,), SSL.TLS1_3_VERSION, aes_1_3),
            ((aes_1_2, aes_1_3), SSL.TLS1_3_VERSION, aes_1_3),
            ((aes_1_3,), SSL.TLS1_3_VERSION, aes_1_3),
            ((aes_1_3,), SSL.TLS1_2_VERSION, None),
        ]:
            with self.subTest(suites=suites, version=version):
                met = Handshake(PlainClient(version), ServerContext(self.settings(ciphersuites=suites)))
                self.assertEqual(expected, met.client_connection.get_cipher_name() if met.succeeded else None)

    def test_cheapest_cipher_suite(self) -> None:
        """
        Of what both have, AES with the shorter key is taken whatever the order of either list, ChaCha20 where
        the client puts it first.
        """
        older = (
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        )
        listed = tuple(name for name, openssl in OPENSSL_NAMES.items() if openssl in {*older, *TLS13})
        for version, names in ((SSL.TLS1_2_VERSION, older), (SSL.TLS1_3_VERSION, TLS13)):
            aes, longer, chacha = names
            for offered, expected in (((longer, aes, chacha), aes), ((chacha, longer, aes), chacha)):
                for suites in ((), listed, listed[::-1]):
                    with self.subTest(offered=offered, suites=suites):
                        client = PlainClient(version)
                        text = ":".join(offered).encode("ascii")
                        if names is TLS13:
                            client.context.set_tls13_ciphersuites(text)
                        else:
                            client.context.set_cipher_list(text)
                        met = Handshake(client, ServerContext(self.settings(ciphersuites=suites)))
                        self.assertEqual(met.client_connection.get_cipher_name(), expected)

    def test_no_suite_left(self) -> None:
        """A list without any suite of OpenSSL is an error with its names."""
        error = self.assertRaises(
            TLSConfigurationError, ServerContext, self.settings(ciphersuites=("TLS_RSA_WITH_RC4_128_SHA",))
        )
        self.assertIn("TLS_RSA_WITH_RC4_128_SHA", error.message)

    def test_alpn(self) -> None:
        """http/1.1 is chosen where it is offered or nothing is; a client of h2 only is told that it cannot."""
        server = ServerContext(self.settings())
        for version in VERSIONS:
            for offered, expected in [
                ([b"h2"], None),
                (None, b""),
                ([b"http/1.1"], b"http/1.1"),
                ([b"h2", b"http/1.1"], b"http/1.1"),
            ]:
                with self.subTest(version=version, offered=offered):
                    met = Handshake(PlainClient(version, offered), server)
                    if expected is None:
                        self.assertFalse(met.succeeded)
                        assert met.client.reason is not None
                        assert met.server.reason is not None
                        self.assertIsInstance(met.server.reason.value, SSL.Error)
                        self.assertIn("no application protocol", str(met.client.reason.value))
                    else:
                        self.assertTrue(met.succeeded)
                        self.assertEqual(expected, met.client_connection.get_alpn_proto_negotiated())

    def test_no_renegotiation(self) -> None:
        """A client cannot make the server repeat the expensive part of a handshake."""
        met = Handshake(PlainClient(SSL.TLS1_2_VERSION), ServerContext(self.settings()))
        self.assertTrue(met.succeeded)
        met.client_connection.renegotiate()
        self.assertRaises(SSL.Error, self._renegotiated, met)

    def _renegotiated(self, met: Handshake) -> None:
        for _ in range(10):
            try:
                met.client_connection.do_handshake()
            except SSL.WantReadError:
                met.client_tls._flushSendBIO()
                met.pump()
            if met.client.reason is not None:
                met.client.reason.raiseException()

    def shown(self, name: str, identity: Made | None, version: int) -> PlainClient:
        """A client with a certificate, or without."""
        client = PlainClient(version)
        if identity is not None:
            client.context.use_certificate(identity.certificate)
            client.context.use_privatekey(identity.key)
        return client

    def test_client_certificates(self) -> None:
        """The four values of ``clientauth`` mean what they mean in Go, with both versions."""
        cas, _ = self.authority.write(self.folder, "cas")
        other = make("other", authority=True)
        clients: dict[str, Made | None] = {
            "none": None,
            "good": make("good", signed_by=self.authority, client=True),
            "stranger": make("stranger", signed_by=other, client=True),
            "expired": make("expired", signed_by=self.authority, client=True, expired=True),
            "server's": make("server's", signed_by=self.authority),
            "own": make("own", client=True),
        }
        welcome: dict[ClientAuth, set[str]] = {
            "request-client-cert": set(clients),
            "require-any-client-cert": set(clients) - {"none"},
            "verify-client-cert-if-given": {"none", "good"},
            "require-and-verify-client-cert": {"good"},
        }
        for demand, names in welcome.items():
            server = ServerContext(self.settings(clientcas=(cas,), clientauth=demand))
            for version in VERSIONS:
                for name, identity in clients.items():
                    with self.subTest(demand=demand, version=version, client=name):
                        met = Handshake(self.shown(name, identity, version), server)
                        self.assertEqual(name in names, met.succeeded)

    def test_client_leaf_is_an_anchor(self) -> None:
        """A client's own certificate in ``clientcas`` is enough, self-signed or of an unknown issuer."""
        for identity in (
            make("own", client=True),
            make("leaf", signed_by=make("unknown", authority=True), client=True),
        ):
            cas, _ = identity.write(self.folder, "leaf")
            server = ServerContext(self.settings(clientcas=(cas,)))
            self.assertTrue(Handshake(self.shown("leaf", identity, SSL.TLS1_3_VERSION), server).succeeded)

    def test_clientauth_without_clientcas(self) -> None:
        """Without authorities no certificate is requested, as in the registry."""
        server = ServerContext(self.settings(clientauth="require-any-client-cert"))
        self.assertTrue(Handshake(PlainClient(), server).succeeded)

    def test_resumption_with_client_certificate(self) -> None:
        """A session of a client with a certificate is resumed, not refused, and keeps the certificate."""
        cas, _ = self.authority.write(self.folder, "cas")
        good = make("good", signed_by=self.authority, client=True)
        server = ServerContext(self.settings(clientcas=(cas,)))
        for version in VERSIONS:
            client = self.shown("good", good, version)
            first = Handshake(client, server)
            client.session = first.client_connection.get_session()
            second = Handshake(client, server)
            self.assertTrue(second.succeeded)
            if version == SSL.TLS1_2_VERSION:  # in TLS 1.3 a resumed session has new secrets
                self.assertEqual(first.client_connection.master_key(), second.client_connection.master_key())
            self.assertEqual(
                good.certificate, second.server_connection.get_peer_certificate(as_cryptography=True)
            )

    def test_reload(self) -> None:
        """New connections use the new certificate, open ones are not affected."""
        server = ServerContext(self.settings())
        before = Handshake(PlainClient(), server)
        renewed = make("renewed", signed_by=self.authority, hosts=("cache.example",))
        renewed.write(self.folder, "server")
        server.reload()
        after = Handshake(PlainClient(), server)
        got = after.client_connection.get_peer_certificate(as_cryptography=True)
        self.assertEqual(renewed.certificate, got)
        before.client_tls.write(b", still here")
        before.pump()
        self.assertTrue(before.server.received.endswith(b"still here"))

    def test_shown_elsewhere(self) -> None:
        """Another port can use the same certificate, without its key file."""
        server = ServerContext(self.settings())
        os.unlink(self.settings().key)
        other = ServerContext(self.settings(), server.identity)
        got = Handshake(PlainClient(), other).client_connection.get_peer_certificate(as_cryptography=True)
        self.assertEqual(got, server.identity.chain[0])
        self.assertRaises(TLSConfigurationError, other.reload)
        self.assertTrue(Handshake(PlainClient(), other).succeeded)

    def test_broken_files(self) -> None:
        """An unusable file is an error that names it; after a reload the old certificate stays in use."""
        other = make("other")
        garbage = b"-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n"
        broken_key = b"-----BEGIN PRIVATE KEY-----\nZm9v\n-----END PRIVATE KEY-----\n"
        for path, content, sentence in [
            (self.certificate, None, "cannot be read: No such file"),
            (self.certificate, b"", "holds no certificate"),
            (self.certificate, b"\x00\xff" * 100, "holds no certificate"),
            (self.certificate, garbage, "is damaged"),
            (self.key, None, "cannot be read: No such file"),
            (self.key, b"nonsense", "holds no private key"),
            (self.key, broken_key, "is damaged"),
            (self.key, other.key_pem(), "is not the key of"),
            (self.key, self.server.key_pem(b"secret"), "is encrypted"),
            (self.key, b"x" * (9 << 20), "too large"),
        ]:
            with self.subTest(path=path, sentence=sentence):
                self.server.write(self.folder, "server")
                server = ServerContext(self.settings())
                if content is None:
                    Path(path).unlink()
                else:
                    Path(path).write_bytes(content)
                for attempt in (server.reload, lambda: ServerContext(self.settings())):
                    error = self.assertRaises(TLSConfigurationError, attempt)
                    self.assertEqual(path, error.path)
                    self.assertTrue(error.message.startswith(path), error.message)
                    self.assertIn(sentence, error.message)
                self.assertTrue(Handshake(PlainClient(), server).succeeded)

    def test_broken_clientcas(self) -> None:
        """An unusable file of authorities is an error too: no client is accepted by mistake."""
        missing = str(Path(self.folder) / "missing.pem")
        error = self.assertRaises(TLSConfigurationError, ServerContext, self.settings(clientcas=(missing,)))
        self.assertIn(missing, error.message)
