"""What a daemon may be: the parts of its life that differ between a cache and a gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from contentcache.server.debug_site import Finding
from contentcache.server.factory import ServerFactory

#: ``repeat(seconds, call)`` calls again and again, whatever becomes of each call, until the daemon stops.
Repeat = Callable[[float, Callable[[], object]], None]


class Reloading(Protocol):
    """What reads its files anew on ``SIGHUP``."""

    def reload(self) -> None:
        """
        Read them.

        :raises contentcache.tls.files.TLSFault: they are broken, and nothing has changed.
        """


class Role(Protocol):
    """A daemon without its sockets. It is built before it starts, and starts once."""

    @property
    def factory(self) -> ServerFactory:
        """Makes the protocol of each connection."""

    @property
    def reloading(self) -> Sequence[Reloading]:
        """Whoever is concerned by ``SIGHUP``."""

    def start(self, repeat: Repeat) -> None:
        """Begin what goes on beside the requests. Threads run, and nothing is served yet."""

    async def stop(self) -> None:
        """Put everything away. Nothing is served any more; threads still run."""

    def close(self) -> None:
        """Let go of what is held on the disk. Threads run no more."""

    def findings(self) -> Mapping[str, Finding]:
        """How it goes."""

    def introduction(self) -> Mapping[str, object]:
        """What it serves, as fields of the first line of the log."""


class CannotBe(Exception):
    """The daemon cannot be what it is to be; the sentence says why."""
