"""A program run to its end, with bounds: how long it may take, and how much it may say."""

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

#: A child of the program may hold its output open for ever: so long it is read after the program's end.
_AFTER_END: Final = 1.0
_STDIN: Final = 0
#: What is kept of its complaints.
_COMPLAINTS: Final = 4096


class ProgramFailed(Exception):
    """A program did not end by itself, or could not be started; the sentence says which."""


@frozen
class Ended:
    """How a program ended: ``status`` is negative where a signal ended it."""

    status: int
    output: bytes = field(repr=False)
    complaints: bytes = field(repr=False)


def run_program(
    reactor: ProcessReactor,
    command: Sequence[str],
    environ: Mapping[str, str],
    given: bytes,
    *,
    seconds: float,
    most: int,
) -> Deferred[Ended]:
    """
    Run ``command``, found in the ``PATH`` of ``environ``, with ``given`` as its whole standard input.

    It is killed when it takes more than ``seconds``, or writes more than ``most`` bytes to its standard
    output. Of its standard error the beginning is kept. Cancelling kills it too.

    Fails with ``ProgramFailed`` where it was not there, or was killed.
    """
    found = shutil.which(command[0], path=environ.get("PATH", os.defpath))
    running = _Running(reactor, given, seconds, most)
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
    """A program under way."""

    transport: Any  # IProcessTransport, which zope's plugin for mypy does not know

    def __init__(self, reactor: ProcessReactor, given: bytes, seconds: float, most: int) -> None:
        self.ended: Deferred[Ended] = Deferred(lambda _ended: self._kill("was no longer needed"))
        self._reactor = reactor
        self._given = given
        self._seconds = seconds
        self._most = most
        self._output = bytearray()
        self._complaints = bytearray()
        self._killed: str | None = None
        self._timer: Any = None

    def connectionMade(self) -> None:
        """It runs."""
        self._timer = self._reactor.callLater(
            self._seconds, self._kill, f"did not end within {self._seconds:g} s"
        )
        self.transport.writeToChild(_STDIN, self._given)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        """What it says."""
        if self._killed is not None:
            return
        self._output += data
        if len(self._output) > self._most:
            self._kill(f"wrote more than {self._most} bytes")

    def errReceived(self, data: bytes) -> None:
        """What it complains of; the beginning says most."""
        self._complaints += data[: _COMPLAINTS - len(self._complaints)]

    def processExited(self, reason: Failure) -> None:  # noqa: ARG002  # processEnded has it too
        """It is gone; what it has written may not be read yet."""
        if self._timer.active():
            self._timer.cancel()
        self._timer = self._reactor.callLater(_AFTER_END, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        """It is gone, and its output closed."""
        if self._timer.active():
            self._timer.cancel()
        if self.ended.called:
            return  # cancelled
        if self._killed is not None:
            self.ended.errback(ProgramFailed(self._killed))
            return
        self.ended.callback(Ended(_status(reason), bytes(self._output), bytes(self._complaints)))

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
