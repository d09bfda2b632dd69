"""
How the command line talks to the daemon: a Unix socket in the folder of the certificates, so that who may use
it is who may read the keys.

A line asks, ``renew`` or ``status`` and perhaps hosts; lines of JSON answer, one for each host, then the end.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from attrs import asdict
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineOnlyReceiver

from contentcache.acme.keeper import Keeper
from contentcache.acme.standing import Outcome
from contentcache.config.urls import LONGEST_SOCKET

_NAME: Final = "control"
#: A renewal may wait for others, and for an ACME server that takes its time.
_PATIENCE: Final = 1800.0


class NoDaemon(Exception):
    """No daemon keeps the certificates of this folder now."""


@contextmanager
def socket_path(folder: str) -> Iterator[str]:
    """
    The path of the socket, short enough for the kernel however long the folder's is.
    """
    path = os.path.join(folder, _NAME)
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        yield path
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{_NAME}"
    finally:
        os.close(opened)


class ControlFactory(ServerFactory):
    """
    The daemon's end.
    """

    noisy = False

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def buildProtocol(self, _addr: Any) -> _Control:
        return _Control(self.keeper)


class _Control(LineOnlyReceiver):
    """
    One question, and its answers.
    """

    delimiter = b"\n"
    MAX_LENGTH = 1 << 16

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._pending = 0

    def lineReceived(self, line: bytes) -> None:
        word, *named = line.decode("utf-8", "replace").split() or [""]
        known = self._keeper.standings
        for host in named:
            if host not in known:
                self._say(Outcome(host, False, "this host is not in letsencrypt.hosts"))
        hosts = [host for host in named or known if host in known]
        if word == "renew" and hosts:
            self._pending = len(hosts)
            for waiting in self._keeper.renew(hosts):
                waiting.addCallback(self._done)
            return
        if word == "status":
            for host in hosts:
                state, says = self._keeper.state(known[host])
                self._say(Outcome(host, state == "ok", says))
        self._end()

    def _done(self, outcome: Outcome) -> None:
        self._say(outcome)
        self._pending -= 1
        if not self._pending:
            self._end()

    def _say(self, outcome: Outcome) -> None:
        transport: Any = self.transport
        transport.write(json.dumps(asdict(outcome)).encode("ascii") + self.delimiter)

    def _end(self) -> None:
        transport: Any = self.transport
        transport.loseConnection()


def ask(folder: str, word: str, hosts: Sequence[str] = ()) -> Iterator[Outcome]:
    """
    Ask the daemon, and give its answers as they come. Blocks.

    :raises NoDaemon: there is none.
    :raises OSError: the socket cannot be used.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_PATIENCE)
        try:
            with socket_path(folder) as path:
                line.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemon from error
        line.sendall(" ".join([word, *hosts]).encode() + b"\n")
        with line.makefile("rb") as answers:
            for answer in answers:
                yield Outcome(**json.loads(answer))
