"""
Heads of upstream's answers that end.

Twisted's client bounds a line of a head and not their number, so that an upstream that sends headers for
ever would fill the memory until it is given up for its silence.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.web._newclient import BODY, DONE, HTTP11ClientProtocol
from twisted.web.client import HTTPConnectionPool

#: Bytes of a head, interim answers (1xx) included: eight times what is taken of a client.
LARGEST: Final = 128 << 10


class BoundedHeads(HTTP11ClientProtocol):
    """A connection that is given up when a head is too large: as one that was lost while it answered."""

    _head = 0

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come."""
        super().dataReceived(data)
        parser = self._parser
        if parser is None or parser.state in {BODY, DONE}:
            self._head = 0
            return
        self._head += len(data)
        transport: Any = self.transport
        if self._head > LARGEST and transport is not None:
            transport.abortConnection()


def bound_heads(pool: HTTPConnectionPool) -> None:
    """Let the connections of a pool be bounded."""

    class Factory(pool._factory):  # type: ignore[misc,name-defined]  # noqa: SLF001  # Twisted offers no other way
        noisy = False  # being ours, its comings and goings would not be held back with Twisted's

        def buildProtocol(self, _address: object) -> BoundedHeads:
            return BoundedHeads(self._quiescentCallback)

    pool._factory = Factory  # noqa: SLF001
