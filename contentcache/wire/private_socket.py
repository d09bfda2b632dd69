"""A Unix socket for the daemon's own account and root alone."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from contentcache.aio.reactor import DaemonReactor
from contentcache.persist.unix_socket import is_stale, short_path

_BACKLOG: Final = 16
#: Seconds until the next ``accept`` after one that failed, perhaps for lack of file descriptors.
_ACCEPT_RETRY: Final = 1.0


@implementer(IReadDescriptor)
class PrivateSocket:
    """
    Listens at ``path`` for ``factory``, registered with the reactor.

    Not Twisted's own port: that one lets every account connect, and does not stop where the file was deleted.
    """

    def __init__(self, reactor: DaemonReactor, path: str, factory: Any) -> None:
        self._reactor = reactor
        self._path = path
        self._clients = factory
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """
        Listen. A socket that a killed daemon has left is replaced.

        :raises OSError: it is not possible.
        """
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.setblocking(False)
        try:
            with short_path(self._path) as path:
                if is_stale(path):
                    os.unlink(path)
                bound.bind(path)
                # Before it listens nobody can connect, so no other account ever can.
                os.chmod(path, 0o600)
                bound.listen(_BACKLOG)
        except OSError:
            bound.close()
            raise
        self._socket = bound
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Stop listening."""
        if self._socket is None:
            return
        self._reactor.removeReader(self)
        with suppress(OSError):
            os.unlink(self._path)
        self._socket.close()
        self._socket = None

    def fileno(self) -> int:
        """The file descriptor of the socket."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        """The name in the log."""
        return os.path.basename(self._path)

    def connectionLost(self, _reason: Any) -> None:
        """The reactor stops."""

    def doRead(self) -> None:
        """Accept a connection."""
        if self._socket is None:
            return
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            self._reactor.removeReader(self)
            self._reactor.callLater(_ACCEPT_RETRY, self._resume)
            return
        with connection:
            connection.setblocking(False)
            # The reactor duplicates the descriptor. The client may have disconnected already.
            with suppress(OSError):
                self._reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, self._clients)

    def _resume(self) -> None:
        if self._socket is not None:
            self._reactor.addReader(self)
