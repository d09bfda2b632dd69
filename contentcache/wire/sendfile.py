"""
Ranges of files sent from the page cache to the socket, without a copy in this process.

A transport of Twisted with one addition: beside its buffer it accepts a range of a file, which is sent by
``sendfile(2)`` when the buffer is empty and the socket is writable: 256 KiB per iteration of the reactor, so
that a fast client delays nobody. The caller ensures that the pages of the range are in memory.

A client that has received a large range fast may be sent the next ones by a thread
(:mod:`contentcache.wire.sendfile_pool`), which may block on the disk.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import partial
from typing import Any, Final

from attrs import define
from twisted.internet import main
from twisted.internet.defer import Deferred, succeed
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.wire.sendfile_pool import FAST_RATE, PooledTransfer, SendfilePool

#: Bytes that one client is sent per iteration of the reactor.
_MAX_CHUNK: Final = 256 << 10
#: A range of at least so many bytes shows whether a client is fast.
_MIN_MEASURED: Final = 512 << 10


@define(eq=False)
class _Piece:
    descriptor: int
    position: int
    stop: int
    sent: Deferred[int]
    started: float
    count: int = 0

    def was_fast(self, now: float) -> bool:
        """Whether the client received it at the rate of a fast client."""
        return self.count > (now - self.started) * FAST_RATE


class FileTransport(Server):
    """The server side of a TCP connection that can send from a file."""

    #: Set in the classes that :meth:`with_pool` makes; ``None`` for no threads.
    pool: SendfilePool | None = None
    _piece: _Piece | None = None
    _transfer: PooledTransfer | None = None
    _closed_late: tuple[socket.socket, bool] | None = None
    _is_fast = False
    _log = Logger()

    @classmethod
    def with_pool(cls, pool: SendfilePool | None) -> type[FileTransport]:
        """This transport, with threads for fast clients."""
        return type(cls.__name__, (cls,), {"pool": pool})

    def send_file(self, descriptor: int, start: int, stop: int) -> Deferred[int]:
        """
        Send the bytes from ``start`` up to ``stop`` of an open file, after all that has been written.

        Fires with how many were sent: fewer only if the file has fewer. One range at a time. The descriptor must
        stay open until then, or until the Deferred is cancelled.
        """
        sent: Deferred[int] = Deferred(self._forget)
        self._piece = _Piece(descriptor, start, stop, sent, self.reactor.seconds())
        self.startWriting()
        return sent

    def may_use_pool(self) -> bool:
        """Whether :meth:`send_by_pool` works now: the client is fast, and a thread is free."""
        pool = self.pool
        return self._is_fast and pool is not None and pool.has_free_thread and not self._is_waiting()

    @property
    def file_bytes_sent(self) -> int:
        """How many bytes of a running :meth:`send_file` or :meth:`send_by_pool` have been sent."""
        by_pool = 0 if self._transfer is None else self._transfer.sent
        return by_pool if self._piece is None else self._piece.count

    def send_by_pool(self, descriptor: int, start: int, stop: int) -> Deferred[int]:
        """
        Let a thread send bytes from ``start`` up to ``stop`` of an open file, in memory or not.

        Fires with how many were sent, perhaps none: the caller sends the rest in another way. The descriptor
        may be closed meanwhile.
        """
        try:
            transfer = self._transfer = self._make_transfer(descriptor, start, stop)
        except OSError:  # no descriptor is free
            self._is_fast = False
            return succeed(0)
        # A thread sends whenever the buffer has some room, seldom a whole segment, and a TLS record never is
        # one: corked, the client is woken for full segments only.
        self._cork(True)
        sent: Deferred[int] = Deferred(partial(self._cancel_transfer, transfer))
        self.stopWriting()
        running = Deferred.fromCoroutine(self.pool.run(transfer))  # type: ignore[union-attr]  # see may_use_pool()
        running.addErrback(self._log_failure)
        running.addCallback(self._transfer_ended, transfer, sent)
        return sent

    def write_now(self, data: bytes) -> None:
        """Like ``write``, but without an iteration of the reactor where the socket accepts the data at once."""
        sent = 0
        if not self._is_waiting():
            with suppress(OSError):  # a later write gets the same error
                sent = self.socket.send(data)
        if sent < len(data):
            self.write(data[sent:])

    def send_now(self, head: bytes, descriptor: int, start: int, stop: int) -> int | None:
        """
        Send ``head`` and the bytes from ``start`` up to ``stop`` of an open file at once, as far as the
        socket accepts them.

        Returns how many bytes of the file were sent after ``head``, ``None`` where nothing was sent.
        """
        if self._is_waiting():
            return None
        try:
            sent = self.socket.send(head, socket.MSG_MORE)
        except OSError:
            return None
        if sent < len(head):
            self.write(head[sent:])
            return 0
        with suppress(OSError):
            return os.sendfile(self.fileno(), descriptor, start, stop - start)
        return 0

    def _is_waiting(self) -> bool:
        return bool(
            self._piece or self._transfer or self.dataBuffer or self._tempDataBuffer or not self.connected
        )

    def doWrite(self) -> Any:
        """The socket is writable."""
        if self._transfer is not None:
            self.stopWriting()
            return None
        if self._piece is None or self.dataBuffer or self._tempDataBuffer:
            result = super().doWrite()
            if result is None and self._piece is not None:
                self.startWriting()
            return result
        return self._send_some(self._piece)

    def connectionLost(self, reason: Failure) -> None:
        """Fail the range that is being sent."""
        piece = self._piece
        super().connectionLost(reason)  # the protocol asks how far it was sent
        self._piece = None
        if piece is not None and not piece.sent.called:
            piece.sent.errback(reason)

    def _closeSocket(self, orderly: bool) -> None:
        if self._transfer is None:
            super()._closeSocket(orderly)
            return
        # The thread uses the socket: it is closed once the thread has stopped. The client is disconnected now,
        # since a thread may be blocked on a disk for long.
        self._transfer.is_cancelled = True
        self._closed_late = self.socket, orderly
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _send_some(self, piece: _Piece) -> Any:
        left = piece.stop - piece.position
        try:
            count = os.sendfile(self.fileno(), piece.descriptor, piece.position, min(left, _MAX_CHUNK))
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        return self._has_sent(piece, count)

    def _has_sent(self, piece: _Piece, count: int) -> Any:
        piece.position += count
        piece.count += count
        if count and piece.position < piece.stop:
            return None
        self._piece = None
        if piece.count >= _MIN_MEASURED:
            self._is_fast = piece.was_fast(self.reactor.seconds())
        piece.sent.callback(piece.count)
        if self._piece is None and self._transfer is None:
            # Nothing follows: stop writing, or close if that was requested.
            return super().doWrite()
        return None

    def _forget(self, _sent: Deferred[int]) -> None:
        self._piece = None

    # SendfilePool.

    def _make_transfer(self, descriptor: int, start: int, stop: int) -> PooledTransfer:
        return PooledTransfer(self.fileno(), descriptor, start, stop)

    def _cork(self, corked: bool) -> None:
        with suppress(OSError):  # a later write gets the same error
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)

    def _cancel_transfer(self, transfer: PooledTransfer, _sent: Deferred[int]) -> None:
        transfer.is_cancelled = True

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("sendfile failed", failure)

    def _transfer_ended(self, _result: None, transfer: PooledTransfer, sent: Deferred[int]) -> None:
        """The thread has stopped using the socket."""
        self._transfer = None
        self._is_fast = transfer.is_fast
        if self.connected:
            self._cork(False)
        if self._closed_late is not None:
            self.socket, orderly = self._closed_late
            super()._closeSocket(orderly)
            del self.socket
        else:
            self.startWriting()  # what was written meanwhile, the close, or an error
        if not sent.called:
            sent.callback(transfer.sent) if self.connected else sent.errback(Failure(main.CONNECTION_LOST))


#: Attributes of a transport that hold unsent bytes.
_UNSENT: Final = ("dataBuffer", "_tempDataBuffer", "_piece", "_transfer", "_unsent_record")


def has_unsent(transport: Any) -> bool:
    """Whether written bytes are still in this process, not yet in the kernel; also below Twisted's TLS."""
    below = getattr(transport, "transport", transport)
    return any(getattr(below, name, None) for name in _UNSENT)


def unsent_bytes(transport: Any) -> int:
    """How many written bytes are still in the buffer of a transport, below Twisted's TLS as encrypted."""
    below = getattr(transport, "transport", transport)
    return (
        len(getattr(below, "dataBuffer", b""))
        - getattr(below, "offset", 0)
        + getattr(below, "_tempDataLen", 0)
    )


def can_send_files(transport: object) -> bool:
    """Whether a transport can send from files."""
    return isinstance(transport, FileTransport)
