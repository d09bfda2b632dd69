"""Tests for :mod:`contentcache.server.factory`."""

from __future__ import annotations

from contentcache.config.model import Limits
from tests.registry.harness import BLOB, CONTENT, RegistryTestCase, SteppedBody, request


class _Port:
    """As much of a listening port as a factory needs."""

    connected = True
    disconnecting = False
    reading = True

    def startReading(self) -> None:
        """Accept connections."""
        self.reading = True

    def stopReading(self) -> None:
        """Accept none for now."""
        self.reading = False


class LimitTests(RegistryTestCase):
    """How many connections there may be."""

    def test_too_many(self) -> None:
        """
        One too many is told to come again at its first request, and that it is over; when another has gone
        there is room.
        """
        self.factory = self.build(limits=Limits(connections=2))
        first, second = self.client(), self.client()
        third = self.client()
        third.send(request("/") + request("/"))
        (reply,) = third.replies()
        self.assert_refused(reply, 503, "UNAVAILABLE")
        self.assertEqual(reply.header("Retry-After"), "5")
        self.assertTrue(third.ended)
        self.assertEqual([line.status for line in self.lines], [503])
        self.assertEqual(self.factory.connections, 2)
        third.leave()
        first.leave()
        self.assertEqual(self.client().ask("/").status, 200)
        self.assertEqual(second.ask("/").status, 200)

    def test_silent_ones(self) -> None:
        """
        One too many that asks nothing is not kept; while there are many such, no further connection is
        accepted.
        """
        self.factory = self.build(limits=Limits(connections=1))
        port = _Port()
        self.factory.listens(port)
        guest = self.client()
        self.assertEqual(self.factory.accepts, 64)
        silent = [self.client() for _ in range(63)]
        self.assertTrue(port.reading)
        silent.append(self.client())
        self.assertEqual((port.reading, self.factory.accepts), (False, 1))
        self.clock.advance(6)
        self.assertTrue(all(client.ended for client in silent))
        self.assertFalse(any(client.transport.disconnected for client in silent), "none is reset")
        for client in silent:
            client.leave()
        self.assertTrue(port.reading)
        self.assertEqual(guest.ask("/").status, 200)

    def test_port_that_stops(self) -> None:
        """A port that accepts no more does not begin to again."""
        self.factory = self.build(limits=Limits(connections=1))
        self.factory.most_turned_away = 1
        port = _Port()
        self.factory.listens(port)
        self.client()
        second = self.client()
        port.disconnecting = True
        second.leave()
        self.assertFalse(port.reading)

    def test_per_address(self) -> None:
        """``limits.connectionsperaddress`` counts each address for itself; ``limits.connections`` all."""
        self.factory = self.build(limits=Limits(connectionsperaddress=1))
        one = self.client("192.0.2.1")
        self.assertEqual(self.client("192.0.2.1").ask("/").status, 503)
        self.assertEqual(self.client("192.0.2.2").ask("/").status, 200)
        one.leave()
        self.assertEqual(self.client("192.0.2.1").ask("/").status, 200)

    def test_trusted_proxy(self) -> None:
        """
        Connections and incomplete heads of a trusted proxy are not counted as those of one client, only in
        ``limits.connections``.
        """
        self.factory = self.build(limits=Limits(connections=5, connectionsperaddress=1, headsperaddress=1))
        for address in ("127.0.0.1", "127.0.0.1", "::1", "::ffff:127.0.0.1"):
            self.client(address).send("GET / HTTP/1.1\r\n")
        client = self.client("127.0.0.1").send("GET / HTTP/1.1\r\n").send("Host: a\r\n\r\n")
        self.assertEqual(client.replies()[-1].status, 200)
        self.assertEqual(self.client("127.0.0.1").ask("/").status, 503)

    def test_unlimited_address(self) -> None:
        """Unless it is set many may sit behind one address."""
        clients = [self.client() for _ in range(100)]
        self.assertEqual({client.ask("/").status for client in clients}, {200})

    def test_ipv6(self) -> None:
        """Addresses of IPv6 are counted by /64, and IPv4 behind a dual-stack socket by its own address."""
        self.factory = self.build(limits=Limits(connectionsperaddress=1))
        self.client("2001:db8:0:1::1")
        self.client("::ffff:192.0.2.1")
        asked = ("2001:db8:0:1:ffff::2", "2001:db8:0:2::1", "192.0.2.1", "::ffff:192.0.2.2")
        self.assertEqual([self.client(one).ask("/").status for one in asked], [503, 200, 503, 200])

    def test_incomplete_heads(self) -> None:
        """
        ``limits.headsperaddress`` bounds the request heads of an address that have begun and are not
        complete. Heads
        that come whole are answered all the same, and so are other addresses; silent connections do not
        count.
        """
        self.factory = self.build(limits=Limits(headsperaddress=2))
        silent = [self.client() for _ in range(5)]
        begun = [client.send("GET / HTTP/1.1\r\n") for client in silent[:2]]
        third = silent[2].send("GET / HTTP/1.1\r\n")
        self.assert_refused(third.replies()[-1], 503, "UNAVAILABLE")
        self.assertTrue(third.ended)
        self.assertIn(b'contentcache_requests_limited_total{limit="heads"} 1.0', self.meter.text())
        self.assertEqual(self.client().ask("/").status, 200)
        other = self.client("192.0.2.2").send("GET / HTTP/1.1\r\n").send("Host: a\r\n\r\n")
        self.assertEqual(other.replies()[-1].status, 200)
        begun[0].send("Host: a\r\n\r\n")
        self.assertEqual(begun[0].replies()[-1].status, 200)
        fourth = silent[3].send("GET / HT")
        self.assertEqual(fourth.replies(), [])
        begun[1].leave()
        fifth = silent[4].send("GET / HTTP/1.1\r\n").send("Host: a\r\n\r\n")
        self.assertEqual(fifth.replies()[-1].status, 200)

    def test_incomplete_heads_later(self) -> None:
        """A head that begins on a connection that has asked before counts too."""
        self.factory = self.build(limits=Limits(headsperaddress=1))
        first = self.client()
        self.assertEqual(first.ask("/").status, 200)
        self.client().send("GET")
        first.send("GET / HT")
        self.assert_refused(first.replies()[-1], 503, "UNAVAILABLE")

    def test_default(self) -> None:
        """4096 by default."""
        for _ in range(4096):
            self.factory.buildProtocol(None)
        self.assertEqual(self.client().ask("/").status, 503)


