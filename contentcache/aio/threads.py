"""Threads for what blocks: disks, SQLite, long hashes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from queue import Queue
from threading import Lock, Thread, local
from typing import Any, TypeVar, cast

from twisted._threads import LockWorker, Team, ThreadWorker  # the reactor's pool is made of them, too
from twisted.internet._resolver import GAIResolver  # it has no public name
from twisted.internet.defer import succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from contentcache.aio.reactor import DaemonReactor, ThreadReactor
from contentcache.core.ports import Given, Result

T = TypeVar("T")
_log = Logger()


class ThreadsUnavailableError(Exception):
    """Not even one thread can be started (``RLIMIT_NPROC``, a cgroup's ``pids.max``)."""


class _LenientPool(ThreadPool):
    """A pool that does with the threads that it has where no more can be started: work waits for one of them."""

    @staticmethod
    def _pool(currentLimit: Callable[[], int], threadFactory: Callable[..., Any] = Thread) -> Team:
        def start(target: Callable[..., object]) -> None:
            threadFactory(target=target).start()

        def create() -> Any:
            found = team.statistics()
            if found.busyWorkerCount + found.idleWorkerCount >= currentLimit():
                return None
            try:
                return ThreadWorker(start, Queue())
            except RuntimeError:  # CPython's word for EAGAIN
                return None

        coordinator: Any = LockWorker(Lock(), local())
        team = Team(coordinator, create, _log_failure)
        return team

    def stop(self) -> None:
        """Wait for those that were started; Twisted notes the others too."""
        self.threads = [thread for thread in self.threads if thread.ident is not None]
        super().stop()

    @property
    def has_threads(self) -> bool:
        """Whether there is at least one."""
        found = self._team.statistics()
        return found.busyWorkerCount + found.idleWorkerCount > 0


def _log_failure() -> None:
    _log.failure("thread failed")


class Threads:
    """
    A :class:`contentcache.core.ports.Run` over a pool of threads of its own.

    One thread runs from the start, so that work waits, at worst, but never for ever.
    """

    def __init__(self, reactor: ThreadReactor, size: int, name: str) -> None:
        self._reactor: Any = reactor
        self._pool = _LenientPool(minthreads=1, maxthreads=size, name=name)

    def __call__(
        self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Awaitable[Result]:
        """Run ``function`` in a thread."""
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)

    def start(self) -> None:
        """
        Be ready.

        :raises ThreadsUnavailableError: there is no thread to be had.
        """
        self._pool.start()
        if not self._pool.has_threads:
            self._pool.stop()
            raise ThreadsUnavailableError(
                "no thread can be started: raise the limit of processes (nproc, pids.max)"
            )

    @property
    def pool(self) -> ThreadPool:
        """The pool itself, for Twisted."""
        return self._pool

    def stop(self) -> None:
        """Wait until what runs has ended, and take nothing new."""
        self._pool.stop()


def use_threads_for_names(reactor: DaemonReactor, threads: Threads) -> None:
    """
    Look up names of hosts in ``threads``: the reactor's own pool fails where no further thread can be
    started.
    """
    reactor.installNameResolver(GAIResolver(cast("Any", reactor), lambda: threads.pool))


def at_once(
    function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
) -> Awaitable[Result]:
    """A :class:`contentcache.core.ports.Run` without threads, for stores that never block."""
    return succeed(function(*args, **kwargs))
