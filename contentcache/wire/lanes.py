"""
A thread of its own for who takes bytes as fast as they come.

Whoever is that quick costs the reactor a turn for every quarter of a MiB, and a look at whether its pages are
in memory. A thread needs neither: it waits for the disk and for the socket by itself, and both it and
the reactor work while the other does. There are few lanes; who finds none free, and who turns out not
to be that quick, is sent to by the reactor.

A lane leaves the socket's closing to the reactor, which does so only after the lane has been left: the number
of a closed socket is another's at once.
"""

from __future__ import annotations

import os
import select
import time
from typing import Any, Final

from OpenSSL import SSL

from contentcache.core.ports import Run

#: Who takes as many bytes in a second is quick.
QUICK_RATE: Final = 100e6
#: After so many seconds the reactor hears how far it is, and whoever is not quick any more has to leave.
_LONGEST: Final = 0.5
#: Who takes nothing for so many milliseconds is not quick.
_PATIENCE: Final = 50
#: Bytes of one call: as many as a socket's buffer can hold, and so few that a lane is soon left.
_AT_ONCE: Final = 2 << 20
#: The same where they are encrypted.
PIECE: Final = 256 << 10


class Lanes:
    """As many lanes as there may be at once, ``most``, and the threads for them."""

    def __init__(self, run: Run, most: int) -> None:
        self._run = run
        self._free = most

    def __bool__(self) -> bool:
        """Whether one is free."""
        return self._free > 0

    async def go(self, lane: Lane) -> None:
        """Let a thread take a lane to its end."""
        self._free -= 1
        try:
            await self._run(lane.go)
        finally:
            self._free += 1
            lane.close()


class Lane:
    """
    The bytes from ``start`` up to ``stop`` of an open file on their way to ``out``, a socket that does not
    block. The file may be closed meanwhile, the socket may not.

    ``is_left`` is how the reactor says that nobody wants more.
    """

    def __init__(self, out: int, descriptor: int, start: int, stop: int) -> None:
        self.sent = 0
        self.is_left = False
        #: Whether the client has taken what it was given as fast as it came.
        self.is_quick = True
        self._out = out
        self._file = os.dup(descriptor)
        self._position = start
        self._stop = stop

    def go(self) -> None:
        """In a thread: send until all is sent, or it is time to leave."""
        try:
            self._send()
        except OSError:
            # The connection's or the disk's: whoever sends on meets it again, and knows what it is.
            self.is_quick = False
        finally:
            self.close()

    def close(self) -> None:
        """Give the file back. May be called twice."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _send(self) -> None:
        until = time.monotonic() + _LONGEST
        waiting = select.poll()
        waiting.register(self._out, select.POLLOUT)
        while self._position < self._stop and not self.is_left:
            if time.monotonic() >= until:
                self.is_quick = self.sent >= _LONGEST * QUICK_RATE
                return
            try:
                count = self._push(self._file, self._position, self._stop - self._position)
            except BlockingIOError:
                if not waiting.poll(_PATIENCE):
                    self.is_quick = False
                    return
                continue
            if not count:
                return  # the file is shorter than it was: whoever sends on finds that out
            self._position += count
            self.sent += count

    def _push(self, descriptor: int, position: int, left: int) -> int:
        """
        Send some; answers how many bytes, 0 where the file has none.

        :raises BlockingIOError: the socket takes none now.
        :raises OSError: the connection or the disk is broken.
        """
        return os.sendfile(self._out, descriptor, position, min(left, _AT_ONCE))


class TLSLane(Lane):
    """A lane whose bytes OpenSSL encrypts."""

    def __init__(self, tls: Any, *args: Any) -> None:
        super().__init__(*args)
        self._tls = tls
        self._buffer = memoryview(bytearray(PIECE))
        #: What OpenSSL has begun to write, and must be given again.
        self.pending = self._buffer[:0]

    def _push(self, descriptor: int, position: int, left: int) -> int:
        data = self.pending
        if not data:
            data = self._buffer[: min(left, PIECE)]
            data = data[: os.preadv(descriptor, [data], position)]
        if not data:
            return 0
        try:
            count: int = self._tls.send(data)
        except (SSL.WantWriteError, SSL.WantReadError) as error:
            self.pending = data
            # To read is the reactor's.
            self.is_left |= isinstance(error, SSL.WantReadError)
            raise BlockingIOError from error
        except SSL.Error as error:
            raise OSError("TLS is broken") from error
        self.pending = data[:0]
        return count
