"""Tests for :mod:`contentcache.tls.client_hello`."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from contentcache.tls.client_hello import offered_protocols


def hello(version: int, protocols: list[bytes]) -> bytes:
    """OpenSSL's ClientHello."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(version)
    if protocols:
        context.set_alpn_protos(protocols)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    connection.set_tlsext_host_name(b"cache.example.com")
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(1 << 16)


def in_records(data: bytes, size: int) -> bytes:
    """The same message in records of ``size`` bytes."""
    message = data[5:]
    pieces = [message[i : i + size] for i in range(0, len(message), size)]
    return b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


class OfferedTests(SynchronousTestCase):
    """The protocols that a client offers."""

    def test_real(self) -> None:
        """OpenSSL's own ClientHello is read, of either version, in one record or in many."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            for protocols in ([], [b"acme-tls/1"], [b"h2", b"http/1.1"]):
                said = hello(version, protocols)
                self.assertEqual(offered_protocols(said), tuple(protocols))
                self.assertEqual(offered_protocols(in_records(said, 7)), tuple(protocols))

    def test_cut(self) -> None:
        """A truncated ClientHello offers nothing, and neither does anything else."""
        said = hello(SSL.TLS1_3_VERSION, [b"acme-tls/1"])
        for length in range(len(said)):
            self.assertEqual(offered_protocols(said[:length]), ())
        self.assertEqual(offered_protocols(b"GET / HTTP/1.1\r\n\r\n"), ())

    @given(st.binary(max_size=300), st.integers(0, 250))
    def test_anything(self, junk: bytes, at: int) -> None:
        """No input raises."""
        offered_protocols(junk)
        said = hello(SSL.TLS1_3_VERSION, [b"acme-tls/1"])
        offered_protocols(said[:at] + junk + said[at + len(junk) :])
