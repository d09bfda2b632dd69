"""
TLS on the socket itself.

Twisted's own TLS passes every byte through two buffers in memory beside the socket. Here OpenSSL reads from
the socket and writes to it: one call for 256 KiB, and no copy but its own. The rest is as in
:class:`FileTransport`; to the protocol above it is a secure transport like any other.

Rules of OpenSSL that :class:`TLSTransport` follows: a write that was not finished is repeated with the same
bytes before any other; what OpenSSL has read ahead is processed before the reactor waits for the socket again;
nothing is read while a write is incomplete. When a client updates its keys twice (RFC 8446 §4.6.3), OpenSSL
answers from inside ``SSL_read``: in the middle of a half-written record this ends the connection.

:class:`TLSFactory` is Twisted's own TLS, for ports without the fast path.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from contentcache.wire.sendfile import FileTransport
from contentcache.wire.sendfile_pool import TLS_CHUNK, PooledTLSTransfer, PooledTransfer

#: TLS records that are read from one client per iteration of the reactor.
_MAX_RECORDS: Final = 16


@implementer(ISSLTransport)
class TLSTransport(FileTransport):
    """
    The server side of a TLS connection that owns its socket.

    The handshake starts with the first bytes of the client; what is written before its end waits for it.
    """

    #: Makes each connection; set in the classes that :func:`tls_transport` makes.
    contexts: Any
    _is_handshaking = True
    _is_reading = False
    #: Whether OpenSSL has written only a part of a record.
    _is_write_incomplete = False
    #: Whether OpenSSL must write before it reads on: the answer to a KeyUpdate.
    _read_needs_write = False
    #: Whether the socket is readable, and is not read yet for one of these reasons.
    _is_read_due = False

    def __init__(self, sock: Any, *args: Any) -> None:
        super().__init__(sock, *args)
        self._tls = self.contexts.connection(sock)
        self._tls.set_accept_state()
        self._unsent_record: bytes | None = None
        self._unsent_piece: Any = None
        self._write_needs_read = False
        self._client_closed = False
        self._close_sent = False

    def getPeerCertificate(self) -> Any:
        """The client's certificate, if it has sent one (``ISSLTransport``)."""
        return self._tls.get_peer_certificate()

    # In.

    def doRead(self) -> Any:
        """The socket is readable."""
        if self._transfer is not None or self._is_write_incomplete:
            super().stopReading()  # OpenSSL is used by one thread at a time, and for one write
            # The client may have closed its side: no other transfer before that has been read.
            self._is_read_due = True
            return None
        if self._is_handshaking:
            result = self._handshake()
            if self._is_handshaking:
                return result
        return self._decrypt()

    def may_use_pool(self) -> bool:
        """Whether :meth:`send_by_pool` works now: not while something must be read first."""
        return not self._is_read_due and super().may_use_pool()

    def _decrypt(self) -> Any:
        self._is_read_due = False
        if self._write_needs_read:
            # A write waited for this.
            self._write_needs_read = False
            self.startWriting()
            if not self._is_reading:
                super().stopReading()
        for _ in range(_MAX_RECORDS):
            try:
                data = self._tls.recv(self.bufferSize)
            except SSL.WantReadError:
                return None
            except SSL.WantWriteError:
                self._read_needs_write = True
                self.startWriting()
                return None
            except SSL.ZeroReturnError:
                return self._receive_close()
            except SSL.Error:
                return main.CONNECTION_LOST
            if not self._close_sent:
                self._dataReceived(data)
            if not self._may_read():
                return None
        self._read_ahead()
        return None

    def startReading(self) -> None:
        """Resume reading: first what OpenSSL has read ahead, which the socket does not report."""
        self._is_reading = True
        if self._transfer is not None or self._is_write_incomplete:
            return
        super().startReading()
        if not self._is_handshaking:
            self._read_ahead()

    def stopReading(self) -> None:
        """Pause reading."""
        super().stopReading()
        self._is_reading = False

    def _may_read(self) -> bool:
        wanted = bool(self.connected) and self._is_reading
        return wanted and self._transfer is None and not self._is_write_incomplete

    def _read_ahead(self) -> None:
        if self._may_read() and self._tls.pending():
            self.reactor.callLater(0, self._read_if_allowed)

    def _read_if_allowed(self) -> None:
        if self._may_read():
            result = self.doRead()
            if result is not None:
                self.connectionLost(Failure(result))

    def _receive_close(self) -> Any:
        self._client_closed = True
        # The first of the two is answered; after the second nothing is sent.
        return main.CONNECTION_LOST if self._close_sent else main.CONNECTION_DONE

    def _handshake(self) -> Any:
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
        self._is_handshaking = False
        self.startWriting()  # for what has waited, and for producers that are to be resumed
        return None

    # Out.

    def doWrite(self) -> Any:
        """The socket is writable."""
        if self._is_handshaking:
            return self._handshake()
        if self._read_needs_write:
            return self._finish_read()
        if self._unsent_record is None:
            return super().doWrite()
        if self._piece is not None and self._piece is self._unsent_piece:
            return self._send_some(self._piece)
        # Of the pool, or of a cancelled piece: OpenSSL must finish the record all the same.
        result = self._encrypt(self._unsent_record)
        return result if isinstance(result, Exception) else None

    def _finish_read(self) -> Any:
        """Finish what reading has started to write, before anything else."""
        try:
            self._tls.do_handshake()
        except SSL.WantWriteError:
            return None
        except SSL.WantReadError:
            pass  # the client's message is not complete yet
        except SSL.Error:
            return main.CONNECTION_LOST
        self._read_needs_write = False
        if self._is_reading:
            self._read_ahead()
        return None

    def writeSomeData(self, data: Any) -> Any:
        """Write from the buffer; returns how many bytes, or the error."""
        # OpenSSL treats an empty write as an error, and Twisted writes nothing when it is asked to close.
        return self._encrypt(memoryview(data)[: self.SEND_LIMIT]) if len(data) else 0

    def write_now(self, data: bytes) -> None:
        """Like ``write``, but without an iteration of the reactor where the socket accepts the data at once."""
        sent = 0 if self._is_waiting() else self._encrypt(data)
        if not isinstance(sent, int) or sent < len(data):
            self.write(data)

    def send_now(self, head: bytes, descriptor: int, start: int, stop: int) -> int | None:  # noqa: ARG002
        """Send ``head`` at once; the file is sent later."""
        if self._is_waiting():
            return None
        self.write_now(head)
        return 0

    def _is_waiting(self) -> bool:
        busy = self._is_handshaking or self._read_needs_write or self._unsent_record is not None
        return busy or super()._is_waiting()

    def _send_some(self, piece: Any) -> Any:
        data = self._unsent_record
        if data is None:
            length = min(piece.stop - piece.position, TLS_CHUNK)
            try:
                data = os.pread(piece.descriptor, length, piece.position)
            except OSError:
                return main.CONNECTION_LOST
        count = self._encrypt(data) if data else 0
        if isinstance(count, Exception):
            return count
        if data and not count:
            self._unsent_record, self._unsent_piece = data, piece
            return None
        return self._has_sent(piece, count)

    def _make_transfer(self, descriptor: int, start: int, stop: int) -> PooledTransfer:
        return PooledTLSTransfer(self._tls, self.fileno(), descriptor, start, stop)

    def _transfer_ended(self, result: None, transfer: Any, sent: Any) -> None:
        if self.connected and transfer.pending:
            # A part is sent already. All of it counts as sent: it is finished before anything else.
            self._unsent_record, self._unsent_piece = bytes(transfer.pending), None
            self._is_write_incomplete = True
            transfer.sent += len(transfer.pending)
        super()._transfer_ended(result, transfer, sent)
        if self.connected and self._is_reading:
            self.startReading()

    def _encrypt(self, data: Any) -> Any:
        try:
            count = self._tls.send(data)
        except SSL.WantWriteError:
            self._is_write_incomplete = True
            return 0
        except SSL.WantReadError:
            # Only before the first byte: a write that has started is finished without reading.
            self._is_write_incomplete = False
            self._write_needs_read = True
            self.stopWriting()
            super().startReading()
            return 0
        except SSL.Error:
            return main.CONNECTION_LOST
        self._unsent_record = None
        if self._is_write_incomplete:
            self._is_write_incomplete = False
            if self._is_reading:
                self.startReading()
        return count

    # The end.

    def loseConnection(self, *args: Any, **kwargs: Any) -> None:
        """Close once everything is written; before the handshake, with nothing to write, at once."""
        if self._is_handshaking and not super()._is_waiting():
            self.abortConnection()
        else:
            super().loseConnection(*args, **kwargs)

    def connectionLost(self, reason: Failure) -> None:
        """Answer the client's ``close_notify``, if that is possible, and close."""
        idle = self._transfer is None and not self._is_write_incomplete
        if self._client_closed and not self._close_sent and self.connected and idle:
            with suppress(SSL.Error):
                self._tls.shutdown()
        super().connectionLost(reason)

    def _postLoseConnection(self) -> Any:
        """Everything is written: send ``close_notify``, and wait for the client's, so that it reads all."""
        self._close_sent = True
        try:
            both = self._tls.shutdown()
        except SSL.WantWriteError:
            self._is_write_incomplete = True
            self.startWriting()
            return None
        except SSL.Error:
            both = True
        self._is_write_incomplete = False
        if both or self._client_closed:
            return main.CONNECTION_DONE
        self.startReading()
        return None


def tls_transport(contexts: Any) -> type[TLSTransport]:
    """The transport class of one port; ``contexts.connection`` makes each connection, as certificates change."""
    return type("TLSTransport", (TLSTransport,), {"contexts": contexts})


class _HalfCloseTransport(BufferingTLSTransport):
    """
    Reports the client's ``close_notify`` to an ``IHalfCloseableProtocol``, like a FIN over TCP.

    Twisted closes the connection below without a report: the protocol would go on writing, to nobody, as long
    as the client reads what is buffered.
    """

    def _tlsShutdownFinished(self, reason: Any) -> None:
        closed_by_client = reason is None and not self.disconnecting
        super()._tlsShutdownFinished(reason)
        protocol: Any = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if closed_by_client and protocol is not None:
            protocol.readConnectionLost()


class TLSFactory(TLSMemoryBIOFactory):
    """``TLSMemoryBIOFactory`` whose connections report a half-closed connection."""

    protocol = _HalfCloseTransport
