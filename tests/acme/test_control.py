"""Tests for :mod:`contentcache.acme.control`."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from contentcache.acme.control import (
    MAX_CONNECTIONS,
    MAX_REQUEST_SIZE,
    ControlFactory,
    ControlSocket,
    NoDaemonError,
    send_command,
    socket_path,
)
from contentcache.acme.renewal_state import RenewalOutcome
from tests.acme.renewal_case import HOST, RenewalTestCase

reactor: Any = global_reactor


class DaemonTests(RenewalTestCase):
    """The daemon's side."""

    def told(self, line: str, seconds: float = 5) -> list[Any]:
        """What it answers."""
        assert self.renewal_loop is not None
        transport, protocol = self.connected(ControlFactory(self.renewal_loop, self.clock))
        protocol.dataReceived(line.encode() + b"\n")
        self.pass_time(seconds)
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))
        return [json.loads(each) for each in transport.value().splitlines()]

    @staticmethod
    def connected(factory: ControlFactory) -> tuple[StringTransport, Any]:
        """Somebody connects."""
        transport, protocol = StringTransport(), factory.buildProtocol(None)
        protocol.makeConnection(transport)
        return transport, protocol

    def test_commands(self) -> None:
        """It reports the status, renews, and knows no other host and no other command."""
        self.build()
        self.pass_time(5)
        first = self.number()
        [status] = self.told("status")
        self.assertEqual((status["host"], status["is_new"]), (HOST, True))
        self.assertEqual(self.number(), first)
        [renewed] = self.told("renew")
        self.assertTrue(renewed["is_new"])
        self.assertNotEqual(self.number(), first)
        [stranger] = self.told("renew x.example")
        self.assertEqual((stranger["host"], stranger["is_new"]), ("x.example", False))
        for line in ("", "dance", "renew\x00", "\u00fc"):
            self.assertEqual(self.told(line), [])

    def test_one_request(self) -> None:
        """Whatever follows the first line is ignored."""
        self.build()
        self.pass_time(5)
        self.assertEqual(len(self.told("status\nstatus\nrenew\n" + "x" * MAX_REQUEST_SIZE)), 1)
        self.assertEqual(self.server.count("/finalize"), 1)

    def test_bounds(self) -> None:
        """
        A client that sends too much, too slowly, or does not read the response is disconnected; too many
        connections are refused.
        """
        factory = ControlFactory(self.build(), self.clock)
        long, protocol = self.connected(factory)
        protocol.dataReceived(b"status")
        protocol.dataReceived(b"x" * MAX_REQUEST_SIZE)
        self.assertEqual((long.disconnecting, long.value()), (True, b""))
        slow, _ = self.connected(factory)
        deaf, protocol = self.connected(factory)
        protocol.dataReceived(b"status\n")
        self.assertNotEqual(deaf.value(), b"")
        for _ in range(MAX_CONNECTIONS - 3):
            self.connected(factory)
        busy, _ = self.connected(factory)
        self.assertIn(b"too many ask the daemon at once", busy.value())
        self.assertTrue(busy.disconnecting)
        self.clock.advance(11)
        self.assertEqual([each.disconnected for each in (long, slow, deaf)], [True] * 3)
        for each in tuple(factory.connections):
            each.connectionLost(Failure(ConnectionDone()))
        free, _ = self.connected(factory)
        self.assertEqual(free.value(), b"")

    def test_waits(self) -> None:
        """A client that waits for a certificate has no timeout, and is told when the daemon stops."""
        self.server.hangs = True
        renewal_loop = self.build()
        factory = ControlFactory(renewal_loop, self.clock)
        waiting, protocol = self.connected(factory)
        protocol.dataReceived(b"renew\n")
        self.pass_time(20)
        self.assertFalse(waiting.disconnecting)
        self.stop()
        factory.stop()
        self.assertIn(b"the daemon stops", waiting.value())
        self.assertTrue(waiting.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SocketTests(TestCase):
    """The real socket."""

    def setUp(self) -> None:
        self.folder = self.mktemp()
        os.makedirs(self.folder)
        self.renewing: Deferred[RenewalOutcome] = Deferred()
        renewal_loop: Any = SimpleNamespace(
            states={HOST: None},
            health=lambda _: ("ok", "well"),
            next_attempt=lambda _: None,
            renew=lambda _: [self.renewing],
        )
        self.control = ControlSocket(reactor, self.folder, renewal_loop)
        self.addCleanup(self.control.stop)

    def path(self) -> str:
        """Where it is."""
        return os.path.join(self.folder, "control")

    def is_there(self) -> bool:
        """Whether there is such a file."""
        return os.path.exists(self.path())

    async def test_ours_alone(self) -> None:
        """It belongs to the daemon's account alone from the beginning, whatever the umask is, and responds."""
        modes = []
        listen = socket.socket.listen

        def listening(sock: Any, *arguments: int) -> None:
            modes.append(stat.S_IMODE(os.stat(self.path()).st_mode))
            listen(sock, *arguments)

        self.patch(socket.socket, "listen", listening)
        self.addCleanup(os.umask, os.umask(0))
        self.control.start()
        self.assertEqual([*modes, stat.S_IMODE(os.stat(self.path()).st_mode)], [0o600, 0o600])
        told = await deferToThread(list, send_command(self.folder, "status"))
        self.assertEqual(told, [RenewalOutcome(HOST, True, "well")])
        self.control.stop()
        self.assertFalse(self.is_there())

    async def test_left_behind(self) -> None:
        """A socket that a killed daemon has left is replaced; that of a running one is not."""
        with socket_path(self.folder) as path, socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        self.control.start()
        other = ControlSocket(reactor, self.folder, None)  # type: ignore[arg-type]
        self.assertRaises(OSError, other.start)
        self.assertEqual(len(await deferToThread(list, send_command(self.folder, "status"))), 1)

    def test_in_the_way(self) -> None:
        """A file of another kind is left as it is."""
        with open(self.path(), "w", encoding="ascii"):
            pass
        self.assertRaises(OSError, self.control.start)
        self.assertTrue(self.is_there())

    async def test_taken_away(self) -> None:
        """It stops though its file was deleted, and so do waiting clients."""
        self.control.start()
        asking = deferToThread(list, send_command(self.folder, "renew"))
        while not self.control._factory.connections:
            await _turn()
        os.unlink(self.path())
        self.control.stop()
        self.assertEqual(await asking, [])
        self.assertRaises(NoDaemonError, list, send_command(self.folder, "status"))

    def test_no_descriptor(self) -> None:
        """When ``accept`` fails it is tried again later."""
        memory = MemoryReactorClock()
        control = ControlSocket(memory, self.folder, None)  # type: ignore[arg-type]
        control.start()
        self.addCleanup(control.stop)

        def full(_sock: object) -> None:
            raise OSError(24, "Too many open files")

        self.patch(socket.socket, "accept", full)
        control.doRead()
        self.assertEqual(memory.getReaders(), [])
        memory.advance(1)
        self.assertEqual(memory.getReaders(), [control])


class ClientTests(SynchronousTestCase):
    """The client's side."""

    def test_no_daemon(self) -> None:
        """Without a socket, or with one on which nobody listens, there is no daemon."""
        folder = self.mktemp()
        self.assertRaises(NoDaemonError, list, send_command(folder, "status"))
        os.makedirs(folder)
        self.assertRaises(NoDaemonError, list, send_command(folder, "status"))
        with socket_path(folder) as path, socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        self.assertRaises(NoDaemonError, list, send_command(folder, "status"))

    def test_long_path(self) -> None:
        """A directory's path may be longer than a socket's can be."""
        folder = os.path.join(self.mktemp(), "a" * 90, "b" * 90)
        os.makedirs(folder)
        with socket.socket(socket.AF_UNIX) as server:
            with socket_path(folder) as path:
                server.bind(path)
            server.listen()

            def answer() -> None:
                line, _ = server.accept()
                with line:
                    line.recv(100)
                    line.sendall(b'{"host": "a", "is_new": true, "says": "yes"}\n')

            thread = threading.Thread(target=answer)
            thread.start()
            self.assertEqual(list(send_command(folder, "status")), [RenewalOutcome("a", True, "yes")])
            thread.join()


def _turn() -> Deferred[None]:
    """The reactor goes round once."""
    turned: Deferred[None] = Deferred()
    reactor.callLater(0.001, turned.callback, None)
    return turned
