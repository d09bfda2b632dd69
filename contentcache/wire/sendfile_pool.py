"""
Threads that send files to fast clients.

The reactor needs one iteration for each 256 KiB, and a check whether the pages are in memory. A thread needs
neither: it blocks on the disk and on the socket, while the reactor runs. The pool is small: where no thread is
free, and where a client turns out not to be fast, the reactor sends.

Only the reactor closes the socket, after the thread has stopped using it: the number of a closed socket is
reused at once.
"""

from __future__ import annotations

import os
import select
import time
from typing import Any, Final

from OpenSSL import SSL

from contentcache.core.ports import Run

#: A client that receives this many bytes per second is fast.
FAST_RATE: Final = 100e6
#: A transfer lasts at most so many seconds: then its progress is reported, and a client that is not fast ends it.
_MAX_SECONDS: Final = 0.5
#: A client that receives nothing for so many milliseconds is not fast.
_WRITE_TIMEOUT: Final = 50
#: Bytes of one ``sendfile`` call: as many as a socket's buffer holds, few enough that cancelling is quick.
_MAX_CHUNK: Final = 2 << 20
#: Bytes of one call where OpenSSL encrypts them.
TLS_CHUNK: Final = 256 << 10


class SendfilePool:
    """At most ``size`` transfers at once, each in a thread of ``run``."""

    def __init__(self, run: Run, size: int) -> None:
        self._run_in_thread = run
        self._free = size

    @property
    def has_free_thread(self) -> bool:
        """Whether another transfer can start now."""
        return self._free > 0

    async def run(self, transfer: PooledTransfer) -> None:
        """Run a transfer to its end in a thread."""
        self._free -= 1
        try:
            await self._run_in_thread(transfer.run)
        finally:
            self._free += 1
            transfer.close()


class PooledTransfer:
    """
    Sends the bytes from ``start`` up to ``stop`` of an open file to ``out``, a non-blocking socket.

    The caller may close the file meanwhile, but not the socket. ``is_cancelled`` is set by the reactor.
    """

    def __init__(self, out: int, descriptor: int, start: int, stop: int) -> None:
        self.sent = 0
        self.is_cancelled = False
        #: Whether the client received the bytes as fast as they were sent.
        self.is_fast = True
        self._out = out
        self._file = os.dup(descriptor)
        self._position = start
        self._stop = stop

    def run(self) -> None:
        """In a thread: send until all is sent, the client is not fast, or the transfer is cancelled."""
        try:
            self._send()
        except OSError:
            # Of the connection or the disk: the reactor, which sends the rest, gets it again and handles it.
            self.is_fast = False
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _send(self) -> None:
        until = time.monotonic() + _MAX_SECONDS
        waiting = select.poll()
        waiting.register(self._out, select.POLLOUT)
        while self._position < self._stop and not self.is_cancelled:
            if time.monotonic() >= until:
                self.is_fast = self.sent >= _MAX_SECONDS * FAST_RATE
                return
            try:
                count = self._send_chunk(self._file, self._position, self._stop - self._position)
            except BlockingIOError:
                if not waiting.poll(_WRITE_TIMEOUT):
                    self.is_fast = False
                    return
                continue
            if not count:
                return  # the file was truncated: the reactor, which sends the rest, handles that
            self._position += count
            self.sent += count

    def _send_chunk(self, descriptor: int, position: int, left: int) -> int:
        """
        Send some bytes and return how many, 0 where the file has none.

        :raises BlockingIOError: the socket's buffer is full.
        :raises OSError: the connection or the disk is broken.
        """
        return os.sendfile(self._out, descriptor, position, min(left, _MAX_CHUNK))


class PooledTLSTransfer(PooledTransfer):
    """A transfer whose bytes OpenSSL encrypts."""

    def __init__(self, tls: Any, *args: Any) -> None:
        super().__init__(*args)
        self._tls = tls
        self._buffer = memoryview(bytearray(TLS_CHUNK))
        #: Bytes that OpenSSL has started to write, and that must be passed to it again.
        self.pending = self._buffer[:0]

    def _send_chunk(self, descriptor: int, position: int, left: int) -> int:
        data = self.pending
        if not data:
            data = self._buffer[: min(left, TLS_CHUNK)]
            data = data[: os.preadv(descriptor, [data], position)]
        if not data:
            return 0
        try:
            count: int = self._tls.send(data)
        except (SSL.WantWriteError, SSL.WantReadError) as error:
            self.pending = data
            # Only the reactor reads.
            self.is_cancelled |= isinstance(error, SSL.WantReadError)
            raise BlockingIOError from error
        except SSL.Error as error:
            raise OSError("TLS has failed") from error
        self.pending = data[:0]
        return count
