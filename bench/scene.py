"""An origin at the far end of a counted line; before it in turn Content Cache and docker-registry's proxy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from attrs import frozen

from tests.real.cache import ContentCache
from tests.real.line import CountingProxy
from tests.real.origin import Origin

Peer = Literal["contentcache", "registry"]
PEERS: Final[tuple[Peer, ...]] = ("contentcache", "registry")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Stage:
    """What the test harness asks of a test case: a folder for files, and a list of what is to be undone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._undo: list[Callable[[], object]] = []

    def mktemp(self) -> str:
        """A path that is not there yet."""
        self._number += 1
        return str(self._folder / str(self._number))

    def addCleanup(self, undo: Callable[[], object], /) -> None:
        """Call ``undo`` at the end."""
        self._undo.append(undo)

    def clear(self) -> None:
        """The end: everything is undone, the last first."""
        while self._undo:
            self._undo.pop()()


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage that is cleared afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        it = Stage(Path(folder))
        try:
            yield it
        finally:
            it.clear()


@frozen
class Scene:
    """One peer between clients and the line. ``url`` is where clients ask."""

    peer: Peer
    origin: Origin
    line: CountingProxy
    url: str
    program: ContentCache | Origin

    @property
    def pid(self) -> int:
        """The peer's process."""
        return self.program.process.pid

    def kill_and_start(self) -> None:
        """``kill -9``, and back again over the same store."""
        self.program.process.kill9()
        if isinstance(self.program, Origin):
            self.program.restart()
        else:
            self.program.start()

    @property
    def host(self) -> str:
        """``127.0.0.1:port`` of the peer."""
        return self.url.partition("//")[2]

    def rss(self) -> int:
        """Its resident memory, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kilobytes) * 1024

    def cpu(self) -> float:
        """The processor time that it has used, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def scene(on: Stage, peer: Peer, origin: Origin, *, rate: float | None = None) -> Scene:
    """A fresh, cold peer before ``origin``; the line passes ``rate`` bytes a second."""
    line = CountingProxy(on, origin.port, rate=rate)
    if peer == "contentcache":
        cache = ContentCache(on, line.url, log={"level": "info"})
        return Scene(peer, origin, line, cache.url, cache)
    proxy = Origin(on, proxy=line.url)
    return Scene(peer, origin, line, proxy.url, proxy)
