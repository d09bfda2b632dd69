"""A client that resumes sessions, as an attacker would: the standard library's, which shows its sessions."""

from __future__ import annotations

import ssl
from typing import Any

from attrs import frozen
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from tests.tls.handshakes import End

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class ResumingClient:
    """
    A client of ``host`` that speaks one version of TLS, offers ``protocols`` and shows ``certificate``, paths
    of a certificate and its key, where a certificate is asked for.

    The next connection offers :attr:`session`.
    """

    def __init__(
        self,
        version: ssl.TLSVersion,
        *,
        host: str | None = None,
        protocols: tuple[str, ...] = ("http/1.1",),
        certificate: tuple[str, str] | None = None,
    ) -> None:
        self.host = host
        self.session: ssl.SSLSession | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.context.minimum_version = self.context.maximum_version = version
        self.offer(*protocols)
        if certificate is not None:
            self.context.load_cert_chain(*certificate)

    def offer(self, *protocols: str) -> None:
        """Offer these protocols by ALPN."""
        self.context.set_alpn_protocols(protocols)


@frozen
class Met:
    """
    How a connection went: ``served`` where the server's application got the client's request and the client
    its answer; ``given`` is the session that the client could resume.
    """

    served: bool
    resumed: bool
    given: ssl.SSLSession | None
    protocol: str | None

    @property
    def has_session(self) -> bool:
        """Whether the server has sent a ticket, or a session id."""
        return self.given is not None and (self.given.has_ticket or bool(self.given.id))


class _Answering(End):
    """Answers requests."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(b"answer")


def meet(client: ResumingClient, server: Any) -> Met:
    """One connection in memory between ``client`` and Twisted's TLS over the contexts of ``server``."""
    clock: Any = Clock()  # Twisted's TLS writes when its turn comes
    application: Any = Factory.forProtocol(_Answering)
    tls: Any = TLSMemoryBIOFactory(server, False, application, clock=clock).buildProtocol(None)
    wire = StringTransport()
    tls.makeConnection(wire)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = client.context.wrap_bio(
        incoming, outgoing, server_hostname=client.host or "nameless.invalid", session=client.session
    )
    answer = b""
    asked = False
    for _ in range(10):
        try:
            if not asked:
                end.do_handshake()
                end.write(b"request")
                asked = True
            answer += end.read(100)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            break
        if outgoing.pending and not wire.disconnecting:
            tls.dataReceived(outgoing.read())
            clock.advance(0)
        incoming.write(wire.value())
        wire.clear()
    received = tls.wrappedProtocol.received
    met = Met(
        answer == b"answer" and received == b"request",
        bool(end.session_reused),
        end.session,
        end.selected_alpn_protocol(),
    )
    if tls.connected:
        tls.connectionLost(Failure(connectionDone.value))
    return met
