"""Tests for :class:`contentcache.tls.trust.LargeReadConnection`."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import ServerTLS
from contentcache.tls.server import ServerContext
from contentcache.tls.trust import UpstreamTrust
from tests.tls.certificates import make
from tests.tls.handshakes import Handshake

_RECORD = 16 << 10
_CONTENT = bytes(range(256)) * 4000


class LargeReadTests(SynchronousTestCase):
    """Reads from an upstream over TLS."""

    def setUp(self) -> None:
        folder = self.mktemp()
        authority = make("authority", authority=True)
        cas, _ = authority.write(folder, "cas")
        certificate, key = make("server", signed_by=authority, hosts=("a.example",)).write(folder, "server")
        context = ServerContext(ServerTLS(certificate, key))
        self.met = Handshake(UpstreamTrust([cas]).creatorForNetloc(b"a.example", 443), context)
        self.assertTrue(self.met.succeeded)
        self.met.client.received = b""
        self.pieces: list[int] = []
        take = self.met.client.dataReceived

        def counted(data: bytes) -> None:
            self.pieces.append(len(data))
            take(data)

        self.met.client.dataReceived = counted  # type: ignore[method-assign]

    def sent(self) -> bytes:
        """What the server has sent, and the client has not received yet."""
        wire = self.met.server_tls.transport
        data: bytes = wire.value()
        wire.clear()
        return data

    def test_in_few_pieces(self) -> None:
        """Records that arrive together are delivered together, and no byte is lost."""
        self.met.server_tls.write(_CONTENT)
        self.met.pump()
        self.assertEqual(self.met.client.received, _CONTENT)
        self.assertLess(len(self.pieces), len(_CONTENT) / _RECORD / 8)
        self.met.server_tls.write(b"and one")
        self.met.pump()
        self.assertEqual(self.pieces[-1], len(b"and one"))

    def test_end_with_the_last_bytes(self) -> None:
        """A ``close_notify`` that arrives with data is reported after it."""
        self.met.server_tls.write(_CONTENT)
        self.met.server_tls.loseConnection()
        self.met.pump()
        self.assertEqual(self.met.client.received, _CONTENT)
        assert self.met.client.reason is not None
        self.assertIsInstance(self.met.client.reason.value, ConnectionDone)

    def test_damage_after_good_records(self) -> None:
        """What arrived before a damaged record is delivered, and then the connection ends with an error."""
        self.met.server_tls.write(_CONTENT)
        data = bytearray(self.sent())
        data[-1] ^= 1
        self.met.client_tls.dataReceived(bytes(data))
        self.assertEqual(len(self.met.client.received) % _RECORD, 0)
        self.assertEqual(self.met.client.received, _CONTENT[: len(self.met.client.received)])
        self.assertGreater(len(self.met.client.received), len(_CONTENT) - 2 * _RECORD)
        self.assertTrue(self.met.client_tls.transport.closed)
        self.met.client_tls.connectionLost(Failure(ConnectionDone()))
        assert self.met.client.reason is not None
        self.assertIsInstance(self.met.client.reason.value, SSL.Error)
