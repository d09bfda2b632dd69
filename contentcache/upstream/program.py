"""A program that is run to its end, in bounded time and with bounded output."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from contentcache.aio.reactor import ProcessReactor

#: Seconds that output is read after the end of the program, whose own children may keep it open for ever.
_AFTER_END: Final = 1.0
_STDIN_NUMBER: Final = 0
#: Bytes of standard error that are kept.
_MOST_ERRORS: Final = 4096


class ProgramFailed(Exception):
    """A program was killed, or could not be started; the sentence says why."""


@frozen
class ProgramResult:
    """How a program ended: ``status`` is negative where a signal ended it."""

    status: int
    output: bytes = field(repr=False)
    errors: bytes = field(repr=False)


def run_program(
    reactor: ProcessReactor,
    command: Sequence[str],
    environ: Mapping[str, str],
    stdin: bytes,
    *,
    seconds: float,
    most: int,
) -> Deferred[ProgramResult]:
    """
    Run ``command``, found in the ``PATH`` of ``environ``, with ``stdin`` as its standard input.

    It is killed when it takes more than ``seconds`` or writes more than ``most`` bytes to its standard output,
    and by cancelling. The Deferred fails with ``ProgramFailed`` where it was killed or cannot be started.
    """
    found = shutil.which(command[0], path=environ.get("PATH", os.defpath))
    running = _Running(reactor, stdin, seconds, most)
    if found is None:
        running.ended.errback(ProgramFailed("is no program that can be found and run"))
        return running.ended
    try:
        reactor.spawnProcess(running, found, list(command), env=dict(environ))
    except (OSError, ValueError) as error:  # the latter of a NUL among the arguments
        reason = getattr(error, "strerror", None) or "its arguments cannot be passed on"
        running.ended.errback(ProgramFailed(f"cannot be started: {reason}"))
    return running.ended


class _Running(ProcessProtocol):
    """A running program."""

    transport: Any  # IProcessTransport, which zope's plugin for mypy does not know

    def __init__(self, reactor: ProcessReactor, stdin: bytes, seconds: float, most: int) -> None:
        self.ended: Deferred[ProgramResult] = Deferred(lambda _ended: self._kill("was no longer needed"))
        self._reactor = reactor
        self._stdin = stdin
        self._seconds = seconds
        self._most = most
        self._output = bytearray()
        self._errors = bytearray()
        self._killed: str | None = None
        self._timer: Any = None

    def connectionMade(self) -> None:
        self._timer = self._reactor.callLater(
            self._seconds, self._kill, f"did not end within {self._seconds:g} s"
        )
        self.transport.writeToChild(_STDIN_NUMBER, self._stdin)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        if self._killed is not None:
            return
        self._output += data
        if len(self._output) > self._most:
            self._kill(f"wrote more than {self._most} bytes")

    def errReceived(self, data: bytes) -> None:
        self._errors += data[: _MOST_ERRORS - len(self._errors)]

    def processExited(self, reason: Failure) -> None:  # noqa: ARG002  # processEnded has it too
        """The program has ended; its output may not be read yet."""
        if self._timer.active():
            self._timer.cancel()
        self._timer = self._reactor.callLater(_AFTER_END, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        """The program has ended, and its output is read."""
        if self._timer.active():
            self._timer.cancel()
        if self.ended.called:
            return  # cancelled
        if self._killed is not None:
            self.ended.errback(ProgramFailed(self._killed))
            return
        self.ended.callback(ProgramResult(_status(reason), bytes(self._output), bytes(self._errors)))

    def _kill(self, why: str) -> None:
        self._killed = why
        self._output.clear()
        if self.transport is not None and self.transport.pid is not None:
            self.transport.signalProcess(signal.SIGKILL.name.removeprefix("SIG"))
            self.transport.loseConnection()


def _status(reason: Failure) -> int:
    ended = reason.value
    if not isinstance(ended, ProcessTerminated):
        return 0
    return -ended.signal if ended.signal is not None else int(ended.exitCode or 0)
