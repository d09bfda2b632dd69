"""Sessions and tickets: no client is served without the certificate that is demanded, whatever it resumes."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from contentcache.config.model import ClientAuth, ServerTLS
from contentcache.tls.connections import Demands, ServerConnection
from contentcache.tls.files import read_authorities
from contentcache.tls.hosts import HostContexts
from contentcache.tls.selfsigned import challenge_certificate, placeholder_certificate
from contentcache.tls.server import ServerContext
from tests.tls.certificates import make
from tests.tls.resuming import VERSIONS, ResumingClient, meet

NOW = datetime.now(UTC)
HOST, OTHER = "a.example", "b.example"
DIGEST = sha256(b"key authorization").digest()


class SessionCase(SynchronousTestCase):
    """Authorities of clients, and both kinds of ports."""

    def setUp(self) -> None:
        """Make certificates."""
        self.folder = self.mktemp()
        self.authority = make("authority", authority=True)
        self.clientcas, _ = self.authority.write(self.folder, "clientcas")
        self.certificate = make("client", signed_by=self.authority, client=True).write(self.folder, "client")
        self.identity = placeholder_certificate(HOST, NOW)
        self.files = make("server", hosts=(HOST,)).write(self.folder, "server")

    def of_files(self, clientauth: ClientAuth = "require-and-verify-client-cert") -> ServerContext:
        """A port with a certificate from files."""
        settings = ServerTLS(*self.files, clientcas=(self.clientcas,), clientauth=clientauth)
        return ServerContext(settings)

    def of_hosts(self, clientauth: ClientAuth = "require-and-verify-client-cert") -> HostContexts:
        """A port of two hosts, selected by SNI."""
        settings = ServerTLS(clientcas=(self.clientcas,), clientauth=clientauth)
        return HostContexts(settings, {HOST: self.identity, OTHER: placeholder_certificate(OTHER, NOW)})

    def ports(self) -> tuple[Any, ...]:
        """One of each kind."""
        return self.of_files(), self.of_hosts()

    def known(self, port: Any, version: ssl.TLSVersion, host: str = HOST) -> ResumingClient:
        """A client that was served with its certificate, and has a session of that connection."""
        client = ResumingClient(version, host=host, certificate=self.certificate)
        met = meet(client, port)
        self.assertTrue(met.served)
        self.assertTrue(met.has_session)
        client.session = met.given
        return client


class DemandedTests(SessionCase):
    """Sessions of clients with a certificate."""

    def test_resumed(self) -> None:
        """A session that began with a certificate is resumed; a client with neither is not served."""
        for port in self.ports():
            for version in VERSIONS:
                client = self.known(port, version)
                met = meet(client, port)
                self.assertTrue(met.served)
                self.assertTrue(met.resumed)
                self.assertFalse(meet(ResumingClient(version, host=HOST), port).served)

    def test_other_host(self) -> None:
        """A session that began at one host is, at another one, still that of a client with a certificate."""
        port = self.of_hosts()
        for version in VERSIONS:
            client = self.known(port, version)
            client.host = OTHER
            self.assertTrue(meet(client, port).served)
            self.assertFalse(meet(ResumingClient(version, host=OTHER), port).served)

    def test_other_clientcas(self) -> None:
        """After other ``clientcas`` were read neither an earlier session nor its certificate is enough."""
        for version in VERSIONS:
            for port in self.ports():
                self.authority.write(self.folder, "clientcas")
                port.reload()
                client = self.known(port, version)
                make("another authority", authority=True).write(self.folder, "clientcas")
                port.reload()
                met = meet(client, port)
                self.assertFalse(met.resumed)
                self.assertFalse(met.served)

    def test_ticket_keys(self) -> None:
        """After the ticket keys were changed a client has to send its certificate again."""
        for port in self.ports():
            for version in VERSIONS:
                client = self.known(port, version)
                port.rotate_ticket_keys()
                met = meet(client, port)
                self.assertFalse(met.resumed)
                self.assertTrue(met.served)
                self.assertFalse(meet(ResumingClient(version, host=HOST), port).served)

    def test_keys_do_not_read_files(self) -> None:
        """Changing the ticket keys reads no file: the demands stay as they were."""
        for port in self.ports():
            self.authority.write(self.folder, "clientcas")
            port.reload()
            make("another authority", authority=True).write(self.folder, "clientcas")
            port.rotate_ticket_keys()
            for version in VERSIONS:
                self.assertTrue(meet(self.known(port, version), port).served)

    def test_other_worker(self) -> None:
        """A session of one worker is not resumed at another one: there is a full handshake."""
        for one, another in ((self.of_files(), self.of_files()), (self.of_hosts(), self.of_hosts())):
            for version in VERSIONS:
                met = meet(self.known(one, version), another)
                self.assertFalse(met.resumed)
                self.assertTrue(met.served)

    def test_expired_since(self) -> None:
        """A session ends with the certificate with which it began."""
        for port in self.ports():
            for version in VERSIONS:
                client = self.known(port, version)
                with self.subTest(version=version):
                    patch = self.patch(crypto.X509, "has_expired", lambda _certificate: True)
                    self.assertFalse(meet(client, port).served)
                    patch.restore()
                    self.assertTrue(meet(client, port).served)

    def test_demanded_of_every_session(self) -> None:
        """Even where OpenSSL resumes a session that began without a certificate, its client is not served."""
        settings = ServerTLS(clientcas=(self.clientcas,))
        port = ServerContext(settings, self.identity)
        demands = Demands.of(settings.clientauth, read_authorities((self.clientcas,)))

        @implementer(IOpenSSLServerConnectionCreator)
        class Careless:
            """As if a first connection had been excused by mistake."""

            excuses = True

            def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
                none = Demands(required=False, verified=False, session_context=demands.session_context)
                connection = ServerConnection(port.context, none if self.excuses else demands)
                if self.excuses:
                    connection.set_verify(SSL.VERIFY_NONE)
                connection.set_app_data(protocol)
                return connection

        for version in VERSIONS:
            careless = Careless()
            client = ResumingClient(version, host=HOST)
            client.session = meet(client, careless).given
            careless.excuses = False
            met = meet(client, careless)
            self.assertTrue(met.resumed, "OpenSSL itself does not object")
            self.assertFalse(met.served)

    def test_demands_of_sessions(self) -> None:
        """Sessions of other authorities or another ``clientauth`` have another context."""
        first, second = (make(name, authority=True).certificate for name in ("first", "second"))
        contexts = {
            Demands.of(clientauth, authorities).session_context
            for clientauth in ("verify-client-cert-if-given", "require-and-verify-client-cert")
            for authorities in ((), (first,), (second,), (first, second))
        }
        self.assertEqual(len(contexts), 8)

    def test_optional(self) -> None:
        """Where a certificate is only asked for, sessions of clients without one are resumed."""
        for port in (self.of_files("verify-client-cert-if-given"), self.of_hosts("request-client-cert")):
            for version in VERSIONS:
                client = ResumingClient(version, host=HOST)
                client.session = meet(client, port).given
                met = meet(client, port)
                self.assertTrue(met.resumed)
                self.assertTrue(met.served)


class ChallengeTests(SessionCase):
    """While ``tls-alpn-01`` is answered, which requests no certificate."""

    def setUp(self) -> None:
        """Answer one."""
        super().setUp()
        self.port = self.of_hosts()
        self.port.answer_challenge(HOST, challenge_certificate(HOST, DIGEST, NOW))

    def test_no_session(self) -> None:
        """A challenge gives neither a ticket nor the id of a session."""
        for version in VERSIONS:
            met = meet(ResumingClient(version, host=HOST, protocols=("acme-tls/1",)), self.port)
            self.assertEqual(met.protocol, "acme-tls/1")
            self.assertFalse(met.has_session)

    def test_no_way_in(self) -> None:
        """No session of a challenge is served, at any host, while the challenge is open or afterwards."""
        for version in VERSIONS:
            client = ResumingClient(version, host=HOST, protocols=("acme-tls/1",))
            client.session = meet(client, self.port).given
            client.offer("http/1.1")
            for host in (HOST, OTHER):
                client.host = host
                self.assertFalse(meet(client, self.port).served)
            self.port.install(HOST, placeholder_certificate(HOST, NOW))
            self.port.remove_challenge(HOST)
            self.assertFalse(meet(client, self.port).served)
            self.port.answer_challenge(HOST, challenge_certificate(HOST, DIGEST, NOW))

    def test_session_brought_along(self) -> None:
        """A session that began with a certificate does not open a challenge either."""
        for version in VERSIONS:
            client = self.known(self.port, version)
            client.offer("acme-tls/1")
            met = meet(client, self.port)
            self.assertFalse(met.served)
            client.offer("http/1.1")
            self.assertTrue(meet(client, self.port).served)

    def test_second_hello(self) -> None:
        """A second ClientHello of a connection changes nothing."""
        connection = self.port.connection()
        connection.bio_write(b"hello")
        self.assertEqual(connection.pop_hello(), b"hello")
        self.assertIsNone(connection.pop_hello())
