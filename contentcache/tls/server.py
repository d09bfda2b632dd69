"""TLS of the daemon's own port: ``http.tls``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from cryptography.x509 import Certificate
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from contentcache.config.model import ClientAuth, ServerTLS
from contentcache.core.ciphersuites import OPENSSL_NAMES, TLS13
from contentcache.tls.connections import SESSION_SECONDS, Demands, ServerConnection
from contentcache.tls.files import Identity, TLSConfigurationError, read_authorities, read_identity

HTTP_1_1: Final = b"http/1.1"

_VERSIONS: Final = {
    "tls1.0": SSL.TLS1_VERSION,
    "tls1.1": SSL.TLS1_1_VERSION,
    "tls1.2": SSL.TLS1_2_VERSION,
    "tls1.3": SSL.TLS1_3_VERSION,
}

#: For TLS 1.2 and below: forward secrecy and authenticated encryption, as in the registry.
_DEFAULT_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)

#: What the versions before 1.2 have besides: they know no authenticated encryption.
_OLD_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
)

#: ``SSL_MODE_ENABLE_PARTIAL_WRITE``, for which pyOpenSSL has no name.
_PARTIAL_WRITE: Final = 1
#: ``SSL_OP_PRIORITIZE_CHACHA``, for which it has none either.
_CHACHA_IF_CLIENT_PREFERS_IT: Final = 1 << 21

_VerifyCallback = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]


@implementer(IOpenSSLServerConnectionCreator)
class ServerContext:
    """
    The server side of TLS on one port, for ``listenSSL`` or ``TLSMemoryBIOFactory``.

    Raises ``TLSConfigurationError`` where a file or the list of cipher suites cannot be used. ``identity`` is used
    instead of the files, whose key this process may not be allowed to read.
    """

    def __init__(self, settings: ServerTLS, identity: Identity | None = None) -> None:
        self._settings = settings
        self.identity: Identity
        self._context: SSL.Context
        self._demands: Demands
        self._authorities: Sequence[Certificate]
        self.read(settings, identity)()

    def reload(self) -> None:
        """
        Read the files again, for new connections; open ones are not affected.

        Raises ``TLSConfigurationError`` where a new file cannot be used, and keeps the old context.
        """
        self.read(self._settings)()

    def read(self, settings: ServerTLS, identity: Identity | None = None) -> Callable[[], None]:
        """
        Read the files of ``settings``, in a thread; what is returned uses them for new connections. ``identity`` is
        used instead of the certificate's files. Raises ``TLSConfigurationError``.
        """
        identity = identity or read_identity(settings.certificate, settings.key)
        return self._build(settings, identity, read_authorities(settings.clientcas))

    def rotate_ticket_keys(self) -> None:
        """Encrypt session tickets with new keys; older sessions are not resumed any more. Reads no file."""
        self._build(self._settings, self.identity, self._authorities)()

    @property
    def context(self) -> SSL.Context:
        """The context of the next connection."""
        return self._context

    def connection(self, socket: Any = None) -> ServerConnection:
        """A connection for the next client, over ``socket`` or in memory."""
        return ServerConnection(self._context, self._demands, socket)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection in memory (``IOpenSSLServerConnectionCreator``)."""
        connection = self.connection()
        connection.set_app_data(tlsProtocol)
        return connection

    def _build(
        self, settings: ServerTLS, identity: Identity, authorities: Sequence[Certificate]
    ) -> Callable[[], None]:
        context = context_for(settings, identity, authorities, settings.certificate)
        demands = Demands.of(settings.clientauth, authorities)

        def use() -> None:
            self._context, self._demands = context, demands
            self._settings, self._authorities, self.identity = settings, authorities, identity

        return use


