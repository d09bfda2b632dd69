"""How fast a client takes what is sent to it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from contentcache.core.ports import DelayedCall, Timer

#: ``struct tcp_info`` of Linux: ``tcpi_bytes_acked`` (since 4.1), 8 bytes at this offset.
_BYTES_ACKED: Final = struct.Struct("=Q")
_BYTES_ACKED_AT: Final = 120
#: So often it is looked while patience lasts: it may last longer by one of them.
_LOOKS: Final = 4


class Watch:
    """
    Calls ``stalled`` once a client has taken nothing for ``patience`` seconds.

    It looks from :meth:`start` to :meth:`stop`: to be used while there is something to take.
    """

    def __init__(self, transport: Any, timer: Timer, patience: float, stalled: Callable[[], object]) -> None:
        self._transport = transport
        self._timer = timer
        self._patience = patience
        self._stalled = stalled
        self._taken = 0
        self._quiet = 0
        self._next: DelayedCall | None = None

    def start(self) -> None:
        """Begin to look; nothing if that has begun."""
        if self._next is None:
            self._taken, self._quiet = _bytes_acked(self._transport), 0
            self._look_later()

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _look_later(self) -> None:
        self._next = self._timer.callLater(self._patience / _LOOKS, self._look)

    def _look(self) -> None:
        self._next = None
        taken = _bytes_acked(self._transport)
        self._taken, self._quiet = taken, self._quiet + 1 if taken == self._taken else 0
        if self._quiet < _LOOKS:
            self._look_later()
        else:
            self._stalled()


def _bytes_acked(transport: Any) -> int:
    """
    How many bytes the client's machine has taken on this connection, as far as the kernel tells.

    Where it does not (a Unix socket, another system) nothing counts but a buffer that empties.
    """
    try:
        # Below TLS, whose own handle is OpenSSL's.
        handle = getattr(transport, "transport", transport).getHandle()
        told = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(_BYTES_ACKED.unpack_from(told, _BYTES_ACKED_AT)[0])
    except (AttributeError, OSError, struct.error):
        return 0
