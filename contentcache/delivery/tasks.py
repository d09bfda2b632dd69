"""
Coroutines on the reactor: threads for what blocks, and a way to wait with a bound.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from contentcache.core.ports import Given, Result, Timer

T = TypeVar("T")
_log = Logger()


class Threads:
    """
    A :class:`contentcache.core.ports.Run` over a pool of threads of its own.
    """

    def __init__(self, reactor: IReactorFromThreads, size: int, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=size, name=name)

    def __call__(
        self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Awaitable[Result]:
        """Run ``function`` in a thread."""
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)

    def start(self) -> None:
        """Be ready."""
        self._pool.start()

    def stop(self) -> None:
        """Wait until what runs has ended, and take nothing new."""
        self._pool.stop()


def at_once(
    function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
) -> Awaitable[Result]:
    """
    A :class:`contentcache.core.ports.Run` without threads, for stores that never block.
    """
    return succeed(function(*args, **kwargs))


def in_background(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[None]:
    """
    Start a coroutine that nobody waits for; what it raises is a defect, and logged.
    """
    return Deferred.fromCoroutine(coroutine).addErrback(
        lambda failure: _log.failure("a task has failed", failure=failure)
    )


async def unless_left(work: Awaitable[T], undo: Callable[[T], object]) -> T:
    """
    Await ``work`` that goes on whatever happens here; if we are cancelled meanwhile, ``undo`` gets its
    result.

    For work in threads that opens something: its result must not be lost with the client who asked for it.
    """
    mine: Deferred[T] = Deferred()
    left = False

    async def deliver() -> None:
        try:
            result = await work
        except Exception as error:  # noqa: BLE001  # it is whoever waits who wants it
            if not left:
                mine.errback(error)
            return
        if left:
            undo(result)
        else:
            mine.callback(result)

    in_background(deliver())
    try:
        return await mine
    finally:
        left = True


def sleep(clock: Timer, seconds: float) -> Deferred[None]:
    """
    Wait without blocking.
    """
    waiting: Deferred[None] = Deferred(lambda _deferred: call.cancel())
    call = clock.callLater(seconds, waiting.callback, None)
    return waiting


class Bell:
    """
    Wakes everybody who waits for something to have changed.
    """

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def wait(self) -> Deferred[None]:
        """
        Fires at the next ring. May be cancelled.
        """
        waiting: Deferred[None] = Deferred(self._forget)
        self._waiting.append(waiting)
        return waiting

    def ring(self) -> None:
        """
        Wake all who wait now.
        """
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            if not deferred.called:
                deferred.callback(None)

    def _forget(self, deferred: Deferred[None]) -> None:
        if deferred in self._waiting:
            self._waiting.remove(deferred)
