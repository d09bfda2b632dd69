"""A child process as Twisted knows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure


class Child(ProcessProtocol):
    """Its end, and what it writes: ``output`` takes whole lines, and ``ended`` is told why it has ended."""

    def __init__(self, output: Callable[[str], None] | None, ended: Callable[[Failure], None]) -> None:
        self._output = output
        self._ended = ended
        self._begun = b""

    def outReceived(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        if self._output is not None and lines:
            self._output("".join(line.decode("utf-8", "replace") + "\n" for line in lines))

    def processEnded(self, reason: Failure) -> None:
        self._ended(reason)


def kill(process: Any) -> None:
    """End it now, if it has not ended."""
    with suppress(ProcessExitedAlready):
        process.signalProcess("KILL")
