"""A process that becomes a worker: its signals, its lines to the parent, its log, and its end."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any, Final, TextIO, cast

from twisted.logger import Logger, globalLogBeginner

from contentcache.daemon import NotStarted
from contentcache.journal import observer
from contentcache.workers.child import Worker
from contentcache.workers.conversation import Conversation, Values, converse
from contentcache.workers.crew import CONTROL, FRONT, INDEX, LOCK

_log = Logger(namespace="contentcache")

#: So many bytes are written at once to a pipe that others write to, without their words in between.
_PIPE_BUF: Final = 4096


def prepare(number: int, reactor: Any) -> None:
    """Be worker ``number`` as soon as the reactor runs."""
    _ignore_signals()
    for descriptor in (CONTROL, INDEX, FRONT, LOCK):
        with suppress(OSError):
            os.set_inheritable(descriptor, False)
    worker: Worker | None = None

    def heard(name: str, values: Values) -> Any:
        nonlocal worker
        if worker is not None:
            return worker.heard(name, values)
        if name == "hello":
            worker = _begin(number, values, conversation, reactor)
        return None

    conversation = Conversation(heard, lambda: os._exit(1))
    reactor.callWhenRunning(_ignore_signals)
    reactor.callWhenRunning(converse, reactor, CONTROL, conversation)


def _begin(number: int, hello: Values, parent: Conversation, reactor: Any) -> Worker:
    worker = Worker(number, hello, parent, reactor)
    stream = cast("TextIO", _Lines(sys.stdout.fileno()))
    journal = observer(stream, worker.configuration.log, number)
    globalLogBeginner.beginLoggingTo([journal], redirectStandardIO=False)
    try:
        worker.privilegedStartService()
        worker.startService()
    except Exception as error:  # noqa: BLE001  # a worker that cannot serve must not live on and be waited for
        if not isinstance(error, NotStarted):
            _log.failure("worker not started", worker=number)
        parent.tell("cannot", why=str(error.args[0] if error.args else error))
        reactor.callLater(0, reactor.stop)
        return worker
    _ignore_signals()
    parent.tell("ready")
    return worker


def _ignore_signals() -> None:
    """Signals that are meant for the daemon may reach all of its processes: the parent tells what they mean."""
    # No SIG_IGN: programs that we start would inherit it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)


class _Lines:
    """A stream to which several processes write, none into another one's line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        """Write whole lines, as many at once as stay together."""
        batch = b""
        for line in text.encode("utf-8", "backslashreplace").splitlines(keepends=True):
            if batch and len(batch) + len(line) > _PIPE_BUF:
                self._put(batch)
                batch = b""
            batch += line
        self._put(batch)

    def flush(self) -> None:
        """Nothing waits."""

    def _put(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]
