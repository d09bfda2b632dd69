"""
Much at once out of TLS.

A record has 16 KiB at the most, and Twisted hands each of them on by itself: for a large body that is sixteen
times the work of one read from the socket. Here what has come is given out in one piece.
"""

from __future__ import annotations

from typing import Final

from OpenSSL import SSL

#: Bytes after which enough is gathered: as many as one read from a socket brings.
_ENOUGH: Final = 256 << 10


class GatheringConnection(SSL.Connection):
    """A connection in memory whose :meth:`recv` answers with all records that are there."""

    _trouble: SSL.Error | None = None

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """
        What the other side has sent: at least one record of at most ``bufsiz`` bytes, and what has come with
        it. What went wrong after that is raised the next time.
        """
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble
        pieces = [super().recv(bufsiz, flags)]
        size = len(pieces[0])
        while size < _ENOUGH:
            try:
                pieces.append(super().recv(bufsiz, flags))
            except SSL.WantReadError:
                break
            except SSL.Error as error:
                self._trouble = error
                break
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
