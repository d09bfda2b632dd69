"""The interface of the daemon's two roles, cache and gateway, and what a daemon is built on."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol, Self

from attrs import frozen

from contentcache.admin.status import GatewayStatus, Images, Periods, ProcessStatus, Sample, StoreStatus
from contentcache.aio.reactor import DaemonReactor
from contentcache.core.ports import Run
from contentcache.server.debug_site import HealthCheck
from contentcache.server.factory import ServerFactory
from contentcache.tls.files import Reloadable
from contentcache.upstream.agent import UpstreamTransport

#: ``repeat(seconds, call)`` calls every so many seconds until the daemon stops; exceptions are logged.
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


@frozen
class RoleReport:
    """What a role adds to the status document."""

    savings: Periods | None = None
    store: StoreStatus | None = None
    images: Images | None = None
    gateway: GatewayStatus | None = None


class Role(Protocol):
    """A daemon without its sockets: built before the daemon starts, and started once."""

    @property
    def factory(self) -> ServerFactory:
        """Makes the protocol of each connection."""

    @property
    def reloading(self) -> Sequence[Reloadable]:
        """What is reloaded on ``SIGHUP``."""

    def start(self, repeat: Repeat) -> None:
        """Start the background work. Threads run, and nothing is served yet."""

    async def stop(self) -> None:
        """Stop the background work. Nothing is served any more; threads still run."""

    def close(self) -> None:
        """Release files and locks. Threads do not run any more."""

    def health(self) -> Mapping[str, HealthCheck]:
        """The results of the health checks by name."""

    def process_status(self) -> ProcessStatus:
        """What this process alone knows."""

    async def report(self, samples: Sequence[Sample], started: float) -> RoleReport:
        """The rest, from the ``samples`` of all processes, which have counted since ``started`` (epoch)."""

    def startup_fields(self) -> Mapping[str, object]:
        """Fields of the log event ``daemon listens on``."""


class StartupError(Exception):
    """The daemon cannot start; the message is a sentence for the operator."""


class StartupExit(SystemExit, Exception):
    """
    Ends the process with status 1.

    Started in the background, twistd reports an ``Exception`` only; a ``SystemExit`` ends the process without
    a traceback.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = 1


def exit_with(sentence: str) -> NoReturn:
    """Print why the daemon cannot start, and end the process."""
    sys.stderr.write(f"contentcache: {sentence}\n")
    raise StartupExit(sentence)