def context_for(
    settings: ServerTLS, identity: Identity, authorities: Sequence[Certificate], name: str
) -> SSL.Context:
    """
    A context with the certificate ``identity``.

    Raises ``TLSConfigurationError``, which calls the certificate ``name``.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_SINGLE_ECDH_USE)
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | _CHACHA_IF_CLIENT_PREFERS_IT)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # Else each call would write one record, of 16 KiB at the most.
    context.clear_mode(_PARTIAL_WRITE)
    # Sessions are resumed by tickets only, and each context has its own ticket keys: no session of a challenge
    # or of another configuration is stored anywhere. Where demands differ, the session context differs too.
    context.set_session_id(Demands.of(settings.clientauth, authorities).session_context)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_timeout(SESSION_SECONDS)
    _set_versions_and_ciphers(context, settings)
    context.set_alpn_select_callback(_select_protocol)
    _request_certificates(context, settings.clientauth, authorities)
    try:
        identity.apply_to(context)
    except SSL.Error as error:
        raise TLSConfigurationError(
            name, f"{name} cannot be used for TLS: {describe_error(error)}"
        ) from error
    return context


def _set_versions_and_ciphers(context: SSL.Context, settings: ServerTLS) -> None:
    """
    Apply ``minimumtls`` and ``ciphersuites``.

    The order of the list has no meaning, as in Go, whose order is used here: AES with the shorter key costs a fifth
    less. ChaCha20 is for clients that prefer it, since they know whether their processor has AES.

    TLS 1.3 suites in the list narrow TLS 1.3 (Go cannot do that); a list without one leaves TLS 1.3 as it is,
    and one of nothing else disables TLS 1.2. Key exchange is not a part of OpenSSL's suites: its groups stay those
    that the library prefers.
    """
    minimum = _VERSIONS[settings.minimumtls]
    wanted = sorted((OPENSSL_NAMES.get(name, name) for name in settings.ciphersuites), key=_preference)
    newer = [name for name in wanted if name.startswith("TLS_")]
    older: Sequence[str] = [name for name in wanted if not name.startswith("TLS_")]
    if newer and not older:
        minimum = SSL.TLS1_3_VERSION
    if minimum < SSL.TLS1_2_VERSION:
        older = older or (*_DEFAULT_CIPHERS, *_OLD_CIPHERS)
        # The handshakes of TLS 1.0 and 1.1 are signed over SHA-1, which no higher level permits.
        older = (*older, "@SECLEVEL=0")
    context.set_min_proto_version(minimum)
    try:
        context.set_cipher_list(":".join(older or _DEFAULT_CIPHERS).encode("ascii"))
        context.set_tls13_ciphersuites(":".join(newer or TLS13).encode("ascii"))
    except (SSL.Error, UnicodeEncodeError) as error:
        names = ", ".join(settings.ciphersuites)
        raise TLSConfigurationError(
            "ciphersuites", f"the OpenSSL of this machine has none of the cipher suites {names}"
        ) from error


def _preference(suite: str) -> int:
    order = (*TLS13, *_DEFAULT_CIPHERS, *_OLD_CIPHERS)
    return order.index(suite) if suite in order else len(order)


def _select_protocol(_connection: SSL.Connection, offered: Sequence[bytes]) -> bytes:
    """
    Select ``http/1.1``, or fail with the alert ``no_application_protocol`` (RFC 7301 §3.2).

    A client that offers only h2 would otherwise send h2 to a server that does not support it.
    """
    if HTTP_1_1 in offered:
        return HTTP_1_1
    # pyOpenSSL turns any exception into the alert, and raises it again from the handshake, where Twisted expects
    # an SSL.Error.
    raise SSL.Error([("contentcache", "ALPN", "the client does not offer http/1.1")])


def _request_certificates(
    context: SSL.Context, demand: ClientAuth, authorities: Sequence[Certificate]
) -> None:
    """
    Apply ``clientcas`` and ``clientauth`` with Go's meanings; without ``clientcas`` no certificate is requested.

    The system's roots are never loaded here: only ``clientcas`` authenticates a client.
    """
    if not authorities:
        context.set_verify(SSL.VERIFY_NONE)
        return
    store: Any = context.get_cert_store()
    for authority in authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
        context.add_client_ca(authority)
    # Like Go: any certificate of the pool is a trust anchor, an intermediate or a leaf too.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    required = demand in ("require-any-client-cert", "require-and-verify-client-cert")
    verified = demand in ("verify-client-cert-if-given", "require-and-verify-client-cert")
    mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if required else 0)
    context.set_verify(mode, _accept_verified if verified else _accept_any)


def _accept_verified(
    _connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, ok: int
) -> bool:
    """Accept the chain if OpenSSL has verified it."""
    return bool(ok)


def _accept_any(
    _connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, _ok: int
) -> bool:
    """Accept any chain: the client has proved that it has the key, and nothing else is demanded."""
    return True


def describe_error(error: SSL.Error) -> str:
    """
    The reasons in an error of OpenSSL.

    >>> describe_error(SSL.Error([("SSL routines", "", "ee key too small")]))
    'ee key too small'
    """
    reasons = error.args[0] if error.args else ()
    return "; ".join(str(reason[-1]) for reason in reasons if reason) or "OpenSSL gives no reason"
