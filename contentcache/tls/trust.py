"""Whom we believe on the other side of the line: the system's roots and ``cas``."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
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
from contentcache.tls.files import TLSFault, read_authorities, read_identity
from contentcache.tls.gathering import GatheringConnection
from contentcache.tls.server import HTTP_1_1, in_words

#: The errors of OpenSSL's verification that operators meet (``x509_vfy.h``), in words.
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


class CertificateRefused(Exception):
    """The other side's certificate is not believed; the sentence says why."""


@implementer(IPolicyForHTTPS)
class UpstreamTrust:
    """
    How TLS is spoken to one upstream, for ``Agent`` and friends.

    ``cas`` are files whose every certificate is an anchor besides the system's roots, a leaf
    too; ``certificate`` and ``key`` are what we show where an upstream demands it. The anchors are
    those of ``anchors`` instead where that is given. Raises ``TLSFault`` where a file cannot be used.
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
        Read the files and the system's roots anew, for connections from now on.

        Raises ``TLSFault`` where a new file cannot be used, and keeps what was there before. It
        reads from the disk, and may be called in a thread.
        """
        self.use(self.build(read_anchors(self._cas)))

    def use(self, context: SSL.Context) -> None:
        """Make connections with this context from now on."""
        self._context = context

    def creatorForNetloc(self, hostname: bytes, port: int) -> _ExpectedHost:  # noqa: ARG002
        """What makes connections to one host (``IPolicyForHTTPS``)."""
        return _ExpectedHost(self._context, hostname.decode("ascii"))

    def build(self, anchors: SSL.Context) -> SSL.Context:
        """A context with these anchors, and the certificate as it is in its files now."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_protos([HTTP_1_1])
        # OpenSSL would put the longer key first, and most servers follow.
        context.set_tls13_ciphersuites(":".join(TLS13).encode("ascii"))
        _share_store(anchors, context)
        self._show_identity(context)
        return context

    def _show_identity(self, context: SSL.Context) -> None:
        """Put the client certificate in, if there is one."""
        if self._certificate is None:
            return
        try:
            # A file that holds both needs no second name.
            read_identity(self._certificate, self._key or self._certificate).put_into(context)
        except SSL.Error as error:
            raise TLSFault(
                self._certificate, f"{self._certificate} cannot be used for TLS: {in_words(error)}"
            ) from error


class UpstreamTrusts:
    """
    How TLS is spoken to all upstreams: those with equal options share one context, and all of them the store
    of ``cas`` and the system's roots, which takes the best part of a megabyte.

    Raises ``TLSFault`` where a file cannot be used.
    """

    def __init__(self, cas: Sequence[str]) -> None:
        self._cas = tuple(cas)
        self._anchors = read_anchors(self._cas)
        self._trusts: dict[tuple[str | None, str | None], UpstreamTrust] = {}

    def __len__(self) -> int:
        """How many contexts there are."""
        return len(self._trusts)

    def trust(self, certificate: str | None = None, key: str | None = None) -> UpstreamTrust:
        """That of upstreams to which this certificate is shown. Raises ``TLSFault`` where it cannot be used."""
        found = self._trusts.get((certificate, key))
        if found is None:
            found = UpstreamTrust(self._cas, certificate, key, anchors=self._anchors)
            self._trusts[certificate, key] = found
        return found

    def reload(self) -> None:
        """
        Read all files and the system's roots anew, for connections from now on.

        Raises ``TLSFault`` where one of them cannot be used, and keeps all that was there before.
        """
        anchors = read_anchors(self._cas)
        contexts = [(trust, trust.build(anchors)) for trust in self._trusts.values()]
        self._anchors = anchors
        for trust, context in contexts:
            trust.use(context)


@implementer(IOpenSSLClientConnectionCreator)
class _ExpectedHost:
    """Connections on which the certificate has to name ``host`` (RFC 9110 §4.3.4, RFC 9525)."""

    def __init__(self, context: SSL.Context, host: str) -> None:
        self._context = context
        self._host = host
        self._name, self._identity = _identity(host)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection that believes the right host only (``IOpenSSLClientConnectionCreator``)."""
        connection = GatheringConnection(self._context, None)
        connection.set_app_data(tlsProtocol)
        if self._name is not None:
            connection.set_tlsext_host_name(self._name)
        # The connection holds the callback and the protocol holds the connection: no circle please.
        told = weakref.ref(tlsProtocol)

        def believe(_c: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
            refusal = self._refusal(certificate, error, depth, bool(ok))
            protocol = told()
            if refusal is not None and protocol is not None:
                protocol.failVerification(Failure(CertificateRefused(refusal)))
            return refusal is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, believe)
        return connection

    def _refusal(self, certificate: crypto.X509, error: int, depth: int, ok: bool) -> str | None:
        """Why a certificate of the chain is not believed; ``None`` where it is."""
        whose = f"the certificate of {self._host}" if depth == 0 else f"the authority above {self._host}"
        if not ok:
            return f"{whose} {_REASONS.get(error, f'is not trusted (OpenSSL verification error {error})')}"
        if depth > 0:
            return None
        try:
            verify_service_identity(extract_patterns(certificate), [self._identity], [])
        except (VerificationError, CertificateError):
            return f"the certificate of {self._host} is for other names"
        except Exception as damage:  # noqa: BLE001 - it would be lost inside OpenSSL
            return f"{whose} cannot be read: {damage}"
        return None


def _identity(host: str) -> tuple[bytes | None, ServiceID]:
    """The name for SNI, none for addresses (RFC 6066 §3), and what the certificate has to contain."""
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

    A machine without roots, or with a damaged bundle, still reaches what ``cas`` vouches for; everybody
    else's certificate is then simply not believed. Raises ``TLSFault`` where a file cannot be used.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with suppress(SSL.Error):
        context.set_default_verify_paths()
    store: Any = context.get_cert_store()
    for authority in read_authorities(cas):
        store.add_cert(crypto.X509.from_cryptography(authority))
    # A leaf or an intermediate in cas is enough: no chain up to a root is asked for.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    return context


def _share_store(one: Any, other: Any) -> None:
    """
    Have ``other`` look for anchors in the store of context ``one``.

    ``SSL_CTX_set_cert_store``, for which pyOpenSSL has no name, takes over a reference, so it gets its own:
    the store lives as long as any context that has it.
    """
    module: Any = SSL
    lib = module._lib  # noqa: SLF001
    store = lib.SSL_CTX_get_cert_store(one._context)  # noqa: SLF001
    lib.X509_STORE_up_ref(store)
    lib.SSL_CTX_set_cert_store(other._context, store)  # noqa: SLF001
