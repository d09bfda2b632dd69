"""
Connections that hear the other side out, though it takes no more of what they write.

A server that refuses an upload by its head answers and closes, with what was on its way to it unread: the
next write fails. Twisted then gives the whole connection up, and with it an answer that has come and was not
read yet. Here a failed write ends the writing only: what has been received is still read, and then the
connection is lost for the reason for which the write failed.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.python.failure import Failure


class HearingClient(tcp.Client):
    """
    A client's side of a TCP connection, in everything else as Twisted's.

    The kernel keeps what came before a reset, and an end behind it; so nothing is waited for that will not
    come. Whoever has paused gets the rest once he goes on.
    """

    _is_reading = False
    _has_ended = False
    _why_mute: Failure | None = None

    def startReading(self) -> None:
        """Read from now on."""
        self._is_reading = True
        super().startReading()

    def stopReading(self) -> None:
        """Read no more for now."""
        self._is_reading = False
        super().stopReading()

    def startWriting(self) -> None:
        """Write from now on, where that is not over."""
        if self._why_mute is None:
            super().startWriting()

    def loseConnection(self, *args: Any, **kwargs: Any) -> None:
        """End once everything is written; where that will not be, at once."""
        if self._why_mute is None:
            super().loseConnection(*args, **kwargs)
        else:
            self.abortConnection()

    def doRead(self) -> Any:
        """The socket has something, be it its end."""
        result = super().doRead()
        self._has_ended = result is not None
        return result

    def connectionLost(self, reason: Failure) -> None:
        """Nothing can be written any more; nor read, unless something has come that was not read yet."""
        if self._may_hear_more(reason):
            self._why_mute = reason
            self.stopWriting()
            if self._is_reading:
                self.startReading()  # the reactor takes a connection that it calls lost from its lists
            return
        aborted = reason.check(ConnectionAborted) is not None
        super().connectionLost(reason if aborted or self._why_mute is None else self._why_mute)

    def _may_hear_more(self, reason: Failure) -> bool:
        if self._has_ended or self.disconnecting or self._why_mute is not None:
            return False
        return bool(self.connected) and reason.type is ConnectionLost


class _Connector(tcp.Connector):
    """Makes such a connection."""

    def _makeTransport(self) -> tcp.Client:
        return HearingClient(self.host, self.port, self.bindAddress, self, self.reactor)


class HearingReactor:
    """As much of a reactor as is needed to connect, its connections such ones."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.callLater = reactor.callLater
        self.seconds = reactor.seconds

    @property
    def nameResolver(self) -> Any:
        """Whoever resolves names now (``IReactorPluggableNameResolver``)."""
        return self._reactor.nameResolver

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> tcp.Connector:
        """Begin to connect (``IReactorTCP``)."""
        connector = _Connector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connect()
        return connector
