"""Sockets to listen on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast
from unittest import skipIf

from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Server
from twisted.python.filepath import FilePath
from twisted.trial.unittest import SynchronousTestCase, TestCase

from contentcache.aio.threads import at_once
from contentcache.app import listening
from contentcache.app.listening import ListenError, SocketPath, bind, bind_shared, format_address, serve, stop
from contentcache.config.model import Address
from contentcache.wire.sendfile import FileTransport
from contentcache.wire.sendfile_pool import SendfilePool
from contentcache.wire.tls_socket import TLSTransport

reactor: Any = global_reactor
_HAS_IPV6 = socket.has_dualstack_ipv6()


class PortTests(SynchronousTestCase):
    """TCP."""

    def bound(self, host: str, port: int = 0) -> socket.socket:
        """A listening socket that is closed after the test."""
        found = bind(Address(host, port))
        self.addCleanup(found.close)
        return found

    def test_one_address(self) -> None:
        """At a host's address connections are taken, and the reactor is not held up by the socket."""
        bound = self.bound("127.0.0.1")
        self.assertEqual((bound.getsockname()[0], bound.getblocking()), ("127.0.0.1", False))
        with closing(socket.create_connection(bound.getsockname(), 5)):
            pass

    @skipIf(not _HAS_IPV6, "no IPv6 here")
    def test_every_address(self) -> None:
        """Without a host both families are served."""
        port = self.bound("").getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with closing(socket.create_connection((host, port), 5)):
                pass

    def test_without_ipv6(self) -> None:
        """Without a host and without IPv6, IPv4 is served."""
        self.patch(socket, "has_dualstack_ipv6", lambda: False)
        self.assertEqual(self.bound("").family, socket.AF_INET)

    @skipIf(not _HAS_IPV6, "no IPv6 here")
    def test_ipv6_literal(self) -> None:
        """An address of IPv6 is just another address."""
        self.assertEqual(self.bound("::1").getsockname()[0], "::1")

    def test_taken(self) -> None:
        """A port that somebody else has is a sentence that names it."""
        port = self.bound("127.0.0.1").getsockname()[1]
        for host in ("127.0.0.1", ""):
            error = self.assertRaises(ListenError, bind, Address(host, port))
            self.assertIn(f"cannot listen on {host}:{port}: ", str(error))
            self.assertIn(os.strerror(errno.EADDRINUSE), str(error))

    def test_several(self) -> None:
        """Several sockets of one port, each with a queue of its own, share all connections between them."""
        several = bind_shared(Address("127.0.0.1", 0), 3)
        for each in several:
            self.addCleanup(each.close)
        where = several[0].getsockname()
        self.assertEqual({each.getsockname() for each in several}, {where})
        clients = [socket.create_connection(where, 5) for _ in range(60)]
        taken = 0
        for each in several:
            with contextlib.suppress(BlockingIOError):
                while True:
                    each.accept()[0].close()
                    taken += 1
        self.assertEqual(taken, 60)
        for client in clients:
            client.close()

    def test_several_taken(self) -> None:
        """A port is not shared with anybody else who would share it, such as a second daemon."""
        self.patch(listening, "_RETRY_FOR", 0.0)
        (other,) = bind_shared(Address("127.0.0.1", 0), 1)
        self.addCleanup(other.close)
        where = Address(*other.getsockname())
        self.assertRaises(ListenError, bind_shared, where, 2)

    @skipIf(not _HAS_IPV6, "no IPv6 here")
    def test_half_taken(self) -> None:
        """If somebody else has one of the two families, the other one is not taken for both."""
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
            port = other.getsockname()[1]
            self.assertRaises(ListenError, bind, Address("", port))

    def test_no_such_host(self) -> None:
        """A host that is not ours, one that nobody knows, and one that cannot be: each is a sentence."""
        look_up = socket.getaddrinfo

        def without_network(host: str, *args: Any, **kwargs: Any) -> Any:
            if host == "nobody.invalid":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return look_up(host, *args, **kwargs)

        self.patch(socket, "getaddrinfo", without_network)
        for host in ("192.0.2.1", "nobody.invalid", "a..b"):
            error = self.assertRaises(ListenError, bind, Address(host, 5000))
            self.assertIn(f"cannot listen on {host}:5000: ", str(error))

    def test_shown(self) -> None:
        """Addresses as people write them."""
        for address, text in [
            (Address("", 5000), ":5000"),
            (Address("a.example", 80), "a.example:80"),
            (Address("::", 80), "[::]:80"),
            (Address("", 0, "/run/x"), "/run/x"),
        ]:
            self.assertEqual(format_address(address), text)


