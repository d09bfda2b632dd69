"""
The control socket: how ``contentcache certificates`` talks to the daemon.

It is a Unix socket in the directory of the certificates, for the daemon's own account and root alone. A
client sends one line, ``renew`` or ``status`` and perhaps hosts; it receives a line of JSON for each host,
then the end. The daemon limits connections, the size of a request, and the time for it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict
from twisted.internet.protocol import Protocol, ServerFactory

from contentcache.acme.renewal_state import RenewalOutcome
from contentcache.aio.reactor import DaemonReactor
from contentcache.core.ports import DelayedCall, Timer
from contentcache.persist.unix_socket import short_path
from contentcache.wire.private_socket import PrivateSocket

if TYPE_CHECKING:
    # The command line needs none of what it imports.
    from contentcache.acme.renewal_loop import RenewalLoop

#: The socket's name in the directory.
SOCKET_NAME: Final = "control"
#: Limits of the daemon: connections, and bytes of a request.
MAX_CONNECTIONS: Final = 16
MAX_REQUEST_SIZE: Final = 1 << 16
#: Timeout in seconds for sending a request, and for closing after the response.
_CONNECTION_TIMEOUT: Final = 10.0
#: Timeout of the client in seconds: a renewal may wait for others, and for a slow ACME server.
_RESPONSE_TIMEOUT: Final = 1800.0


class NoDaemonError(Exception):
    """No daemon uses this directory now."""


def socket_path(folder: str) -> AbstractContextManager[str]:
    """The path of the socket, short enough for the kernel however long the directory's path is."""
    return short_path(os.path.join(folder, SOCKET_NAME))


def send_command(folder: str, command: str, hosts: Sequence[str] = ()) -> Iterator[RenewalOutcome]:
    """
    Send a command to the daemon, and yield its outcomes as they come. Blocks.

    :raises NoDaemonError: there is none.
    :raises OSError: the socket cannot be used.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_RESPONSE_TIMEOUT)
        try:
            with socket_path(folder) as path:
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemonError from error
        # A daemon with too many connections may have closed this one after its response.
        with suppress(BrokenPipeError, ConnectionResetError), connection.makefile("rb") as lines:
            with suppress(BrokenPipeError):
                connection.sendall(" ".join([command, *hosts]).encode() + b"\n")
            for line in lines:
                yield RenewalOutcome(**json.loads(line))


class ControlSocket(PrivateSocket):
    """The daemon's socket, registered with the reactor."""

    def __init__(self, reactor: DaemonReactor, folder: str, renewal_loop: RenewalLoop) -> None:
        self._factory = ControlFactory(renewal_loop, reactor)
        super().__init__(reactor, os.path.join(folder, SOCKET_NAME), self._factory)

    def stop(self) -> None:
        """Stop listening, and close all connections."""
        super().stop()
        self._factory.stop()


class ControlFactory(ServerFactory):
    """Makes the daemon's connections, up to a limit."""

    noisy = False

    def __init__(self, renewal_loop: RenewalLoop, timer: Timer) -> None:
        self.renewal_loop = renewal_loop
        self.timer = timer
        self.connections: set[_ControlConnection] = set()

    def buildProtocol(self, _addr: Any) -> Protocol:
        is_full = len(self.connections) >= MAX_CONNECTIONS
        return _BusyConnection() if is_full else _ControlConnection(self)

    def stop(self) -> None:
        """Close all connections."""
        for each in tuple(self.connections):
            each.close()


class _BusyConnection(Protocol):
    """A connection beyond the limit."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        _send(transport, RenewalOutcome("", False, "too many ask the daemon at once; try again"))
        transport.loseConnection()


class _ControlConnection(Protocol):
    """One request and its response."""

    def __init__(self, factory: ControlFactory) -> None:
        self._factory = factory
        self._renewal_loop = factory.renewal_loop
        self._received = b""
        self._has_request = False
        self._waiting = 0
        self._timeout: DelayedCall | None = None

    def connectionMade(self) -> None:
        self._factory.connections.add(self)
        self._start_timeout()

    def connectionLost(self, _reason: Any = None) -> None:
        self._factory.connections.discard(self)
        self._cancel_timeout()

    def dataReceived(self, data: bytes) -> None:
        if self._has_request:
            return
        self._received += data
        line, newline, _ = self._received.partition(b"\n")
        self._has_request = bool(newline) or len(line) > MAX_REQUEST_SIZE
        if len(line) > MAX_REQUEST_SIZE:
            self.close()
        elif newline:
            self._cancel_timeout()
            self._respond(line.decode("utf-8", "replace"))

    def _respond(self, line: str) -> None:
        command, *named = line.split() or [""]
        states = self._renewal_loop.states
        for host in dict.fromkeys(named):
            if host not in states:
                _send(self.transport, RenewalOutcome(host, False, "this host is not in letsencrypt.hosts"))
        hosts = [host for host in dict.fromkeys(named or states) if host in states]
        if command == "renew" and hosts:
            self._waiting = len(hosts)
            for waiter in self._renewal_loop.renew(hosts):
                waiter.addCallback(self._send_outcome)
            return
        if command == "status":
            for host in hosts:
                health, text = self._renewal_loop.health(states[host])
                again = self._renewal_loop.next_attempt(states[host])
                _send(self.transport, RenewalOutcome(host, health == "ok", text, again))
        self.close()

    def _send_outcome(self, outcome: RenewalOutcome) -> None:
        _send(self.transport, outcome)
        self._waiting -= 1
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close the connection, also of a client that does not read the response."""
        transport: Any = self.transport
        transport.loseConnection()
        if self in self._factory.connections:
            self._start_timeout()

    def _start_timeout(self) -> None:
        transport: Any = self.transport
        self._cancel_timeout()
        self._timeout = self._factory.timer.callLater(_CONNECTION_TIMEOUT, transport.abortConnection)

    def _cancel_timeout(self) -> None:
        timeout, self._timeout = self._timeout, None
        if timeout is not None and timeout.active():
            timeout.cancel()


def _send(transport: Any, outcome: RenewalOutcome) -> None:
    transport.write(json.dumps(asdict(outcome)).encode("ascii") + b"\n")
