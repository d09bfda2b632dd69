"""
TLS on the socket itself.

Twisted's own TLS passes every byte through two buffers in memory beside the socket. Here OpenSSL reads from
the socket and writes to it: one call for 256 KiB, and no copy but its own. What is not TLS is as in
:class:`FileTransport`; to the protocol above it is a secure transport like any other.

Rules of OpenSSL that are kept here: what it has begun to write and could not finish is given to it again,
first of all and from its first byte; what it has read ahead is taken out before the reactor waits for the
socket again; nothing is read while a write is incomplete. When a client updates its keys twice (RFC 8446
§4.6.3), OpenSSL answers from inside ``SSL_read``: in the middle of a record that is half written this ends
the connection.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from contentcache.wire.lanes import PIECE, Lane, TLSLane
from contentcache.wire.sendfile import FileTransport

#: Records that are read before it is somebody else's turn.
_RECORDS: Final = 16


@implementer(ISSLTransport)
class TLSTransport(FileTransport):
    """
    A server's side of a TLS connection that owns its socket.

    The handshake begins with the first bytes of the client; what is written before its end waits for it.
    """

    #: What the next connection uses; set in the classes that :func:`over` makes.
    contexts: Any
    _is_shaking = True
    _is_reading = False
    #: Whether OpenSSL has begun to write something and the socket took only a part of it.
    _is_write_incomplete = False
    #: Whether reading has to write first: the answer to a KeyUpdate.
    _read_wants_write = False
    #: Whether something has come from the client, and is not read yet for one of these reasons.
    _is_read_due = False

    def __init__(self, sock: Any, *args: Any) -> None:
        super().__init__(sock, *args)
        self._tls = self.contexts.connection(sock)
        self._tls.set_accept_state()
        self._again: bytes | None = None
        self._again_of: Any = None
        self._wants_read = False
        self._client_ended = False
        self._farewell_sent = False

    def getPeerCertificate(self) -> Any:
        """The client's certificate, if it has shown one (``ISSLTransport``)."""
        return self._tls.get_peer_certificate()

    # In.

    def doRead(self) -> Any:
        """The socket has something."""
        if self._lane is not None or self._is_write_incomplete:
            super().stopReading()  # OpenSSL is for one thread at a time, and for one write
            # It may be that the client has ended its side: no further lane before that has been read.
            self._is_read_due = True
            return None
        if self._is_shaking:
            result = self._shake()
            if self._is_shaking:
                return result
        return self._decrypt()

    def finds_lane(self) -> bool:
        """Whether a lane is a way now: not while something is to be read first."""
        return not self._is_read_due and super().finds_lane()

    def _decrypt(self) -> Any:
        self._is_read_due = False
        if self._wants_read:
            # It was a write that waited for this.
            self._wants_read = False
            self.startWriting()
            if not self._is_reading:
                super().stopReading()
        for _ in range(_RECORDS):
            try:
                data = self._tls.recv(self.bufferSize)
            except SSL.WantReadError:
                return None
            except SSL.WantWriteError:
                self._read_wants_write = True
                self.startWriting()
                return None
            except SSL.ZeroReturnError:
                return self._client_says_farewell()
            except SSL.Error:
                return main.CONNECTION_LOST
            if not self._farewell_sent:
                self._dataReceived(data)
            if not self._may_read():
                return None
        self._read_on()
        return None

    def startReading(self) -> None:
        """Go on to read: first what OpenSSL has, of which the socket tells nothing."""
        self._is_reading = True
        if self._lane is not None or self._is_write_incomplete:
            return
        super().startReading()
        if not self._is_shaking:
            self._read_on()

    def stopReading(self) -> None:
        """Read no more for now."""
        super().stopReading()
        self._is_reading = False

    def _may_read(self) -> bool:
        wanted = bool(self.connected) and self._is_reading
        return wanted and self._lane is None and not self._is_write_incomplete

    def _read_on(self) -> None:
        if self._may_read() and self._tls.pending():
            self.reactor.callLater(0, self._read_if_wanted)

    def _read_if_wanted(self) -> None:
        if self._may_read():
            result = self.doRead()
            if result is not None:
                self.connectionLost(Failure(result))

    def _client_says_farewell(self) -> Any:
        self._client_ended = True
        # The first of two is to be answered; after the second nothing is to be said.
        return main.CONNECTION_LOST if self._farewell_sent else main.CONNECTION_DONE

    def _shake(self) -> Any:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self.stopWriting()
            return None
        except SSL.WantWriteError:
            self.startWriting()
            return None
        except SSL.Error:
            return main.CONNECTION_LOST
        self._is_shaking = False
        self.startWriting()  # for what has waited, and for whoever is to be told to go on
        return None

    # Out.

    def doWrite(self) -> Any:
        """The socket can take more."""
        if self._is_shaking:
            return self._shake()
        if self._read_wants_write:
            return self._finish_read()
        if self._again is None:
            return super().doWrite()
        if self._piece is not None and self._piece is self._again_of:
            return self._send_some(self._piece)
        # Of a lane, or of a piece that nobody wants any more: OpenSSL must have its end all the same.
        result = self._encrypt(self._again)
        return result if isinstance(result, Exception) else None

    def _finish_read(self) -> Any:
        """Write what reading has begun to write, and nothing else before."""
        try:
            self._tls.do_handshake()
        except SSL.WantWriteError:
            return None
        except SSL.WantReadError:
            pass  # the client's message has not come as a whole
        except SSL.Error:
            return main.CONNECTION_LOST
        self._read_wants_write = False
        if self._is_reading:
            self._read_on()
        return None

    def writeSomeData(self, data: Any) -> Any:
        """Write from the buffer; answers how many bytes, or what is wrong."""
        # OpenSSL takes nothing for an error, and Twisted has that to write when it is asked to end.
        return self._encrypt(memoryview(data)[: self.SEND_LIMIT]) if len(data) else 0

    def write_now(self, data: bytes) -> None:
        """The same as ``write``, without a turn of the reactor where the socket takes it at once."""
        sent = 0 if self._is_waiting() else self._encrypt(data)
        if not isinstance(sent, int) or sent < len(data):
            self.write(data)

    def send_now(self, head: bytes, descriptor: int, start: int, stop: int) -> int | None:  # noqa: ARG002
        """Send ``head`` at once; the file follows in its own turn."""
        if self._is_waiting():
            return None
        self.write_now(head)
        return 0

    def _is_waiting(self) -> bool:
        busy = self._is_shaking or self._read_wants_write or self._again is not None
        return busy or super()._is_waiting()

    def _send_some(self, piece: Any) -> Any:
        data = self._again
        if data is None:
            length = min(piece.stop - piece.position, PIECE)
            try:
                data = os.pread(piece.descriptor, length, piece.position)
            except OSError:
                return main.CONNECTION_LOST
        count = self._encrypt(data) if data else 0
        if isinstance(count, Exception):
            return count
        if data and not count:
            self._again, self._again_of = data, piece
            return None
        return self._has_sent(piece, count)

    def _make_lane(self, descriptor: int, start: int, stop: int) -> Lane:
        return TLSLane(self._tls, self.fileno(), descriptor, start, stop)

    def _has_left(self, result: None, lane: Any, sent: Any) -> None:
        if self.connected and lane.pending:
            # Part of it is on its way. It counts as sent: it goes out before anything else.
            self._again, self._again_of = bytes(lane.pending), None
            self._is_write_incomplete = True
            lane.sent += len(lane.pending)
        super()._has_left(result, lane, sent)
        if self.connected and self._is_reading:
            self.startReading()

    def _encrypt(self, data: Any) -> Any:
        try:
            count = self._tls.send(data)
        except SSL.WantWriteError:
            self._is_write_incomplete = True
            return 0
        except SSL.WantReadError:
            # Only before it begins with the data: a write that has begun is finished without reading.
            self._is_write_incomplete = False
            self._wants_read = True
            self.stopWriting()
            super().startReading()
            return 0
        except SSL.Error:
            return main.CONNECTION_LOST
        self._again = None
        if self._is_write_incomplete:
            self._is_write_incomplete = False
            if self._is_reading:
                self.startReading()
        return count

    # The end.

    def loseConnection(self, *args: Any, **kwargs: Any) -> None:
        """End once everything is written; where nothing is, and nobody has ever shaken hands, at once."""
        if self._is_shaking and not super()._is_waiting():
            self.abortConnection()
        else:
            super().loseConnection(*args, **kwargs)

    def connectionLost(self, reason: Failure) -> None:
        """Nothing goes out any more, but an answer to the client's farewell."""
        idle = self._lane is None and not self._is_write_incomplete
        if self._client_ended and not self._farewell_sent and self.connected and idle:
            with suppress(SSL.Error):
                self._tls.shutdown()
        super().connectionLost(reason)

    def _postLoseConnection(self) -> Any:
        """Everything is written: say farewell, and wait for the client's, so that it reads all of ours."""
        self._farewell_sent = True
        try:
            both = self._tls.shutdown()
        except SSL.WantWriteError:
            self._is_write_incomplete = True
            self.startWriting()
            return None
        except SSL.Error:
            both = True
        self._is_write_incomplete = False
        if both or self._client_ended:
            return main.CONNECTION_DONE
        self.startReading()
        return None


def over(contexts: Any) -> type[TLSTransport]:
    """Transports of one port: ``contexts.connection`` makes each connection, as certificates change."""
    return type("TLSTransport", (TLSTransport,), {"contexts": contexts})
