"""
Pieces of files from the page cache to the socket, without a copy in this process.

A transport that is Twisted's own but for one thing: beside its buffer it takes a piece of a file, which goes
out by ``sendfile(2)`` when the buffer is empty and the socket can take more. One piece a turn of the reactor,
so that a fast client holds up nobody. Whoever hands over a piece has seen to it that its pages are in memory.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Final

from attrs import define
from twisted.internet import main
from twisted.internet.defer import Deferred
from twisted.internet.tcp import Server
from twisted.python.failure import Failure

#: Bytes that one client gets before it is the next one's turn.
_ONE_TURN: Final = 256 << 10


@define(eq=False)
class _Piece:
    descriptor: int
    position: int
    stop: int
    sent: Deferred[int]
    count: int = 0


class FileTransport(Server):
    """
    A server's side of a TCP connection that can send from a file.
    """

    _piece: _Piece | None = None

    def send_file(self, descriptor: int, start: int, stop: int) -> Deferred[int]:
        """
        Send the bytes from ``start`` up to ``stop`` of an open file, after all that has been written.

        Fires with how many went out: fewer only if the file has fewer. One at a time. The descriptor must
        stay open until then, or until the Deferred is cancelled.
        """
        sent: Deferred[int] = Deferred(self._forget)
        self._piece = _Piece(descriptor, start, stop, sent)
        self.startWriting()
        return sent

    def write_now(self, data: bytes) -> None:
        """
        The same as ``write``, without a turn of the reactor where the socket takes it at once.
        """
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
        return bool(self._piece or self.dataBuffer or self._tempDataBuffer or not self.connected)

    def doWrite(self) -> Any:
        """
        The socket can take more.
        """
        if self._piece is None or self.dataBuffer or self._tempDataBuffer:
            result = super().doWrite()
            if result is None and self._piece is not None:
                self.startWriting()
            return result
        return self._send_some(self._piece)

    def connectionLost(self, reason: Failure) -> None:
        """
        Nothing goes out any more.
        """
        piece, self._piece = self._piece, None
        super().connectionLost(reason)
        if piece is not None and not piece.sent.called:
            piece.sent.errback(reason)

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
        piece.sent.callback(piece.count)
        if self._piece is None:
            # Nothing follows: let the transport rest, or close as it was asked to.
            return super().doWrite()
        return None

    def _forget(self, _sent: Deferred[int]) -> None:
        self._piece = None


def owes(transport: Any) -> bool:
    """
    Whether something that was written is still in this process, and not yet the kernel's; also below
    Twisted's TLS.
    """
    below = getattr(transport, "transport", transport)
    waiting = (getattr(below, name, None) for name in ("dataBuffer", "_tempDataBuffer", "_piece"))
    return any(waiting)


def takes_files(transport: object) -> bool:
    """
    Whether a transport can send from files.
    """
    return isinstance(transport, FileTransport)
