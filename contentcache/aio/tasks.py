"""Background and periodic tasks, work that outlives its caller, and work bounded by a timeout."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from contentcache.core.ports import Timer

T = TypeVar("T")
_log = Logger()


def in_background(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[None]:
    """Start a coroutine that nobody waits for; what it raises is a defect, and logged."""
    return Deferred.fromCoroutine(coroutine).addErrback(
        lambda failure: _log.failure(
            "background task failed", failure, task=getattr(coroutine, "__qualname__", None)
        )
    )


class PeriodicTasks:
    """Calls functions every so many seconds until :meth:`stop`."""

    def __init__(self, clock: Timer) -> None:
        self._clock = clock
        self._loops: list[LoopingCall] = []

    def start(self, seconds: float, call: Callable[[], object]) -> None:
        """Call ``call`` every ``seconds``. What it raises is logged; it is called again all the same."""

        def guarded() -> object:
            # A LoopingCall never calls again after one exception.
            try:
                result = call()
            except Exception:  # noqa: BLE001
                _log.failure("periodic task failed", task=getattr(call, "__qualname__", None))
                return None
            return result

        loop = LoopingCall(guarded)
        loop.clock = cast("Any", self._clock)
        self._loops.append(loop)
        loop.start(seconds, now=False)

    def stop(self) -> None:
        """Call nothing any more."""
        for loop in self._loops:
            if loop.running:
                loop.stop()


async def shielded(work: Awaitable[T], undo: Callable[[T], object]) -> T:
    """
    Await ``work``, which continues when this call is cancelled: then ``undo`` gets its result.

    For work in threads that opens something: its result must not be lost when the client disconnects.
    """
    outer: Deferred[T] = Deferred()
    cancelled = False

    async def deliver() -> None:
        try:
            result = await work
        except Exception as error:  # noqa: BLE001  # the caller gets it
            if not cancelled:
                outer.errback(error)
            return
        if cancelled:
            undo(result)
        else:
            outer.callback(result)

    in_background(deliver())
    try:
        return await outer
    finally:
        cancelled = True


class DeadlineError(Exception):
    """Work was cancelled since it took too long; the cause is what it raised then."""


def cancellable(work: Deferred[T], undo: Callable[[T], object] = lambda _result: None) -> Deferred[T]:
    """
    The same result; but cancelling this one always raises ``CancelledError``, and at once.

    What the cancelled work raises says nothing of whoever it was asked of. If it returns a result all the
    same, ``undo`` gets it.
    """
    cancelled = False

    def cancel(_outer: Deferred[T]) -> None:
        nonlocal cancelled
        cancelled = True
        work.cancel()

    outer: Deferred[T] = Deferred(cancel)

    def succeed(result: T) -> None:
        if cancelled:
            undo(result)
        else:
            outer.callback(result)

    work.addCallbacks(succeed, lambda failure: None if cancelled else outer.errback(failure))
    return outer


async def with_timeout(timer: Timer, seconds: float, work: Awaitable[T]) -> T:
    """
    Await ``work``, which is cancelled after ``seconds``, or when this call is.

    :raises DeadlineError: the time was up.
    :raises CancelledError: this call was cancelled, whatever the work raises because of it.
    """
    running = Deferred.fromCoroutine(_awaited(work))
    timeout = timer.callLater(seconds, running.cancel)
    try:
        return await cancellable(running)
    except (Exception, CancelledError) as error:
        if timeout.active():
            raise
        raise DeadlineError(f"cancelled after {seconds:g} s") from error
    finally:
        if timeout.active():
            timeout.cancel()


async def _awaited(work: Awaitable[T]) -> T:
    return await work


@asynccontextmanager
async def locked(lock: DeferredLock) -> AsyncIterator[None]:
    """Hold a lock; who waits for it meanwhile is served first come, first served."""
    await lock.acquire()
    try:
        yield
    finally:
        lock.release()