class PathTests(SynchronousTestCase):
    """Sockets of the file system."""

    def setUp(self) -> None:
        # Not mktemp(): a socket's path has at most 107 bytes.
        folder = mkdtemp()
        self.addCleanup(FilePath(folder).remove)
        self.path = str(Path(folder) / "s")
        self.address = Address("", 0, self.path)

    def connect(self) -> None:
        """Connect to the path once."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)

    def test_served(self) -> None:
        """Connections are taken, and the reactor is not held up."""
        with closing(bind(self.address)) as bound:
            self.assertFalse(bound.getblocking())
            self.connect()

    def test_left_behind(self) -> None:
        """The file of a daemon that was killed is in nobody's way."""
        bind(self.address).close()
        self.assertTrue(os.path.exists(self.path))
        with closing(bind(self.address)):
            self.connect()

    def test_somebody_listens(self) -> None:
        """A socket at which somebody listens is left alone."""
        with closing(bind(self.address)):
            error = self.assertRaises(ListenError, bind, self.address)
            self.assertIn(f"cannot listen on {self.path}: ", str(error))
            self.connect()

    def test_owner(self) -> None:
        """The owner of a path takes it away once; what another daemon has put there stays."""
        with closing(bind(self.address)):
            own = SocketPath.of(self.address)
            assert own is not None
            own.remove()
            self.assertFalse(os.path.exists(self.path))
            own.remove()
            with closing(bind(self.address)):
                own.remove()
                self.connect()
        self.assertIsNone(SocketPath.of(Address("127.0.0.1", 5000)))

    def test_somebody_busy(self) -> None:
        """One whose queue is full is alive, and asking it does not hold us up."""
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(self.path)
            other.listen(0)
            with socket.socket(socket.AF_UNIX) as waiting:
                waiting.connect(self.path)
                self.assertRaises(ListenError, bind, self.address)
            self.assertTrue(os.path.exists(self.path))

    def test_another_kind(self) -> None:
        """A socket that we cannot talk to is not ours to take away."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(self.path)
            self.assertRaises(ListenError, bind, self.address)
            self.assertTrue(os.path.exists(self.path))

    def test_no_socket(self) -> None:
        """Another file at the path stays as it is."""
        Path(self.path).write_text("precious")
        self.assertRaises(ListenError, bind, self.address)
        self.assertEqual(Path(self.path).read_text(), "precious")

    def test_bad_paths(self) -> None:
        """No folder, a path that is too long, and one that can be no file's: each is a sentence."""
        for path in (self.path + "/a/b", "/tmp/" + "x" * 200, self.path + "\x00"):
            error = self.assertRaises(ListenError, bind, Address("", 0, path))
            self.assertIn(path, str(error))


class _Port:
    """What a reactor makes of a socket, as much as is looked at."""

    transport: Any = Server

    def adoptStreamPort(self, _descriptor: int, _family: int, factory: Any) -> _Port:
        """Listen."""
        self.factory = factory
        return self


class SharedPathTests(TestCase):
    """One socket of several processes, over the real reactor."""

    async def test_shared(self) -> None:
        """Ports of one socket, as of several processes, end one after the other; its path stays for its owner."""
        path = Path(mkdtemp()) / "s"
        self.addCleanup(FilePath(str(path.parent)).remove)
        ports = [
            serve(reactor, bound, Factory.forProtocol(Protocol))
            for bound in bind_shared(Address("", 0, str(path)), 2)
        ]
        for port in ports:
            await stop(port)
            self.assertTrue(path.exists())


class ServeTests(SynchronousTestCase):
    """Which connections a port makes."""

    def served(self, bound: socket.socket, **options: Any) -> Any:
        """The port."""
        self.addCleanup(bound.close)
        return serve(cast("Any", _Port()), bound, Factory(), **options)

    def test_short_ways(self) -> None:
        """
        Over TCP files are sent from where they are, by threads too, and TLS is on the socket; elsewhere, and
        where it is off, both are Twisted's own.
        """
        contexts: Any = object()
        pool = SendfilePool(at_once, 1)
        for fast, tls, transport in (
            (True, None, FileTransport),
            (True, contexts, TLSTransport),
            (False, None, Server),
        ):
            port = self.served(bind(Address("127.0.0.1", 0)), fast=fast, tls=tls, pool=pool)
            self.assertTrue(issubclass(port.transport, transport))
            self.assertEqual(issubclass(port.transport, FileTransport), fast)
            self.assertIs(getattr(port.transport, "pool", None), pool if fast else None)
        path = os.path.join(mkdtemp(), "socket")
        self.assertIs(self.served(bind(Address("", 0, path)), fast=True).transport, Server)
