"""What a daemon may be: the parts of its life that differ between a cache and a gateway."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

from attrs import frozen

from contentcache.aio.reactor import DaemonReactor
from contentcache.core.ports import Run
from contentcache.server.debug_site import Finding
from contentcache.server.factory import ServerFactory
from contentcache.tls.files import Reloadable
from contentcache.upstream.agent import UpstreamTransport

#: ``repeat(seconds, call)`` calls again and again, whatever becomes of each call, until the daemon stops.
Repeat = Callable[[float, Callable[[], object]], None]


@frozen
class Platform:
    """
    What a daemon is built on: time, randomness, threads and the network.

    ``wall`` is in seconds since the epoch. ``random_below(n)`` is one of 0 to n-1, ``random_bytes(n)`` has n
    bytes. ``transport_to(url, reactor=…, …)`` makes the transport to a host, as :meth:`UpstreamTransport.to`.
    """

    environ: Mapping[str, str]
    reactor: DaemonReactor
    run: Run
    wall: Callable[[], float]
    random_below: Callable[[int], int]
    random_bytes: Callable[[int], bytes]
    transport_to: Callable[..., UpstreamTransport]

    @classmethod
    def of_process(cls, environ: Mapping[str, str], reactor: DaemonReactor, run: Run) -> Self:
        """The real ones."""
        return cls(
            environ, reactor, run, time.time, secrets.randbelow, secrets.token_bytes, UpstreamTransport.to
        )


class Role(Protocol):
    """A daemon without its sockets. It is built before it starts, and starts once."""

    @property
    def factory(self) -> ServerFactory:
        """Makes the protocol of each connection."""

    @property
    def reloading(self) -> Sequence[Reloadable]:
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