class DrainTests(RegistryTestCase):
    """The end of all connections."""

    def test_idle_first(self) -> None:
        """Connections on which nothing is under way end at once, the others after their answer, which says so."""
        self.services.content = body = SteppedBody()
        idle, busy, later = self.client(), self.client(), self.client()
        idle.ask("/")
        busy.send(request(BLOB))
        later.send("GET / HTT")
        self.factory.close_idle()
        self.assertEqual((idle.ended, busy.ended, later.ended), (True, False, False))
        self.assertEqual(self.factory.busy, 1)
        later.send("P/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual([reply.header("Connection") for reply in later.replies()], ["close"])
        self.assertTrue(later.ended)
        busy.send(request("/"))
        body.give(len(CONTENT))
        (reply,) = busy.replies()
        self.assertTrue(reply.whole)
        self.assertEqual((busy.ended, self.factory.busy), (True, 0))

    def test_cut(self) -> None:
        """What does not come to its end is ended short, its work is cancelled, and it has its line."""
        self.services.content = body = SteppedBody()
        client = self.client().send(request(BLOB))
        body.give(10)
        client.transport.dataBuffer = b"what it does not take"  # type: ignore[attr-defined]  # a socket's has one
        self.assertEqual(self.factory.busy, 1)
        self.factory.cut()
        self.assertEqual(self.factory.busy, 0, "nobody is waited for any more")
        self.assertEqual((client.ended, client.transport.disconnected), (True, False))
        self.assertTrue(body.closed)
        self.assertEqual([(line.status, line.sent) for line in self.lines], [(200, 10)])
        client.leave()
        self.assertEqual((len(self.lines), self.factory.connections), (1, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
