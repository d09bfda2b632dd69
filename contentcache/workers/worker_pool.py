"""All workers, as the supervisor sees them: it starts them, calls them, connects them, and ends them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.aio.condition import Condition, wait_at_most
from contentcache.aio.reactor import DaemonReactor
from contentcache.app.stopping import CutOff
from contentcache.core.digest import Digest
from contentcache.delivery.authorization import Revocation
from contentcache.workers import messages
from contentcache.workers.metrics import Family, cumulative, merge
from contentcache.workers.rpc import (
    CallTimeoutError,
    ConnectionClosedError,
    RPCConnection,
    RPCError,
    UnresponsiveError,
    connect,
)
from contentcache.workers.worker_process import WorkerProcess, spawn

#: Seconds that a caller waits for a worker that is started again.
_RESTART_TIMEOUT: Final = 30.0
#: Seconds that a worker has for a result when all are called: one that hangs must not delay the others' results.
_CALL_TIMEOUT: Final = 2.0
#: Seconds after which a worker is killed that has closed its connection or was told to stop, and still runs.
_STOP_TIMEOUT: Final = 10.0
#: Seconds that a killed worker may take to end: the kernel may have to wait for a disk.
_KILL_TIMEOUT: Final = 5.0
#: How often a worker may end before any has served.
_MOST_FAILED_STARTS: Final = 3


class WorkerPool:
    """
    All workers of the daemon.

    ``hello()`` is the first message to a new process; ``receive(number, message)`` gets the calls of workers
    that the pool does not answer itself; ``ended(number)`` is called for each process that ends;
    ``serve_index(number, end)`` answers calls to the index. ``lock()`` is the descriptor of the store's lock:
    it is free when the last worker has ended, too. ``output`` is as in
    :func:`contentcache.workers.worker_process.spawn`.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        reactor: DaemonReactor,
        *,
        hello: Callable[[], messages.Hello],
        receive: Callable[[int, Any], Awaitable[Any]],
        serve_index: Callable[[int, socket.socket], None],
        output: Callable[[str], None] | None,
        lock: Callable[[], int | None],
        environ: Mapping[str, str],
        ended: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self._reactor = reactor
        self._hello = hello
        self._receive_other = receive
        self._serve_index = serve_index
        self._output = output
        self._lock = lock
        self._environ = environ
        self._worker_ended = ended
        self._workers: dict[int, WorkerProcess] = {}
        self._changed = Condition()
        self._is_stopping = False
        self._has_served = False
        self._start_failed: Callable[[str], None] = lambda _reason: None
        self._metrics_of_ended: Sequence[Family] = ()

    def start(self, fronts: Iterable[socket.socket], failed: Callable[[str], None]) -> None:
        """
        Start one worker for each socket.

        ``failed(reason)`` is called once, perhaps now, where none can be started, or one ends again and again
        before any has served. Then none is started any more.
        """
        self._start_failed = failed
        for number, front in enumerate(fronts, 1):
            self._workers[number] = WorkerProcess(number, front)
            self._start(self._workers[number])

    def uses(self, digest: Digest) -> bool:
        """Whether a worker reads or downloads a blob, or a pull of it is not in the index yet."""
        return any(digest in worker.in_use for worker in self._workers.values())

    @property
    def health(self) -> tuple[int, int]:
        """How many workers serve, and how many there should be."""
        serving = sum(worker.is_ready and not worker.is_unresponsive for worker in self._workers.values())
        return serving, len(self._workers)

    def send(self, message: object, *, except_to: int | None = None) -> None:
        """Send a message to all workers but ``except_to``."""
        for worker in self._workers.values():
            if worker.rpc is not None and worker.number != except_to:
                worker.rpc.send(message)

    async def call(
        self,
        message: object,
        *,
        timeout: float = _CALL_TIMEOUT,  # noqa: ASYNC109  # there is no asyncio here
    ) -> dict[int, Any]:
        """The results of a call to all workers, without those that have none within ``timeout`` seconds."""
        calls = {
            worker.number: self._result_or_none(worker, worker.rpc.call(message, timeout=timeout))
            for worker in self._workers.values()
            if worker.rpc is not None and worker.is_ready
        }
        results = await gatherResults(calls.values())
        return {number: result for number, result in zip(calls, results, strict=True) if result is not None}

    def _result_or_none(self, worker: WorkerProcess, result: Deferred[Any]) -> Deferred[Any]:
        def succeeded(value: Any) -> Any:
            worker.is_unresponsive = False
            return value

        def failed(failure: Failure) -> None:
            failure.trap(RPCError)
            if failure.check(UnresponsiveError, CallTimeoutError) and not worker.is_unresponsive:
                worker.is_unresponsive = True
                self._log.error(
                    "worker not responding",
                    worker=worker.number,
                    pid=getattr(worker.process, "pid", None),
                    hint="its clients wait; if this persists, kill the process: it is started again",
                )

        return result.addCallbacks(succeeded, failed)

    async def metrics(self) -> list[Sequence[Family]]:
        """The metrics of all workers, and those of ended processes that still count."""
        for number, families in (await self.call(messages.GetMetrics())).items():
            self._workers[number].metrics = families
        return [*(worker.metrics for worker in self._workers.values()), self._metrics_of_ended]

    async def connect_owner(self, number: int, descriptor: int) -> bool:
        """Pass one end of a pair of sockets to a worker, or its successor; whether that was possible in time."""
        deadline = self._reactor.seconds() + _RESTART_TIMEOUT
        try:
            while (worker := await self._wait_until_ready(number, deadline)) is not None:
                rpc = worker.rpc
                if rpc is None:
                    continue
                if rpc.is_unresponsive:
                    return False
                copy = os.dup(descriptor)
                rpc.attach_descriptor(copy)
                try:
                    return bool(await rpc.call(messages.AcceptSubscriber()))
                except ConnectionClosedError:
                    continue  # it has ended just now
                except UnresponsiveError:
                    # The descriptor may still have to be sent: no other file may get its number meanwhile.
                    worker.unacknowledged.append(copy)
                    return False
                except RPCError:
                    return False
                finally:
                    if copy not in worker.unacknowledged:
                        os.close(copy)
            return False
        finally:
            os.close(descriptor)

    async def wait_until_started(self) -> None:
        """Wait until all workers serve, or cannot within the restart timeout."""
        deadline = self._reactor.seconds() + _RESTART_TIMEOUT
        for number in self._workers:
            await self._wait_until_ready(number, deadline)

    async def drain(self, timeout: float) -> CutOff:  # noqa: ASYNC109  # there is no asyncio here
        """
        Let all workers refuse new connections, and wait for their transfers for at most ``timeout`` seconds.
        Returns what they have cut off.
        """
        self._is_stopping = True
        for worker in self._workers.values():
            worker.front.close()
        return sum((await self.call(messages.Drain(), timeout=timeout)).values(), CutOff())

    async def stop(self) -> None:
        """End all workers; those that do not end are killed."""
        self._is_stopping = True
        self.send(messages.Stop())
        if not await self._wait_until_ended(_STOP_TIMEOUT):
            for worker in self._workers.values():
                worker.kill()
            if not await self._wait_until_ended(_KILL_TIMEOUT):
                running = [worker.number for worker in self._workers.values() if worker.process is not None]
                self._log.error("workers not ended though killed", workers=running)

    async def _wait_until_ready(self, number: int, deadline: float) -> WorkerProcess | None:
        worker = self._workers[number]
        while not worker.is_ready or worker.rpc is None or worker.rpc.is_closed:
            if self._is_stopping or not await self._wait_for_change(deadline):
                return None
        return worker

    async def _wait_until_ended(self, seconds: float) -> bool:
        deadline = self._reactor.seconds() + seconds
        while any(worker.process is not None for worker in self._workers.values()):
            if not await self._wait_for_change(deadline):
                return False
        return True

    async def _wait_for_change(self, deadline: float) -> bool:
        remaining = deadline - self._reactor.seconds()
        return remaining > 0 and await wait_at_most(self._reactor, remaining, self._changed)

    # One worker.

    def _start(self, worker: WorkerProcess) -> None:
        if self._is_stopping:
            return
        try:
            control, index = spawn(
                worker,
                self._reactor,
                self._environ,
                lock=self._lock(),
                output=self._output,
                ended=lambda reason: self._ended(worker, reason.getErrorMessage()),
            )
        except OSError as error:
            worker.started = self._reactor.seconds()
            worker.failed_starts = _MOST_FAILED_STARTS
            self._start_again(worker, f"cannot start {sys.executable}: {error.strerror or error}")
            return
        self._serve_index(worker.number, index)
        rpc = RPCConnection(
            lambda message: self._receive(worker, message), lambda: self._connection_closed(worker)
        )
        worker.rpc = connect(self._reactor, control.detach(), rpc)
        rpc.send(self._hello())

    def _receive(self, worker: WorkerProcess, message: Any) -> Any:
        match message:
            case messages.Ready():
                worker.is_ready = self._has_served = True
                self._log.info("worker serves", worker=worker.number)
                self._changed.notify_all()
            case messages.StartFailed(reason=reason):
                worker.failure = reason
                self._log.error("worker cannot serve", worker=worker.number, reason=reason)
            case messages.InUse(digest=digest):
                worker.in_use.add(digest)
            case messages.NotInUse(digests=digests):
                worker.in_use.difference_update(digests)
            case messages.DiskFault() | Revocation():
                self.send(message, except_to=worker.number)
            case messages.Metrics(families=families):
                worker.metrics = families
            case messages.ConnectOwner(number=number):
                assert worker.rpc is not None  # noqa: S101  # the message came over it
                descriptor = worker.rpc.receive_descriptor()
                return False if descriptor is None else self.connect_owner(number, descriptor)
            case _:
                return self._receive_other(worker.number, message)
        return None

    def _connection_closed(self, worker: WorkerProcess) -> None:
        # It can do nothing useful any more. It ends by itself, unless it hangs.
        worker.is_ready = False
        if worker.process is not None:
            self._reactor.callLater(_STOP_TIMEOUT, _kill_if_running, worker, worker.process)

    def _ended(self, worker: WorkerProcess, reason: str) -> None:
        worker.ended()
        worker.failed_starts += 1
        self._worker_ended(worker.number)
        self._metrics_of_ended = merge([self._metrics_of_ended, cumulative(worker.metrics)])
        worker.metrics = ()
        self._changed.notify_all()
        self._start_again(worker, reason)

    def _start_again(self, worker: WorkerProcess, reason: str) -> None:
        if self._is_stopping:
            return
        if not self._has_served and worker.failed_starts >= _MOST_FAILED_STARTS:
            self._is_stopping = True
            self._start_failed(worker.failure or reason)
            return
        backoff = worker.backoff.after(self._reactor.seconds() - worker.started)
        self._log.error(
            "worker ended, started again",
            worker=worker.number,
            retry_in=f"{backoff:g}s",
            reason=reason,
        )
        self._reactor.callLater(backoff, self._start, worker)


def _kill_if_running(worker: WorkerProcess, process: Any) -> None:
    if worker.process is process:
        worker.kill()
