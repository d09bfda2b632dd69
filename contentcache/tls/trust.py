"""TLS to upstreams: which certificates are trusted, by the system's roots and ``cas``."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

import idna
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from contentcache.core.ciphersuites import TLS13
from contentcache.tls.files import TLSConfigurationError, read_authorities, read_identity
from contentcache.tls.server import HTTP_1_1, describe_error

#: Bytes that one read from TLS returns at most, but for the last record: as many as one read from a socket.
_MAX_READ: Final = 256 << 10

#: Common errors of OpenSSL's verification (``x509_vfy.h``), as ends of sentences.
_REASONS: Final = {
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by itself and not in the list of trusted certificates",
    19: "is signed by an authority that is not trusted",
    20: "is signed by an authority that is not trusted; name it in cas",
    21: "is signed by an authority that is not trusted; name it in cas",
    24: "is signed by a certificate that is no authority",
    26: "is not meant for servers",
    66: "has a key that is too weak",
    68: "is signed over a hash that is too weak",
}


class CertificateRefusedError(Exception):
    """The certificate of an upstream is not trusted; the sentence says why."""


@implementer(IPolicyForHTTPS)
class UpstreamTrust:
    """
    The client side of TLS for one upstream, for Twisted's ``Agent``.

    Every certificate in the files ``cas`` is a trust anchor besides the system's roots, a leaf too;
    ``certificate`` and ``key`` are the client certificate. Where ``anchors`` is given, its trust anchors are
    used instead. Raises ``TLSConfigurationError`` where a file cannot be used.
    """

    def __init__(
        self,
        cas: Sequence[str] = (),
        certificate: str | None = None,
        key: str | None = None,
        *,
        anchors: SSL.Context | None = None,
    ) -> None:
        self._cas = tuple(cas)
        self._certificate = certificate
        self._key = key
        self._context = self.build(anchors or read_anchors(self._cas))

    def reload(self) -> None:
        """
        Read the files and the system's roots again, for new connections.

        Raises ``TLSConfigurationError`` where a new file cannot be used, and keeps the old context.
        """
        self.read()()

    def read(self) -> Callable[[], None]:
        """The same in two steps: read in a thread, then use. Raises ``TLSConfigurationError``."""
        context = self.build(read_anchors(self._cas))
        return lambda: self.use_context(context)

    def use_context(self, context: SSL.Context) -> None:
        """Use this context for new connections."""
        self._context = context

    def creatorForNetloc(self, hostname: bytes, port: int) -> _ExpectedHost:  # noqa: ARG002
        """Makes connections to one host (``IPolicyForHTTPS``)."""
        return _ExpectedHost(self._context, hostname.decode("ascii"))

    def build(self, anchors: SSL.Context) -> SSL.Context:
        """A context with these trust anchors, and the client certificate as it is in its files now."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_protos([HTTP_1_1])
        # OpenSSL would prefer the longer key, and most servers accept that.
        context.set_tls13_ciphersuites(":".join(TLS13).encode("ascii"))
        _share_store(anchors, context)
        self._add_client_certificate(context)
        return context

    def _add_client_certificate(self, context: SSL.Context) -> None:
        """Use the client certificate, if there is one."""
        if self._certificate is None:
            return
        try:
            # One file may have both.
            read_identity(self._certificate, self._key or self._certificate).apply_to(context)
        except SSL.Error as error:
            raise TLSConfigurationError(
                self._certificate, f"{self._certificate} cannot be used for TLS: {describe_error(error)}"
            ) from error


class UpstreamTrusts:
    """
    The client side of TLS for all upstreams: those with equal options share one context, and all of them share the
    store of ``cas`` and the system's roots, which takes almost a megabyte.

    Raises ``TLSConfigurationError`` where a file cannot be used.
    """

    def __init__(self, cas: Sequence[str]) -> None:
        self._cas = tuple(cas)
        self._anchors = read_anchors(self._cas)
        self._trusts: dict[tuple[str | None, str | None], UpstreamTrust] = {}

    def __len__(self) -> int:
        """How many contexts there are."""
        return len(self._trusts)

    def trust(self, certificate: str | None = None, key: str | None = None) -> UpstreamTrust:
        """
        The trust of upstreams with this client certificate. Raises ``TLSConfigurationError`` where it cannot be
        used.
        """
        found = self._trusts.get((certificate, key))
        if found is None:
            found = UpstreamTrust(self._cas, certificate, key, anchors=self._anchors)
            self._trusts[certificate, key] = found
        return found

    def reload(self) -> None:
        """
        Read all files and the system's roots again, for new connections.

        Raises ``TLSConfigurationError`` where one of them cannot be used, and keeps all old contexts.
        """
        self.read()()

    def read(self) -> Callable[[], None]:
        """The same in two steps: read in a thread, then use. Raises ``TLSConfigurationError``."""
        anchors = read_anchors(self._cas)
        contexts = [(trust, trust.build(anchors)) for trust in self._trusts.values()]

        def use() -> None:
            self._anchors = anchors
            for trust, context in contexts:
                trust.use_context(context)

        return use


