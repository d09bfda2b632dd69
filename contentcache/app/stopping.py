"""What is logged when the daemon stops: why, after how long, and what that has cut off."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from signal import Signals
from typing import Final, Self

from attrs import frozen
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from contentcache.aio.condition import sleep
from contentcache.aio.reactor import DaemonReactor
from contentcache.app.role import Role

_log = Logger(namespace="contentcache")

#: Seconds between two looks at whether transfers have finished.
_DRAIN_STEP: Final = 0.1


@frozen
class CutOff:
    """
    What a stop has cut off: responses that end short, and downloads that the next start resumes, with the
    ``bytes`` that they have by then.
    """

    responses: int = 0
    downloads: int = 0
    bytes: int = 0

    def __add__(self, other: CutOff) -> Self:
        return type(self)(
            self.responses + other.responses, self.downloads + other.downloads, self.bytes + other.bytes
        )


async def drain(role: Role, reactor: DaemonReactor, seconds: float) -> CutOff:
    """Refuse further requests, let transfers finish for so many seconds, and cut off the rest."""
    factory = role.factory
    factory.close_idle()
    until = reactor.seconds() + seconds
    if factory.busy and seconds > 0:
        _log.info("drain started", transfers=factory.busy, timeout=seconds)
    while factory.busy and reactor.seconds() < until:
        await sleep(reactor, _DRAIN_STEP)
    responses = factory.busy
    factory.cut()
    downloads = role.process_status().downloads
    return CutOff(responses, len(downloads), sum(download.bytes for download in downloads))


class StopLog:
    """Logs the stop of a daemon that has started now."""

    def __init__(self, reactor: DaemonReactor) -> None:
        self._reactor = reactor
        self._started = reactor.seconds()

    def stopping(self) -> None:
        """The daemon begins to stop."""
        _log.info("daemon stopping", reason=self._reason(), uptime=self._uptime())

    def stopped(self, cut_off: CutOff) -> None:
        """Nothing is served any more."""
        _log.info(
            "daemon stopped",
            reason=self._reason(),
            uptime=self._uptime(),
            responses_cut=cut_off.responses,
            downloads_suspended=cut_off.downloads,
            bytes_suspended=cut_off.bytes,
        )

    def _uptime(self) -> str:
        return f"{self._reactor.seconds() - self._started:.0f}s"

    def _reason(self) -> str:
        """The name of the signal that has stopped the reactor."""
        number = getattr(
            self._reactor, "_exitSignal", None
        )  # Twisted stores it, and has no other name for it
        return "request" if number is None else Signals(number).name


def stop_with(sentence: str, reactor: DaemonReactor) -> None:
    """Print why the daemon cannot go on, stop it as a signal does, and end the process with status 1."""
    sys.stderr.write(f"contentcache: {sentence}\n")
    # twistd returns 0 whatever was the matter, once it has deleted its pid file.
    atexit.register(_end_with_failure)
    with suppress(ReactorNotRunning):  # a signal was faster
        reactor.stop()


def _end_with_failure() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)
