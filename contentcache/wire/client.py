"""
TCP connections to upstreams: large reads, and responses that come before the request is sent.

A server that refuses an upload by its head answers and closes while the body is on its way: the next write
fails. Twisted then drops the whole connection, and with it a response that has arrived and was not read yet.
Here a failed write ends only the writing: what has been received is read, and then the connection is lost for
the reason of the failed write.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.python.failure import Failure

from contentcache.aio.reactor import Reactor

#: Bytes of one read. Each costs an iteration of the reactor; a MiB is slower again, as it does not fit the caches.
_READ_SIZE: Final = 256 << 10


def use_large_reads(protocol: Any) -> Any:
    """Let the transport of a connected protocol read more at once than Twisted's 64 KiB; returns the protocol."""
    transport = protocol.transport
    if hasattr(transport, "bufferSize"):
        transport.bufferSize = _READ_SIZE
    return protocol


class EarlyResponseClient(tcp.Client):
    """
    Twisted's client side of a TCP connection, which reads on after a failed write.

    The kernel keeps what arrived before a reset, and reports the end after it: this never waits for bytes that
    do not come. A protocol that has paused gets the rest when it resumes.
    """

    _is_reading = False
    _has_ended = False
    _write_failure: Failure | None = None

    def startReading(self) -> None:
        """Start reading (``IReadDescriptor``)."""
        self._is_reading = True
        super().startReading()

    def stopReading(self) -> None:
        """Pause reading."""
        self._is_reading = False
        super().stopReading()

    def startWriting(self) -> None:
        """Start writing, unless a write has failed."""
        if self._write_failure is None:
            super().startWriting()

    def loseConnection(self, *args: Any, **kwargs: Any) -> None:
        """Close once everything is written; after a failed write at once."""
        if self._write_failure is None:
            super().loseConnection(*args, **kwargs)
        else:
            self.abortConnection()

    def doRead(self) -> Any:
        """The socket is readable, or was closed."""
        result = super().doRead()
        self._has_ended = result is not None
        return result

    def connectionLost(self, reason: Failure) -> None:
        """Nothing can be written any more; what has arrived is read first."""
        if self._has_unread(reason):
            self._write_failure = reason
            self.stopWriting()
            if self._is_reading:
                self.startReading()  # the reactor has removed a connection that it calls lost
            return
        aborted = reason.check(ConnectionAborted) is not None
        super().connectionLost(reason if aborted or self._write_failure is None else self._write_failure)

    def _has_unread(self, reason: Failure) -> bool:
        if self._has_ended or self.disconnecting or self._write_failure is not None:
            return False
        return bool(self.connected) and reason.type is ConnectionLost


class _Connector(tcp.Connector):
    """Makes an :class:`EarlyResponseClient`."""

    def _makeTransport(self) -> tcp.Client:
        return EarlyResponseClient(self.host, self.port, self.bindAddress, self, self.reactor)


class EarlyResponseReactor:
    """The part of a reactor that connects, with :class:`EarlyResponseClient` for connections."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.callLater = reactor.callLater
        self.seconds = reactor.seconds

    @property
    def nameResolver(self) -> Any:
        """The resolver that the reactor uses now (``IReactorPluggableNameResolver``)."""
        return self._reactor.nameResolver

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> tcp.Connector:
        """Start to connect (``IReactorTCP``)."""
        connector = _Connector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connect()
        return connector
