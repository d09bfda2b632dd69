"""
A share of a core for each process of a peer, so that a machine of few cores can say how peers grow with more:
what makes the load has the rest, and is never what is measured.

By the kernel's control groups, for which it takes root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from bench.peers import Peer

_FIRST: Final = Path("/sys/fs/cgroup/cpu")  # version 1
_SECOND: Final = Path("/sys/fs/cgroup")
#: Microseconds after which a process that has had its share may go on.
_PERIOD: Final = 10_000


@contextmanager
def shares(peers: Sequence[Peer], share: float) -> Iterator[None]:
    """
    Let every process of ``peers`` have at most ``share`` of a core.

    :raises OSError: the machine has no control groups for it, or they are not ours to make.
    """
    with ExitStack() as undo:
        for peer in peers:
            for pid in peer.pids():
                undo.enter_context(_share(pid, share))
        yield


@contextmanager
def _share(pid: int, share: float) -> Iterator[None]:
    root = _FIRST if _FIRST.is_dir() else _SECOND
    group = root / f"bench-{os.getpid()}-{pid}"
    if root is _SECOND:
        (root / "cgroup.subtree_control").write_text("+cpu", "ascii")
    group.mkdir()
    quota = int(share * _PERIOD)
    try:
        if root is _FIRST:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD), "ascii")
            (group / "cpu.cfs_quota_us").write_text(str(quota), "ascii")
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD}", "ascii")
        (group / "cgroup.procs").write_text(str(pid), "ascii")
        yield
    finally:
        with suppress(ProcessLookupError):
            (root / "cgroup.procs").write_text(str(pid), "ascii")
        group.rmdir()