class LargeReadConnection(SSL.Connection):
    """
    A connection in memory whose :meth:`recv` returns all records that have arrived.

    A record has at most 16 KiB, and Twisted delivers each of them separately: for a large body that is sixteen
    times the work of one read from the socket.
    """

    _error: SSL.Error | None = None

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """
        Receive at least one record of at most ``bufsiz`` bytes, and those that have arrived with it. An error after
        the first one is raised by the next call.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        pieces = [super().recv(bufsiz, flags)]
        size = len(pieces[0])
        while size < _MAX_READ:
            try:
                pieces.append(super().recv(bufsiz, flags))
            except SSL.WantReadError:
                break
            except SSL.Error as late:
                self._error = late
                break
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@implementer(IOpenSSLClientConnectionCreator)
class _ExpectedHost:
    """Connections whose certificate has to name ``host`` (RFC 9110 §4.3.4, RFC 9525)."""

    def __init__(self, context: SSL.Context, host: str) -> None:
        self._context = context
        self._host = host
        self._name, self._identity = _identity(host)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection that only trusts certificates of the host (``IOpenSSLClientConnectionCreator``)."""
        connection = LargeReadConnection(self._context, None)
        connection.set_app_data(tlsProtocol)
        if self._name is not None:
            connection.set_tlsext_host_name(self._name)
        # The connection has the callback and the protocol has the connection: avoid a reference cycle.
        protocol_ref = weakref.ref(tlsProtocol)

        def verify(_c: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
            refusal = self._refusal(certificate, error, depth, bool(ok))
            protocol = protocol_ref()
            if refusal is not None and protocol is not None:
                protocol.failVerification(Failure(CertificateRefusedError(refusal)))
            return refusal is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection

    def _refusal(self, certificate: crypto.X509, error: int, depth: int, ok: bool) -> str | None:
        """Why a certificate of the chain is not trusted; ``None`` where it is."""
        subject = f"the certificate of {self._host}" if depth == 0 else f"the authority above {self._host}"
        if not ok:
            return f"{subject} {_REASONS.get(error, f'is not trusted (OpenSSL verification error {error})')}"
        if depth > 0:
            return None
        try:
            verify_service_identity(extract_patterns(certificate), [self._identity], [])
        except (VerificationError, CertificateError):
            return f"the certificate of {self._host} is for other names"
        except Exception as damage:  # noqa: BLE001 - it would be lost inside OpenSSL
            return f"{subject} cannot be read: {damage}"
        return None


def _identity(host: str) -> tuple[bytes | None, ServiceID]:
    """The name for SNI, ``None`` for addresses (RFC 6066 §3), and what the certificate has to name."""
    bare = host.strip("[]")
    try:
        return None, IPAddress_ID(str(ip_address(bare)))
    except ValueError:
        pass
    name = bare.rstrip(".")
    if not name.isascii():
        name = idna.encode(name, uts46=True).decode("ascii")
    return name.encode("ascii"), DNS_ID(name)


def read_anchors(cas: Sequence[str]) -> SSL.Context:
    """
    A context whose store has the system's roots, where there are any, and the certificates of ``cas``.

    Without roots, or with a damaged bundle, certificates of ``cas`` are still trusted; all others are not.
    Raises ``TLSConfigurationError`` where a file cannot be used.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with suppress(SSL.Error):
        context.set_default_verify_paths()
    store: Any = context.get_cert_store()
    for authority in read_authorities(cas):
        store.add_cert(crypto.X509.from_cryptography(authority))
    # A leaf or an intermediate in cas is enough: no chain up to a root is required.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    return context


def _share_store(one: Any, other: Any) -> None:
    """
    Let context ``other`` use the store of context ``one``.

    ``SSL_CTX_set_cert_store``, for which pyOpenSSL has no name, takes over a reference, so it gets its own.
    """
    module: Any = SSL
    lib = module._lib  # noqa: SLF001
    store = lib.SSL_CTX_get_cert_store(one._context)  # noqa: SLF001
    lib.X509_STORE_up_ref(store)
    lib.SSL_CTX_set_cert_store(other._context, store)  # noqa: SLF001
