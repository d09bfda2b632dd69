"""
The daemon's half of :mod:`contentcache.acme.control`.

Nobody but the daemon's own account and root gets here; still, neither a flood nor one who asks and never goes
may cost more than a little.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import suppress
from typing import Any, Final

from attrs import asdict
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol, ServerFactory
from zope.interface import implementer

from contentcache.acme.control import NAME, socket_path
from contentcache.acme.renewal_loop import RenewalLoop
from contentcache.acme.renewal_state import Outcome
from contentcache.core.ports import DelayedCall, Timer

#: So many may ask at once, in so many bytes, within so many seconds; and take the answer within as many.
MOST_ASKING: Final = 16
LONGEST_QUESTION: Final = 1 << 16
_PATIENCE: Final = 10.0
#: After an accept that failed, perhaps since all file descriptors are in use, in seconds.
_ACCEPT_AGAIN: Final = 1.0


@implementer(IReadDescriptor)
class ControlSocket:
    """
    The socket, as the reactor knows it.

    Not Twisted's own port: that makes every such socket the world's, and does not end where its file has been
    taken away.
    """

    def __init__(self, reactor: Any, folder: str, renewal_loop: RenewalLoop) -> None:
        self._reactor = reactor
        self._folder = folder
        self._factory = ControlFactory(renewal_loop, reactor)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """
        Listen. One that a daemon that was killed has left behind is taken away.

        :raises OSError: it cannot be.
        """
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.setblocking(False)
        try:
            with socket_path(self._folder) as path:
                if _is_dead(path):
                    os.unlink(path)
                bound.bind(path)
                # Nobody can connect before it listens, so it is never anybody else's.
                os.chmod(path, 0o600)
                bound.listen(MOST_ASKING)
        except OSError:
            bound.close()
            raise
        self._socket = bound
        self._reactor.addReader(self)

    def stop(self) -> None:
        """
        Listen no longer, and break off with those who still wait.
        """
        if self._socket is None:
            return
        self._reactor.removeReader(self)
        with suppress(OSError), socket_path(self._folder) as path:
            os.unlink(path)
        self._socket.close()
        self._socket = None
        self._factory.stop()

    def fileno(self) -> int:
        """Of the socket."""
        return -1 if self._socket is None else self._socket.fileno()

    def logPrefix(self) -> str:
        """In the log."""
        return NAME

    def connectionLost(self, _reason: Any) -> None:
        """The reactor ends."""

    def doRead(self) -> None:
        """Somebody connects."""
        if self._socket is None:
            return
        try:
            line, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            self._reactor.removeReader(self)
            self._reactor.callLater(_ACCEPT_AGAIN, self._read_again)
            return
        with line:
            line.setblocking(False)
            # It is duplicated. Who has left already is nobody.
            with suppress(OSError):
                self._reactor.adoptStreamConnection(line.fileno(), socket.AF_UNIX, self._factory)

    def _read_again(self) -> None:
        if self._socket is not None:
            self._reactor.addReader(self)


class ControlFactory(ServerFactory):
    """
    The daemon's end.
    """

    noisy = False

    def __init__(self, renewal_loop: RenewalLoop, timer: Timer) -> None:
        self.renewal_loop = renewal_loop
        self.timer = timer
        self.asking: set[_Control] = set()

    def buildProtocol(self, _addr: Any) -> Protocol:
        return _Busy() if len(self.asking) >= MOST_ASKING else _Control(self)

    def stop(self) -> None:
        """
        Break off.
        """
        for each in tuple(self.asking):
            each.end()


class _Busy(Protocol):
    """
    Too many ask.
    """

    def connectionMade(self) -> None:
        transport: Any = self.transport
        _say(transport, Outcome("", False, "too many ask the daemon at once; try again"))
        transport.loseConnection()


class _Control(Protocol):
    """
    One question, and its answers.
    """

    def __init__(self, factory: ControlFactory) -> None:
        self._factory = factory
        self._renewal_loop = factory.renewal_loop
        self._question = b""
        self._is_asked = False
        self._pending = 0
        self._late: DelayedCall | None = None

    def connectionMade(self) -> None:
        self._factory.asking.add(self)
        self._give_up_later()

    def connectionLost(self, _reason: Any = None) -> None:
        self._factory.asking.discard(self)
        self._forget_giving_up()

    def dataReceived(self, data: bytes) -> None:
        if self._is_asked:
            return
        self._question += data
        line, is_whole, _ = self._question.partition(b"\n")
        self._is_asked = bool(is_whole) or len(line) > LONGEST_QUESTION
        if len(line) > LONGEST_QUESTION:
            self.end()
        elif is_whole:
            self._forget_giving_up()
            self._answer(line.decode("utf-8", "replace"))

    def _answer(self, line: str) -> None:
        word, *named = line.split() or [""]
        known = self._renewal_loop.states
        for host in dict.fromkeys(named):
            if host not in known:
                _say(self.transport, Outcome(host, False, "this host is not in letsencrypt.hosts"))
        hosts = [host for host in dict.fromkeys(named or known) if host in known]
        if word == "renew" and hosts:
            self._pending = len(hosts)
            for waiting in self._renewal_loop.renew(hosts):
                waiting.addCallback(self._done)
            return
        if word == "status":
            for host in hosts:
                state, says = self._renewal_loop.health(known[host])
                _say(
                    self.transport,
                    Outcome(host, state == "ok", says, self._renewal_loop.next_attempt(known[host])),
                )
        self.end()

    def _done(self, outcome: Outcome) -> None:
        _say(self.transport, outcome)
        self._pending -= 1
        if not self._pending:
            self.end()

    def end(self) -> None:
        """
        Close, for whoever does not take the answer too.
        """
        transport: Any = self.transport
        transport.loseConnection()
        if self in self._factory.asking:
            self._give_up_later()

    def _give_up_later(self) -> None:
        transport: Any = self.transport
        self._forget_giving_up()
        self._late = self._factory.timer.callLater(_PATIENCE, transport.abortConnection)

    def _forget_giving_up(self) -> None:
        late, self._late = self._late, None
        if late is not None and late.active():
            late.cancel()


def _say(transport: Any, outcome: Outcome) -> None:
    transport.write(json.dumps(asdict(outcome)).encode("ascii") + b"\n")


def _is_dead(path: str) -> bool:
    """
    Whether a socket stands there on which nobody listens.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass  # busy
        return False
