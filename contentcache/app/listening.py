"""Sockets to listen on: bound while the daemon may still have privileges, served when it is ready."""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol, Self, cast, runtime_checkable

from attrs import evolve, frozen
from twisted.internet import tcp

from contentcache.aio.reactor import SocketReactor
from contentcache.config.model import Address
from contentcache.persist.unix_socket import is_stale
from contentcache.wire.sendfile import FileTransport
from contentcache.wire.sendfile_pool import SendfilePool
from contentcache.wire.tls_socket import TLSFactory, tls_transport

_BACKLOG: Final = 1024
#: Connections that are accepted in one turn of the reactor.
_ACCEPTS_PER_TURN: Final = 100
#: Seconds in which an address may still be in use by processes that are about to end.
_RETRY_FOR: Final = 2.0
_STEP: Final = 0.02
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class ListenError(Exception):
    """An address cannot be bound; the message says which and why."""


def bind(address: Address, *, among: bool = False) -> socket.socket:
    """
    A listening socket at ``address``: for no host every address, of IPv6 and IPv4 alike where the machine has
    both. With ``among`` it is one of several between which the kernel divides connections.

    :raises ListenError: the address is in use, or not permitted.
    """
    try:
        if address.path is not None:
            return _bind_path(address.path)
        return _bind_port(address, among=among)
    except (OSError, ValueError) as error:  # the latter of names that can be no host's and no file's
        reason = getattr(error, "strerror", None) or error
        raise ListenError(f"cannot listen on {format_address(address)}: {reason}") from error


def bind_shared(address: Address, number: int) -> list[socket.socket]:
    """
    ``number`` listening sockets at one ``address``; at a path it is one, and the others are its duplicates.

    Sockets that share a port would also share it with another daemon of the same account, unnoticed: so the
    first attempt is for the port alone, and is repeated while a killed process may still have it.

    :raises ListenError: the address is in use, or not permitted.
    """
    first = _bind_with_retry(address)
    if address.path is not None:
        return [first, *(_nonblocking(first.dup()) for _ in range(number - 1))]
    # A port 0 has become some port.
    port = first.getsockname()[1]
    first.close()
    return [bind(evolve(address, port=port), among=True) for _ in range(number)]


def _bind_with_retry(address: Address) -> socket.socket:
    until = time.monotonic() + _RETRY_FOR
    while True:
        try:
            return bind(address)
        except ListenError as refused:
            error = refused.__cause__
            if getattr(error, "errno", None) != errno.EADDRINUSE or time.monotonic() >= until:
                raise
            time.sleep(_STEP)


def format_address(address: Address) -> str:
    """
    An address for people.

    >>> format_address(Address("", 5000)), format_address(Address("::1", 5000))
    (':5000', '[::1]:5000')
    """
    if address.path is not None:
        return address.path
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def serve(
    reactor: SocketReactor,
    bound: socket.socket,
    factory: Any,
    *,
    fast: bool = False,
    tls: Any | None = None,
    pool: SendfilePool | None = None,
) -> Any:
    """
    Accept connections for ``factory``; answers Twisted's port. The socket is the reactor's from now on.

    With ``fast``, TCP connections can send straight from files, and by threads of ``pool``. With ``tls``,
    which makes contexts, they are secure.
    """
    fast = fast and bound.family in {socket.AF_INET, socket.AF_INET6}
    clients = factory
    if tls is not None and not fast:
        factory = TLSFactory(tls, False, factory, cast("Any", reactor))
        factory.noisy = False
    port = reactor.adoptStreamPort(bound.fileno(), bound.family, factory)
    if bound.family == socket.AF_UNIX:
        # Twisted's own takes the path away, which may be another process's too: that is for its SocketPath.
        port.connectionLost = partial(tcp.Port.connectionLost, port)
    if fast:
        port.transport = FileTransport.with_pool(pool) if tls is None else tls_transport(tls).with_pool(pool)
    bound.close()
    if isinstance(clients, LimitedFactory):
        port.__class__ = _accepting(clients, type(port))
        clients.listens(port)
    return port


@runtime_checkable
class LimitedFactory(Protocol):
    """
    A factory that is told of its port, to stop and start it, and says how many connections it can take at
    once.
    """

    @property
    def accepts(self) -> int:
        """As it says."""

    def listens(self, port: Any) -> None:
        """The port."""


def _accepting(factory: LimitedFactory, port: type[Any]) -> type[Any]:
    """
    The class of a port that accepts no more connections at once than ``factory`` says: Twisted's own accepts
    hundreds before the first of them is heard, and counts them in an attribute.
    """
    at_once = property(lambda _self: min(_ACCEPTS_PER_TURN, factory.accepts), lambda _self, _wanted: None)
    return type(port.__name__, (port,), {"numberAccepts": at_once})


@frozen
class SocketPath:
    """The path of a socket that this process has bound, and the file that it found there."""

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, address: Address) -> Self | None:
        """The path of a socket that was just bound to ``address``, if that is one."""
        if address.path is None:
            return None
        found = os.stat(address.path)
        return cls(address.path, found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Delete the socket, unless it was deleted or replaced."""
        with suppress(OSError):
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)


async def stop(port: Any) -> None:
    """Close a port that :func:`serve` has opened; connections stay."""
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


def _bind_port(address: Address, *, among: bool) -> socket.socket:
    if address.host == "" and socket.has_dualstack_ipv6():
        try:
            return _nonblocking(
                socket.create_server(
                    ("", address.port),
                    family=socket.AF_INET6,
                    backlog=_BACKLOG,
                    reuse_port=among,
                    dualstack_ipv6=True,
                )
            )
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise  # without IPv6 only half of the addresses would be bound
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = found[0]
    return _nonblocking(socket.create_server(where, family=family, backlog=_BACKLOG, reuse_port=among))


def _bind_path(path: str) -> socket.socket:
    if is_stale(path):
        os.unlink(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(path)
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    return _nonblocking(bound)


def _nonblocking(bound: socket.socket) -> socket.socket:
    bound.setblocking(False)
    return bound
