"""Sessions over TLS on the socket itself: no client is served without the certificate that is demanded."""

from __future__ import annotations

import socket
from collections.abc import Generator
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.connections import Demands, ServerConnection
from contentcache.tls.files import read_authorities
from contentcache.tls.server import ServerContext
from contentcache.wire.tls_socket import tls_transport
from tests.tls.certificates import make
from tests.tls.resuming import VERSIONS, Met, ResumingClient

reactor: Any = global_reactor
_Steps = Generator[Deferred[Met], Met, None]


class _Answering(Protocol):
    """Answers what comes, and ends."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"answer to " + data)
        self.transport.loseConnection()


class SocketSessionTests(TestCase):
    """Connections one after the other, a blocking client in a thread."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        self.authority = make("authority", authority=True)
        self.clientcas, _ = self.authority.write(self.folder, "clientcas")
        self.certificate = make("client", signed_by=self.authority, client=True).write(self.folder, "client")
        files = make("server", hosts=("a.example",)).write(self.folder, "server")
        self.settings = ServerTLS(*files, clientcas=(self.clientcas,))
        self.contexts = ServerContext(self.settings)

    def listen(self, contexts: Any) -> None:
        """Listen with TLS from these."""
        factory = Factory.forProtocol(_Answering)
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port.transport = tls_transport(contexts)
        self.number = port.getHost().port
        self.addCleanup(port.stopListening)

    def meet(self, client: ResumingClient) -> Deferred[Met]:
        """One connection of the client's."""

        def run() -> Met:
            answer = b""
            given, resumed = None, False
            with socket.create_connection(("127.0.0.1", self.number), 60) as plain:
                try:
                    with client.context.wrap_socket(
                        plain, server_hostname=client.host, session=client.session
                    ) as secured:
                        resumed = bool(secured.session_reused)
                        secured.sendall(b"request")
                        while more := secured.recv(100):
                            answer += more
                        given = secured.session
                except OSError:
                    pass  # it is refused: with an alert, or with an end
            return Met(answer == b"answer to request", resumed, given, None)

        return deferToThread(run)

    @inlineCallbacks
    def test_resumed(self) -> _Steps:
        """A session that began with a certificate is resumed; a client with neither is not served."""
        self.listen(self.contexts)
        for version in VERSIONS:
            client = ResumingClient(version, host="a.example", certificate=self.certificate)
            first = yield self.meet(client)
            self.assertTrue(first.served)
            client.session = first.given
            second = yield self.meet(client)
            self.assertTrue(second.resumed)
            self.assertTrue(second.served)
            bare = yield self.meet(ResumingClient(version, host="a.example"))
            self.assertFalse(bare.served)

    @inlineCallbacks
    def test_other_clientcas(self) -> _Steps:
        """After a change of ``clientcas`` or of the ticket keys no earlier session is resumed."""
        self.listen(self.contexts)
        for version in VERSIONS:
            client = ResumingClient(version, host="a.example", certificate=self.certificate)
            client.session = (yield self.meet(client)).given
            self.contexts.rotate_ticket_keys()
            met = yield self.meet(client)
            self.assertFalse(met.resumed)
            self.assertTrue(met.served)
            client.session = met.given
            make("another authority", authority=True).write(self.folder, "clientcas")
            self.contexts.reload()
            met = yield self.meet(client)
            self.assertFalse(met.resumed)
            self.assertFalse(met.served)
            self.authority.write(self.folder, "clientcas")
            self.contexts.reload()

    @inlineCallbacks
    def test_demanded_of_every_session(self) -> _Steps:
        """Even where OpenSSL resumes a session that began without a certificate, its client is not served."""
        contexts = self.contexts
        demands = Demands.of(self.settings.clientauth, read_authorities((self.clientcas,)))

        class Careless:
            """As if a first connection had been excused by mistake."""

            excuses = True

            def connection(self, sock: Any) -> ServerConnection:
                none = Demands(required=False, verified=False, session_context=demands.session_context)
                connection = ServerConnection(contexts.context, none if self.excuses else demands, sock)
                if self.excuses:
                    connection.set_verify(SSL.VERIFY_NONE)
                return connection

        careless = Careless()
        self.listen(careless)
        for version in VERSIONS:
            careless.excuses = True
            client = ResumingClient(version, host="a.example")
            excused = yield self.meet(client)
            self.assertTrue(excused.served)
            client.session = excused.given
            careless.excuses = False
            met = yield self.meet(client)
            self.assertTrue(met.resumed, "OpenSSL itself does not object")
            self.assertFalse(met.served)
