"""What systemd, or whoever started the daemon, is told of it (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from contentcache.aio.tasks import in_background
from contentcache.core.ports import Timer

#: What is for the process that was started, and for no program that it starts.
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceNotifier:
    """Sends the state of the daemon to the socket that ``NOTIFY_SOCKET`` names; without it, nothing."""

    def __init__(self, environ: Mapping[str, str], timer: Timer) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._interval = _watchdog_interval(environ) if path else None
        self._timer = timer
        self._is_stopping = False

    def start(self, serving: Coroutine[Any, Any, None]) -> None:
        """Tell that the daemon is ready when ``serving`` returns, and from now on that it is alive."""
        self._feed_watchdog()
        in_background(self._tell_ready(serving))

    def tell_stopping(self) -> None:
        """The daemon stops."""
        self._interval = None
        self._is_stopping = True
        self._send("STOPPING=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The daemon reloads its configuration."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._timer.seconds() * 1e6)}")
        try:
            yield
        finally:
            self._send("READY=1")

    async def _tell_ready(self, serving: Coroutine[Any, Any, None]) -> None:
        await serving
        if not self._is_stopping:
            self._send(f"READY=1\nMAINPID={os.getpid()}")

    def _feed_watchdog(self) -> None:
        if self._interval is not None:
            self._send("WATCHDOG=1")
            self._timer.callLater(self._interval, self._feed_watchdog)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # A full or closed socket must neither block nor end the daemon.
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(state.encode("ascii"), self._address)


def without_notifier(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the programs that the daemon starts."""
    return {name: value for name, value in environ.items() if name not in _VARIABLES}


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """
    Half of the time in which the daemon must be heard of, ``None`` where nobody watches it.

    >>> _watchdog_interval({"WATCHDOG_USEC": "30000000"}), _watchdog_interval({"WATCHDOG_USEC": "soon"})
    (15.0, None)
    """
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdecimal() or int(microseconds) == 0 or pid != str(os.getpid()):
        return None
    return int(microseconds) / 2e6
