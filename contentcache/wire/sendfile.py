"""
Pieces of files from the page cache to the socket, without a copy in this process.

A transport that is Twisted's own but for one thing: beside its buffer it takes a piece of a file, which goes
out by ``sendfile(2)`` when the buffer is empty and the socket can take more. One piece a turn of the reactor,
so that a fast client holds up nobody. Whoever hands over a piece has seen to it that its pages are in memory.

A client that has taken a large piece at once may be sent the next ones by a thread
(:mod:`contentcache.wire.lanes`), which waits for missing pages itself.
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

from contentcache.wire.lanes import QUICK_RATE, Lane, Lanes

#: Bytes that one client gets before it is the next one's turn.
_ONE_TURN: Final = 256 << 10
#: A piece of so many bytes tells whether a client is quick.
_QUICK_PIECE: Final = 512 << 10


@define(eq=False)
class _Piece:
    descriptor: int
    position: int
    stop: int
    sent: Deferred[int]
    begun: float
    count: int = 0

    def was_quick(self, now: float) -> bool:
        """Whether it went out as fast as to one who takes it as it comes."""
        return self.count > (now - self.begun) * QUICK_RATE


class FileTransport(Server):
    """A server's side of a TCP connection that can send from a file."""

    #: Set in the classes that :meth:`using` makes; ``None`` for no lanes.
    lanes: Lanes | None = None
    _piece: _Piece | None = None
    _lane: Lane | None = None
    _closed_late: tuple[socket.socket, bool] | None = None
    _is_quick = False
    _log = Logger()

    @classmethod
    def using(cls, lanes: Lanes | None) -> type[FileTransport]:
        """The same transport, with lanes for quick clients."""
        return type(cls.__name__, (cls,), {"lanes": lanes})

    def send_file(self, descriptor: int, start: int, stop: int) -> Deferred[int]:
        """
        Send the bytes from ``start`` up to ``stop`` of an open file, after all that has been written.

        Fires with how many went out: fewer only if the file has fewer. One at a time. The descriptor must
        stay open until then, or until the Deferred is cancelled.
        """
        sent: Deferred[int] = Deferred(self._forget)
        self._piece = _Piece(descriptor, start, stop, sent, self.reactor.seconds())
        self.startWriting()
        return sent

    def finds_lane(self) -> bool:
        """Whether :meth:`send_by_lane` is a way now: the client is quick, and a thread is free for it."""
        return self._is_quick and bool(self.lanes) and not self._is_waiting()

    @property
    def sent_by_lane(self) -> int:
        """Of what :meth:`send_by_lane` has not told yet, how many bytes have gone out."""
        return 0 if self._lane is None else self._lane.sent

    def send_by_lane(self, descriptor: int, start: int, stop: int) -> Deferred[int]:
        """
        Let a thread send bytes from ``start`` up to ``stop`` of an open file, in memory or not.

        Fires with how many went out, which may be none: what is left is to be sent in another way. The
        descriptor may be closed meanwhile.
        """
        try:
            lane = self._lane = self._make_lane(descriptor, start, stop)
        except OSError:  # no descriptor is free
            self._is_quick = False
            return succeed(0)
        # A thread sends whenever there is some room, which is seldom that of a whole segment, and a record of
        # TLS never is one: the client is woken for full ones only.
        self._cork(True)
        sent: Deferred[int] = Deferred(partial(self._leave, lane))
        self.stopWriting()
        going = Deferred.fromCoroutine(self.lanes.go(lane))  # type: ignore[union-attr]  # see finds_lane()
        going.addErrback(self._log_failure)
        going.addCallback(self._has_left, lane, sent)
        return sent

    def write_now(self, data: bytes) -> None:
        """The same as ``write``, without a turn of the reactor where the socket takes it at once."""
        sent = 0
        if not self._is_waiting():
            with suppress(OSError):  # whatever is wrong, a later write meets it again
                sent = self.socket.send(data)
        if sent < len(data):
            self.write(data[sent:])

    def send_now(self, head: bytes, descriptor: int, start: int, stop: int) -> int | None:
        """
        Send ``head`` and the bytes from ``start`` up to ``stop`` of an open file at once, as far as the
        socket takes them.

        Answers how many of the file went out, ``head`` before them in any case; ``None`` where nothing could
        be sent, and nothing was.
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
            self._piece or self._lane or self.dataBuffer or self._tempDataBuffer or not self.connected
        )

    def doWrite(self) -> Any:
        """The socket can take more."""
        if self._lane is not None:
            self.stopWriting()
            return None
        if self._piece is None or self.dataBuffer or self._tempDataBuffer:
            result = super().doWrite()
            if result is None and self._piece is not None:
                self.startWriting()
            return result
        return self._send_some(self._piece)

    def connectionLost(self, reason: Failure) -> None:
        """Nothing goes out any more."""
        piece, self._piece = self._piece, None
        super().connectionLost(reason)
        if piece is not None and not piece.sent.called:
            piece.sent.errback(reason)

    def _closeSocket(self, orderly: bool) -> None:
        if self._lane is None:
            super()._closeSocket(orderly)
            return
        # Its thread uses the socket: it is closed when that has heard of it. The client hears now, since a
        # thread may wait long for a disk.
        self._lane.is_left = True
        self._closed_late = self.socket, orderly
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def _send_some(self, piece: _Piece) -> Any:
        left = piece.stop - piece.position
        try:
            count = os.sendfile(self.fileno(), piece.descriptor, piece.position, min(left, _ONE_TURN))
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
        if piece.count >= _QUICK_PIECE:
            self._is_quick = piece.was_quick(self.reactor.seconds())
        piece.sent.callback(piece.count)
        if self._piece is None and self._lane is None:
            # Nothing follows: let the transport rest, or close as it was asked to.
            return super().doWrite()
        return None

    def _forget(self, _sent: Deferred[int]) -> None:
        self._piece = None

    # Lanes.

    def _make_lane(self, descriptor: int, start: int, stop: int) -> Lane:
        return Lane(self.fileno(), descriptor, start, stop)

    def _cork(self, corked: bool) -> None:
        with suppress(OSError):  # whatever is wrong, a later write meets it
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, corked)

    def _leave(self, lane: Lane, _sent: Deferred[int]) -> None:
        lane.is_left = True

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("a lane has failed", failure=failure)

    def _has_left(self, _result: None, lane: Lane, sent: Deferred[int]) -> None:
        """The thread is done with the socket."""
        self._lane = None
        self._is_quick = lane.is_quick
        if self.connected:
            self._cork(False)
        if self._closed_late is not None:
            self.socket, orderly = self._closed_late
            super()._closeSocket(orderly)
            del self.socket
        else:
            self.startWriting()  # whatever has been written meanwhile, or the end, or what is wrong
        if not sent.called:
            sent.callback(lane.sent) if self.connected else sent.errback(Failure(main.CONNECTION_LOST))


#: Where a transport keeps what is to be sent.
_OWED: Final = ("dataBuffer", "_tempDataBuffer", "_piece", "_lane", "_again")


def owes(transport: Any) -> bool:
    """
    Whether something that was written is still in this process, and not yet the kernel's; also below
    Twisted's TLS.
    """
    below = getattr(transport, "transport", transport)
    return any(getattr(below, name, None) for name in _OWED)


def takes_files(transport: object) -> bool:
    """Whether a transport can send from files."""
    return isinstance(transport, FileTransport)
