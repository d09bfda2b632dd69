"""One worker as the supervisor sees it: a process, its sockets, and the backoff before it is started again."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from contentcache.aio.reactor import DaemonReactor
from contentcache.core.digest import Digest
from contentcache.workers.metrics import Family
from contentcache.workers.rpc import RPCConnection

#: Descriptors of a worker: its connections to the supervisor and to the index, the clients' socket, and the lock.
CONTROL: Final = 3
INDEX: Final = 4
FRONT: Final = 5
LOCK: Final = 6

#: Seconds after which the start of a worker has succeeded: its next crash does not continue the backoff.
_STARTED_AFTER: Final = 10.0
_FIRST_BACKOFF: Final = 0.25
_MAX_BACKOFF: Final = 30.0

#: First of all, before the imports that take seconds on a busy machine: a worker ends with its supervisor, since
#: until then it has the lock and the clients' socket (``PR_SET_PDEATHSIG``, ``SIGKILL``).
_PROGRAM: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv.pop(1)) or os._exit(1); "
    "sys.path.insert(0, sys.argv.pop(1)); "
    "from contentcache.app.tap import run_worker; run_worker(int(sys.argv.pop(1)))"
)
#: The directory of the package, whatever the working directory is.
_PACKAGE_ROOT: Final = str(Path(__file__).resolve().parents[2])


class RestartBackoff:
    """
    The backoff of one worker: none after the first crash, then a quarter of a second, doubling to 30 s, while it
    crashes during its start.

    >>> backoff = RestartBackoff()
    >>> [backoff.after(seconds) for seconds in (3600, 0.1, 0.1, 0.1, 3600)]
    [0.0, 0.25, 0.5, 1.0, 0.0]
    """

    def __init__(self) -> None:
        self._crashes = 0

    def after(self, lifetime: float) -> float:
        """Seconds to wait after a process that ran for ``lifetime`` seconds."""
        self._crashes = 1 if lifetime >= _STARTED_AFTER else self._crashes + 1
        if self._crashes == 1:
            return 0.0
        return min(_FIRST_BACKOFF * 2.0 ** min(self._crashes - 2, 10), _MAX_BACKOFF)


@define(eq=False)
class WorkerProcess:
    """The sockets that a worker always has, and the process that has them now."""

    number: int
    front: socket.socket
    backoff: RestartBackoff = field(factory=RestartBackoff)
    rpc: RPCConnection | None = None
    process: Any = None
    started: float = 0.0
    is_ready: bool = False
    is_unresponsive: bool = False
    #: How often it has ended before it or its successor served, and what it said then.
    failed_starts: int = 0
    failure: str | None = None
    in_use: set[Digest] = field(factory=set)
    metrics: Sequence[Family] = ()
    #: Copies of descriptors that were attached to calls that it may not have read.
    unacknowledged: list[int] = field(factory=list)

    def ended(self) -> None:
        """The process has ended: close what it had."""
        rpc, self.rpc = self.rpc, None
        if rpc is not None:
            rpc.close()
        self.process, self.is_ready, self.is_unresponsive = None, False, False
        self.in_use.clear()
        while self.unacknowledged:
            os.close(self.unacknowledged.pop())

    def kill(self) -> None:
        """Send ``SIGKILL``, unless the process has ended."""
        if self.process is not None:
            with suppress(ProcessExitedAlready):
                self.process.signalProcess("KILL")


def spawn(
    worker: WorkerProcess,
    reactor: DaemonReactor,
    environ: Mapping[str, str],
    *,
    lock: int | None,
    output: Callable[[str], None] | None,
    ended: Callable[[Failure], None],
) -> tuple[socket.socket, socket.socket]:
    """
    Start a process for ``worker``; returns this process's ends of its connections: control and index.

    ``output`` gets whole lines that it writes to its standard output, ``None`` where it has that of this process.

    :raises OSError: it cannot be started.
    """
    control, its_control = socket.socketpair()
    index, its_index = socket.socketpair()
    with its_control, its_index, ExitStack() as ours, open(os.devnull, "rb") as nothing:
        ours.enter_context(control)
        ours.enter_context(index)
        descriptors = {
            0: nothing.fileno(),
            1: 1 if output is None else "r",
            2: 2,
            CONTROL: its_control.fileno(),
            INDEX: its_index.fileno(),
            FRONT: worker.front.fileno(),
            **({} if lock is None else {LOCK: lock}),
        }
        worker.process = reactor.spawnProcess(
            _WorkerProtocol(output, ended),
            sys.executable,
            [sys.executable, "-c", _PROGRAM, str(os.getpid()), _PACKAGE_ROOT, str(worker.number)],
            env=dict(environ),
            childFDs=descriptors,
        )
        ours.pop_all()
    worker.started = reactor.seconds()
    return control, index


class _WorkerProtocol(ProcessProtocol):
    def __init__(self, output: Callable[[str], None] | None, ended: Callable[[Failure], None]) -> None:
        self._output = output
        self._ended = ended
        self._unfinished_line = b""

    def outReceived(self, data: bytes) -> None:
        *lines, self._unfinished_line = (self._unfinished_line + data).split(b"\n")
        if self._output is not None and lines:
            self._output("".join(line.decode("utf-8", "replace") + "\n" for line in lines))

    def processEnded(self, reason: Failure) -> None:
        self._ended(reason)
