"""The threads of a daemon."""

from __future__ import annotations

import os
from typing import Final

from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.threads import Threads, ThreadsUnavailableError, use_threads_for_names

#: Threads of the sendfile pool.
SENDFILE_THREADS: Final = max(2, min(8, len(os.sched_getaffinity(0))))
#: Threads that resolve host names.
_RESOLVER_THREADS: Final = 10


class ThreadPools:
    """
    ``disk`` is for files. Others are apart from it: where all of its threads wait for a disk, files in memory are
    still sent by ``sendfile``, and names resolved.
    """

    def __init__(self, reactor: DaemonReactor, disk_threads: int) -> None:
        self._reactor = reactor
        self.disk = Threads(reactor, disk_threads, "disk")
        self.sendfile = Threads(reactor, SENDFILE_THREADS, "sendfile")
        self._names = Threads(reactor, _RESOLVER_THREADS, "name")

    def start(self) -> None:
        """
        Start all of them, or none.

        :raises ThreadsUnavailableError: there is no thread to be had.
        """
        started: list[Threads] = []
        try:
            for threads in (self.disk, self.sendfile, self._names):
                threads.start()
                started.append(threads)
        except ThreadsUnavailableError:
            for threads in started:
                threads.stop()
            raise
        use_threads_for_names(self._reactor, self._names)

    def stop(self) -> None:
        """Wait until what runs has ended."""
        for threads in (self.disk, self.sendfile, self._names):
            threads.stop()
