"""Detects clients that stop reading a response."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from contentcache.core.ports import DelayedCall, Timer

#: ``struct tcp_info`` of Linux: ``tcpi_bytes_acked`` (since 4.1), 8 bytes at this offset.
_BYTES_ACKED: Final = struct.Struct("=Q")
_BYTES_ACKED_AT: Final = 120
#: Checks within one timeout, which can thus be exceeded by one interval.
_CHECKS: Final = 4


class StallTimer:
    """
    Calls ``stalled`` once the client has acknowledged nothing for ``timeout`` seconds.

    Runs from :meth:`start` to :meth:`stop`: to be used while there is something to send.
    """

    def __init__(self, transport: Any, timer: Timer, timeout: float, stalled: Callable[[], object]) -> None:
        self._transport = transport
        self._timer = timer
        self._timeout = timeout
        self._stalled = stalled
        self._acked = 0
        self._unchanged = 0
        self._next: DelayedCall | None = None

    def start(self) -> None:
        """Start checking, unless started."""
        if self._next is None:
            self._acked, self._unchanged = _bytes_acked(self._transport), 0
            self._schedule()

    def stop(self) -> None:
        """Stop checking."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _schedule(self) -> None:
        self._next = self._timer.callLater(self._timeout / _CHECKS, self._check)

    def _check(self) -> None:
        self._next = None
        acked = _bytes_acked(self._transport)
        self._acked, self._unchanged = acked, self._unchanged + 1 if acked == self._acked else 0
        if self._unchanged < _CHECKS:
            self._schedule()
        else:
            self._stalled()


def _bytes_acked(transport: Any) -> int:
    """
    How many bytes the client's kernel has acknowledged on this connection, as far as ours tells.

    Where it does not (a Unix socket, another system) only an emptied buffer counts.
    """
    try:
        # Below TLS, whose own handle is OpenSSL's.
        handle = getattr(transport, "transport", transport).getHandle()
        fields = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(_BYTES_ACKED.unpack_from(fields, _BYTES_ACKED_AT)[0])
    except (AttributeError, OSError, struct.error):
        return 0
