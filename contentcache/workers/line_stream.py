"""Standard output of a worker, which it shares with the other processes of the daemon."""

from __future__ import annotations

import os
from typing import Final

#: So many bytes are written to a pipe in one piece, whoever else writes to it (pipe(7)).
_PIPE_BUF: Final = 4096


class LineStream:
    """A stream to a pipe that several processes write to, which never splits a line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        """Write whole lines, as many at once as are written in one piece."""
        batch = b""
        for line in text.encode("utf-8", "backslashreplace").splitlines(keepends=True):
            if batch and len(batch) + len(line) > _PIPE_BUF:
                self._write(batch)
                batch = b""
            batch += line
        self._write(batch)

    def flush(self) -> None:
        """Nothing is buffered."""

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]
