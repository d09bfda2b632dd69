"""
Several hosts on one port, a certificate each, chosen by the name that the client asks for (SNI).

The same port answers the challenge ``tls-alpn-01`` (RFC 8737): a client that offers nothing but
``acme-tls/1`` gets the certificate that proves the host, and no word of HTTP.
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
from contentcache.tls.client_hello import LONGEST, offered_protocols
from contentcache.tls.connections import Demands, ServerConnection
from contentcache.tls.files import Identity, read_authorities
from contentcache.tls.server import context_for

ACME_TLS: Final = b"acme-tls/1"

#: The context of a session of a challenge: that of no other connection.
_CHALLENGE: Final = b"contentcache acme-tls/1"


class HostConnection(ServerConnection):
    """A connection that remembers the ClientHello until the certificate is chosen."""

    def __init__(self, context: SSL.Context, demands: Demands, socket: Any = None) -> None:
        super().__init__(context, demands, socket)
        self._hello: bytearray | None = bytearray()
        self._is_challenge = False

    def bio_write(self, buf: bytes | bytearray | memoryview) -> int:
        """Take bytes of the client's."""
        self.hear(buf)
        return int(super().bio_write(buf))

    def hear(self, data: bytes | bytearray | memoryview) -> None:
        """
        Note what the client says first. Over a socket of its own OpenSSL reads for itself, so whoever made
        the connection has to tell what it has peeked at.
        """
        if self._hello is not None and len(self._hello) <= LONGEST:
            self._hello += data

    def take_hello(self) -> bytes | None:
        """
        The ClientHello, once it is whole; ``None`` if it was asked for before. There is a second one after a
        HelloRetryRequest (RFC 8446 §4.1.4), which decides nothing.
        """
        hello, self._hello = self._hello, None
        return None if hello is None else bytes(hello)

    def be_challenge(self, context: SSL.Context) -> None:
        """
        Prove the host, and end with the handshake.

        The certificate authority shows no certificate of its own. That is why nothing may be read here, and
        no session may be made that another connection resumes: it would come past ``clientauth``.
        """
        self._is_challenge = True
        self.set_verify(SSL.VERIFY_NONE)
        # Within the callback for the server's name this ends tickets of TLS 1.3 too.
        self.set_options(SSL.OP_NO_TICKET)
        self.set_context(context)

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """What the client has sent; after a challenge it is as if the client had closed."""
        if self._is_challenge:
            raise SSL.ZeroReturnError
        return super().recv(bufsiz, flags)

    def _check(self) -> None:
        if not self._is_challenge:
            super()._check()


@implementer(IOpenSSLServerConnectionCreator)
class HostContexts:
    """
    The server's side of TLS for ``hosts``; give it to ``TLSMemoryBIOFactory``.

    ``first`` has a certificate for every host. Clients that name none, or another, get that of the first
    host. Raises ``TLSFault`` where ``clientcas`` or ``ciphersuites`` cannot be used.

    :attr:`identities` and :attr:`challenges` are what it shows, by host; ``changed`` is called when they do.
    """

    def __init__(self, settings: ServerTLS, first: Mapping[str, Identity]) -> None:
        self._settings = settings
        self.identities = dict(first)
        self.challenges: dict[str, Identity] = {}
        self.changed: Callable[[], None] = lambda: None
        self._challenges: dict[str, SSL.Context] = {}
        self._contexts: dict[str, SSL.Context] = {}
        self._base: SSL.Context
        self._demands: Demands
        self._authorities: Sequence[Certificate]
        self.reload()

    @property
    def context(self) -> SSL.Context:
        """What the next connection begins with."""
        return self._base

    def reload(self) -> None:
        """Read ``clientcas`` anew, for connections from now on. Raises ``TLSFault``, and keeps what was there."""
        self._build(read_authorities(self._settings.clientcas))

    def rotate_ticket_keys(self) -> None:
        """Encrypt session tickets with new keys; sessions that began before are resumed no more."""
        self._build(self._authorities)

    def _build(self, authorities: Sequence[Certificate]) -> None:
        contexts = {host: self._made(identity, authorities) for host, identity in self.identities.items()}
        base = self._made(next(iter(self.identities.values())), authorities)
        # Whoever begins with these demands is served with them, whatever is read meanwhile.
        base.set_tlsext_servername_callback(partial(self._choose, contexts))
        self._authorities, self._contexts, self._base = authorities, contexts, base
        self._demands = Demands.of(self._settings.clientauth, authorities)

    def install(self, host: str, identity: Identity) -> None:
        """Show this certificate to connections from now on; those that are open go on undisturbed."""
        context = self._made(identity, self._authorities)
        self.identities[host], self._contexts[host] = identity, context
        self.changed()

    def answer_challenge(self, host: str, identity: Identity) -> None:
        """Prove ``host`` with this certificate until :meth:`forget_challenge`."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_alpn_select_callback(_only_acme)
        context.set_session_id(_CHALLENGE)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        identity.put_into(context)
        self._challenges[host] = context
        self.challenges[host] = identity
        self.changed()

    def forget_challenge(self, host: str) -> None:
        """The challenge is over."""
        self._challenges.pop(host, None)
        self.challenges.pop(host, None)
        self.changed()

    def show(self, identities: Mapping[str, Identity], challenges: Mapping[str, Identity]) -> None:
        """Show what another one shows (:attr:`identities`, :attr:`challenges`)."""
        for host, identity in identities.items():
            self.install(host, identity)
        for host in set(self.challenges) - set(challenges):
            self.forget_challenge(host)
        for host, identity in challenges.items():
            self.answer_challenge(host, identity)

    def connection(self, socket: Any = None) -> HostConnection:
        """A connection for the next client, over ``socket`` or in memory."""
        return HostConnection(self._base, self._demands, socket)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """The same, in memory (``IOpenSSLServerConnectionCreator``)."""
        connection = self.connection()
        connection.set_app_data(tlsProtocol)
        return connection

    def _made(self, identity: Identity, authorities: Sequence[Certificate]) -> SSL.Context:
        return context_for(self._settings, identity, authorities, "letsencrypt")

    def _choose(self, contexts: Mapping[str, SSL.Context], connection: Any) -> None:
        """OpenSSL has read the ClientHello, and nothing is chosen yet."""
        hello = connection.take_hello()
        if hello is None:
            return
        host = (connection.get_servername() or b"").decode("latin-1").lower().removesuffix(".")
        challenge = self._challenges.get(host)
        if challenge is not None and offered_protocols(hello) == (ACME_TLS,):
            connection.be_challenge(challenge)
            return
        connection.set_context(contexts.get(host) or next(iter(contexts.values())))


def _only_acme(_connection: SSL.Connection, _offered: Sequence[bytes]) -> bytes:
    """Nobody comes here who has offered anything else."""
    return ACME_TLS
