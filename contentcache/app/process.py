"""Settings of the process, made at its start: core dumps, umask, file descriptors, memory."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import evolve
from twisted.logger import Logger

from contentcache.config.model import Configuration
from contentcache.core.descriptors import Fitting, fit
from contentcache.server.factory import TURNED_AWAY

_log = Logger(namespace="contentcache")

#: Enough for all limits at once; programs that close every descriptor one by one get slow beyond that.
_MOST_DESCRIPTORS: Final = 65_536
#: Where the system does not tell.
_USED_AT_START: Final = 32
_CORE_FILTER: Final = "/proc/self/coredump_filter"
#: Parameters of ``mallopt(3)``.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
#: Bytes at the end of the heap that stay there for the next one.
_KEPT: Final = 8 << 20
#: Buffers of fewer bytes come from the heap: all that bodies pass through.
_LARGE: Final = 1 << 20


def harden() -> None:
    """
    Nothing that is in memory ends in a core dump, and nothing that is written can be read by others.

    The limit keeps the kernel from writing a core file. Where ``core_pattern`` pipes cores to a program the
    limit does not count, so the filter leaves every mapping out of them (core(5)). Both belong to the
    process, outlast a change of its user, and pass on to the programs that it starts.

    ``PR_SET_DUMPABLE`` is left alone. It would be reset by a change of user, and it gives ``/proc/PID`` to
    root: then an operator's tools could not count the files of a daemon that runs under an account of its
    own, nor could a container's root that has no ``CAP_SYS_PTRACE``. After ``--uid`` the kernel clears it
    anyway. So whoever has the daemon's own account can read its memory, as they can read its files.

    The mask is for what twistd makes before it has one of its own: ``--umask`` overrides it.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # another system than Linux, or /proc is not mounted
        Path(_CORE_FILTER).write_text("0", "ascii")
    raise_descriptor_limit()


def raise_descriptor_limit() -> None:
    """
    As many file descriptors as this process may give itself: the soft limit is for programs that use
    select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_descriptors() -> int:
    """How many more file descriptors this process may open."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = _USED_AT_START
    return max(0, limit - used)


def retain_heap() -> None:
    """
    Let the buffers of bodies be used again, instead of giving them back to the kernel and asking for them
    anew: that is 64 page faults for every 256 KiB, each for a page that is first filled with zeros.

    With another C library than glibc nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_TRIM_THRESHOLD, _KEPT)
        set_option(_MMAP_THRESHOLD, _LARGE)


def fit_descriptors(configuration: Configuration, free: int) -> tuple[Configuration, Fitting]:
    """Lower the limits of a configuration to what fits into ``free`` descriptors."""
    middleware = configuration.middleware
    limits = middleware.limits
    fitting = fit(free, connections=limits.connections, fetches=limits.fetches, turned_away=TURNED_AWAY)
    if (fitting.connections, fitting.fetches) != (limits.connections, limits.fetches):
        _log.warn(
            "limits lowered to fit descriptors",
            free=free,
            connections=fitting.connections,
            fetches=fitting.fetches,
            hint="raise the limit of open files (nofile) for more",
        )
        limits = evolve(limits, connections=fitting.connections, fetches=fitting.fetches)
        configuration = evolve(configuration, middleware=evolve(middleware, limits=limits))
    return configuration, fitting
