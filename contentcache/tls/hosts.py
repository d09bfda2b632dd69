"""
Several hosts on one port, each with a certificate, selected by SNI.

The same port answers the challenge ``tls-alpn-01`` (RFC 8737): a client that offers only ``acme-tls/1`` gets
the challenge's certificate, and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from cryptography.x509 import Certificate
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from contentcache.config.model import ServerTLS
from contentcache.tls.client_hello import MAX_CLIENT_HELLO, offered_protocols
from contentcache.tls.connections import Demands, ServerConnection
from contentcache.tls.files import Identity, read_authorities
from contentcache.tls.server import context_for

ACME_TLS: Final = b"acme-tls/1"

#: The session context of challenges: that of no other connection.
_CHALLENGE: Final = b"contentcache acme-tls/1"


class HostConnection(ServerConnection):
    """A connection that stores the ClientHello until the certificate is selected."""

    def __init__(self, context: SSL.Context, demands: Demands, socket: Any = None) -> None:
        super().__init__(context, demands, socket)
        self._hello: bytearray | None = bytearray()
        self._is_challenge = False

    def bio_write(self, buf: bytes | bytearray | memoryview) -> int:
        """Receive bytes of the client (``TLSMemoryBIOProtocol``)."""
        if self._hello is not None and len(self._hello) <= MAX_CLIENT_HELLO:
            self._hello += buf
        return int(super().bio_write(buf))

    def pop_hello(self) -> bytes | None:
        """
        The complete ClientHello, the first time; then ``None``: a second one after a HelloRetryRequest (RFC 8446
        §4.1.4) changes nothing.
        """
        hello, self._hello = self._hello, None
        return None if hello is None else bytes(hello)

    def answer_challenge(self, context: SSL.Context) -> None:
        """
        Use the context of a challenge, and end after the handshake.

        The certificate authority sends no client certificate. So nothing may be read here, and no session may be
        made that another connection resumes: that would bypass ``clientauth``.
        """
        self._is_challenge = True
        self.set_verify(SSL.VERIFY_NONE)
        # In the callback for the server name this disables tickets of TLS 1.3 too.
        self.set_options(SSL.OP_NO_TICKET)
        self.set_context(context)

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Receive from the client; after a challenge it is as if the client had closed the connection."""
        if self._is_challenge:
            raise SSL.ZeroReturnError
        return super().recv(bufsiz, flags)

    def _check(self) -> None:
        if not self._is_challenge:
            super()._check()


@implementer(IOpenSSLServerConnectionCreator)
class HostContexts:
    """
    The server side of TLS for several hosts, for ``TLSMemoryBIOFactory``.

    ``identities`` has a certificate for every host. Clients that name none, or another host, get that of the first
    one. Raises ``TLSConfigurationError`` where ``clientcas`` or ``ciphersuites`` cannot be used.

    ``changed`` is called whenever :attr:`identities` or :attr:`challenges` change.
    """

    def __init__(self, settings: ServerTLS, identities: Mapping[str, Identity]) -> None:
        self._settings = settings
        self.identities = dict(identities)
        self.challenges: dict[str, Identity] = {}
        self.changed: Callable[[], None] = lambda: None
        self._challenges: dict[str, SSL.Context] = {}
        self._contexts: dict[str, SSL.Context] = {}
        self._base: SSL.Context
        self._demands: Demands
        self._authorities: Sequence[Certificate]
        self.read(settings)()

    @property
    def context(self) -> SSL.Context:
        """The context of the next connection."""
        return self._base

    def reload(self) -> None:
        """
        Read ``clientcas`` again, for new connections. Raises ``TLSConfigurationError``, and keeps the old
        context.
        """
        self.read(self._settings)()

    def read(self, settings: ServerTLS) -> Callable[[], None]:
        """
        Read ``clientcas`` of ``settings``, in a thread; what is returned uses them for new connections. Raises
        ``TLSConfigurationError``.
        """
        authorities = read_authorities(settings.clientcas)

        def use() -> None:
            self._settings = settings
            self._build(authorities)

        return use

    def rotate_ticket_keys(self) -> None:
        """Encrypt session tickets with new keys; older sessions are not resumed any more."""
        self._build(self._authorities)

    def _build(self, authorities: Sequence[Certificate]) -> None:
        contexts = {
            host: self._context_for(identity, authorities) for host, identity in self.identities.items()
        }
        base = self._context_for(next(iter(self.identities.values())), authorities)
        # A connection keeps the demands that it began with, whatever is reloaded meanwhile.
        base.set_tlsext_servername_callback(partial(self._select_certificate, contexts))
        self._authorities, self._contexts, self._base = authorities, contexts, base
        self._demands = Demands.of(self._settings.clientauth, authorities)

    def install(self, host: str, identity: Identity) -> None:
        """Use this certificate for new connections; open ones are not affected."""
        context = self._context_for(identity, self._authorities)
        self.identities[host], self._contexts[host] = identity, context
        self.changed()

    def answer_challenge(self, host: str, identity: Identity) -> None:
        """Answer the challenge of ``host`` with this certificate until :meth:`remove_challenge`."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_alpn_select_callback(_select_acme_tls)
        context.set_session_id(_CHALLENGE)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        identity.apply_to(context)
        self._challenges[host] = context
        self.challenges[host] = identity
        self.changed()

    def remove_challenge(self, host: str) -> None:
        """Stop answering the challenge of ``host``."""
        self._challenges.pop(host, None)
        self.challenges.pop(host, None)
        self.changed()

    def update(self, identities: Mapping[str, Identity], challenges: Mapping[str, Identity]) -> None:
        """Use the certificates of another process (:attr:`identities`, :attr:`challenges`)."""
        for host, identity in identities.items():
            self.install(host, identity)
        for host in set(self.challenges) - set(challenges):
            self.remove_challenge(host)
        for host, identity in challenges.items():
            self.answer_challenge(host, identity)

    def connection(self, socket: Any = None) -> HostConnection:
        """A connection for the next client, over ``socket`` or in memory."""
        return HostConnection(self._base, self._demands, socket)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection in memory (``IOpenSSLServerConnectionCreator``)."""
        connection = self.connection()
        connection.set_app_data(tlsProtocol)
        return connection

    def _context_for(self, identity: Identity, authorities: Sequence[Certificate]) -> SSL.Context:
        return context_for(self._settings, identity, authorities, "letsencrypt")

    def _select_certificate(self, contexts: Mapping[str, SSL.Context], connection: Any) -> None:
        """Select the certificate, in OpenSSL's callback for the server name."""
        hello = connection.pop_hello()
        if hello is None:
            return
        host = (connection.get_servername() or b"").decode("latin-1").lower().removesuffix(".")
        challenge = self._challenges.get(host)
        if challenge is not None and offered_protocols(hello) == (ACME_TLS,):
            connection.answer_challenge(challenge)
            return
        connection.set_context(contexts.get(host) or next(iter(contexts.values())))


def _select_acme_tls(_connection: SSL.Connection, _offered: Sequence[bytes]) -> bytes:
    """OpenSSL's callback for ALPN: the client has offered nothing else."""
    return ACME_TLS
