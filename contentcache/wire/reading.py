"""Large reads where much comes in."""

from __future__ import annotations

from typing import Any, Final

#: Bytes of one read. Each costs a turn of the reactor; a MiB is slower again, as it leaves the caches.
_AT_ONCE: Final = 256 << 10


def read_in_large_pieces(protocol: Any) -> Any:
    """
    Let the transport of a protocol that has just connected read more at once than Twisted does (64 KiB);
    answers the protocol.
    """
    transport = protocol.transport
    if hasattr(transport, "bufferSize"):
        transport.bufferSize = _AT_ONCE
    return protocol
