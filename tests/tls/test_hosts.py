"""Tests for :mod:`contentcache.tls.hosts`."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.files import Identity, TLSConfigurationError
from contentcache.tls.hosts import HostContexts
from contentcache.tls.selfsigned import ACME_IDENTIFIER, challenge_certificate, placeholder_certificate
from tests.tls.certificates import make
from tests.tls.handshakes import Handshake, PlainClient

NOW = datetime.now(UTC)
VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)
DIGEST = sha256(b"key authorization").digest()


class Named(PlainClient):
    """A client that asks for a host."""

    def __init__(self, version: int, host: bytes | None, protocols: list[bytes] | None = None) -> None:
        super().__init__(version, protocols)
        self._host = host

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = super().clientConnectionForTLS(tlsProtocol)
        if self._host is not None:
            connection.set_tlsext_host_name(self._host)
        return connection


class HostContextsTests(SynchronousTestCase):
    """Certificates selected by SNI, and challenges."""

    def setUp(self) -> None:
        self.first, self.second = (placeholder_certificate(host, NOW) for host in ("a.example", "b.example"))

    def contexts(self, **more: Any) -> HostContexts:
        """A port of two hosts."""
        return HostContexts(ServerTLS(**more), {"a.example": self.first, "b.example": self.second})

    def shown(self, met: Handshake) -> x509.Certificate:
        """What the client received."""
        certificate = met.client_connection.get_peer_certificate()
        assert certificate is not None
        return certificate.to_cryptography()

    def test_by_name(self) -> None:
        """Each host has its own certificate; without SNI, or for an unknown name, the first host's is used."""
        contexts = self.contexts()
        for version in VERSIONS:
            for name, identity in (
                (b"a.example", self.first),
                (b"B.Example", self.second),
                (b"c.example", self.first),
                (None, self.first),
            ):
                met = Handshake(Named(version, name, [b"h2", b"http/1.1"]), contexts)
                self.assertTrue(met.succeeded, (version, name))
                self.assertEqual(self.shown(met), identity.chain[0])
                self.assertEqual(met.client_connection.get_alpn_proto_negotiated(), b"http/1.1")

    def test_install(self) -> None:
        """A new certificate is used for new connections, also without SNI; open ones are not affected."""
        contexts = self.contexts()
        before = Handshake(Named(SSL.TLS1_3_VERSION, b"a.example"), contexts)
        new = placeholder_certificate("a.example", NOW)
        contexts.install("a.example", new)
        for version in VERSIONS:
            for name in (b"a.example", None):
                self.assertEqual(self.shown(Handshake(Named(version, name), contexts)), new.chain[0])
        before.client_tls.write(b", still here")
        before.pump()
        self.assertEqual(before.server.received, b"hello from the client, still here")

    def test_challenge(self) -> None:
        """``acme-tls/1`` alone gets the proof, in both versions of TLS; everybody else what they always get."""
        contexts = self.contexts()
        proof = challenge_certificate("b.example", DIGEST, NOW)
        contexts.answer_challenge("b.example", proof)
        for version in VERSIONS:
            met = Handshake(Named(version, b"b.example", [b"acme-tls/1"]), contexts)
            self.assertEqual(met.client_connection.get_alpn_proto_negotiated(), b"acme-tls/1")
            shown = self.shown(met)
            self.assertEqual(shown, proof.chain[0])
            found = shown.extensions.get_extension_for_oid(ACME_IDENTIFIER)
            self.assertTrue(found.critical)
            assert isinstance(found.value, x509.UnrecognizedExtension)
            self.assertEqual(found.value.value, b"\x04\x20" + DIGEST)
            for name, protocols in (
                (b"b.example", [b"acme-tls/1", b"http/1.1"]),
                (b"b.example", [b"http/1.1"]),
                (b"b.example", []),
                (b"a.example", []),
            ):
                met = Handshake(Named(version, name, protocols), contexts)
                self.assertTrue(met.succeeded, (version, name, protocols))
                self.assertNotEqual(self.shown(met), proof.chain[0])
            met = Handshake(Named(version, b"a.example", [b"acme-tls/1"]), contexts)
            self.assertFalse(met.succeeded)
        contexts.remove_challenge("b.example")
        over = Named(SSL.TLS1_3_VERSION, b"b.example", [b"acme-tls/1"])
        self.assertFalse(Handshake(over, contexts).succeeded)

    def test_shown_elsewhere(self) -> None:
        """Another port can use the same certificates and challenges: it is notified of each change."""
        contexts, other = self.contexts(), self.contexts()
        contexts.changed = lambda: other.update(contexts.identities, contexts.challenges)
        new, proof = (
            placeholder_certificate("a.example", NOW),
            challenge_certificate("b.example", DIGEST, NOW),
        )
        contexts.install("a.example", new)
        contexts.answer_challenge("b.example", proof)
        named, challenge = Named(SSL.TLS1_3_VERSION, b"a.example"), [b"acme-tls/1"]
        self.assertEqual(self.shown(Handshake(named, other)), new.chain[0])
        met = Handshake(Named(SSL.TLS1_3_VERSION, b"b.example", challenge), other)
        self.assertEqual(self.shown(met), proof.chain[0])
        contexts.remove_challenge("b.example")
        self.assertFalse(Handshake(Named(SSL.TLS1_3_VERSION, b"b.example", challenge), other).succeeded)

    def test_challenge_is_no_way_in(self) -> None:
        """With ``clientcas`` the challenge is answered without a client certificate, and nothing is read."""
        authority = make("authority", authority=True)
        path, _ = authority.write(self.mktemp(), "ca")
        contexts = self.contexts(clientcas=(path,))
        contexts.answer_challenge("a.example", challenge_certificate("a.example", DIGEST, NOW))
        for version in VERSIONS:
            met = Handshake(Named(version, b"a.example", [b"acme-tls/1"]), contexts)
            self.assertEqual(met.client_connection.get_alpn_proto_negotiated(), b"acme-tls/1")
            self.assertEqual(met.server.received, b"")
            self.assertIsNotNone(met.server.reason)
            self.assertFalse(Handshake(Named(version, b"a.example"), contexts).succeeded)

    def test_client_certificate(self) -> None:
        """A client's certificate is accepted for every host."""
        authority = make("authority", authority=True)
        path, _ = authority.write(self.mktemp(), "ca")
        contexts = self.contexts(clientcas=(path,))
        client = make("client", signed_by=authority, client=True)
        for version in VERSIONS:
            for name in (b"a.example", b"b.example"):
                named = Named(version, name)
                Identity((client.certificate,), client.key).apply_to(named.context)
                self.assertTrue(Handshake(named, contexts).succeeded, (version, name))

    def test_reload(self) -> None:
        """``clientcas`` are read anew, and a broken file changes nothing."""
        authority = make("authority", authority=True)
        path, _ = authority.write(self.mktemp(), "ca")
        contexts = self.contexts(clientcas=(path,))
        with open(path, "w", encoding="ascii") as file:
            file.write("rubbish")
        before = contexts.context
        self.assertRaises(TLSConfigurationError, contexts.reload)
        self.assertIs(contexts.context, before)
        authority.write(path[: -len("/ca.pem")], "ca")
        contexts.reload()
        self.assertIsNot(contexts.context, before)
