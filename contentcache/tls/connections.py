"""
Connections of the daemon's own port: every client that is served meets the demands of ``http.tls``, also one that
resumes a session.

In a resumed handshake (RFC 5077, RFC 8446 §2.2) OpenSSL requests no certificate. So each connection is
checked once more after its handshake, and a session is resumed only under the demands under which it was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, Self

from attrs import frozen
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate
from OpenSSL import SSL

from contentcache.config.model import ClientAuth

#: Seconds for which a session can be resumed.
SESSION_SECONDS: Final = 3600

_REQUIRED: Final = frozenset({"require-any-client-cert", "require-and-verify-client-cert"})
_VERIFIED: Final = frozenset({"verify-client-cert-if-given", "require-and-verify-client-cert"})


@frozen
class Demands:
    """
    What a client has to show: ``required`` is any certificate at all, ``verified`` one that is signed by an
    authority of ``clientcas`` and has not expired.

    :attr:`session_context` differs where demands differ (``SSL_CTX_set_session_id_context``).
    """

    required: bool
    verified: bool
    session_context: bytes

    @classmethod
    def of(cls, demand: ClientAuth, authorities: Sequence[Certificate]) -> Self:
        """
        The demands of ``clientauth`` and ``clientcas``; without ``clientcas`` there are none.

        >>> Demands.of("require-and-verify-client-cert", ()).required
        False
        """
        identity = sha256(f"contentcache {demand}".encode("ascii"))
        for authority in authorities:
            identity.update(authority.public_bytes(Encoding.DER))
        return cls(
            bool(authorities) and demand in _REQUIRED,
            bool(authorities) and demand in _VERIFIED,
            identity.digest(),
        )


class ServerConnection(SSL.Connection):
    """
    A connection of one client, over ``socket`` or in memory.

    Its handshake succeeds only where the client has met ``demands``, in this connection or in the one whose
    session it resumes. Nothing can be read or written before.
    """

    def __init__(self, context: SSL.Context, demands: Demands, socket: Any = None) -> None:
        super().__init__(context, socket)
        self._demands = demands
        self._is_checked = False

    def do_handshake(self) -> None:
        """Continue the handshake. Raises ``SSL.Error`` also where the client does not meet the demands."""
        super().do_handshake()
        if not self._is_checked:
            self._check()
            self._is_checked = True

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """Receive from the client."""
        if not self._is_checked:
            self.do_handshake()
        return bytes(super().recv(bufsiz, flags))

    def send(self, buf: Any, flags: int = 0) -> int:
        """Send to the client; returns how many bytes were sent."""
        if not self._is_checked:
            self.do_handshake()
        return int(super().send(buf, flags))

    def _check(self) -> None:
        if not (self._demands.required or self._demands.verified):
            return
        certificate = self.get_peer_certificate()
        if certificate is None:
            if self._demands.required:
                raise SSL.Error([("contentcache", "sessions", "the client has sent no certificate")])
        elif self._demands.verified and certificate.has_expired():
            # During its session; OpenSSL has checked it when that began.
            raise SSL.Error([("contentcache", "sessions", "the client's certificate has expired")])
