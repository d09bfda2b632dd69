"""
Questions to another process from threads: one at a time, each with an answer or an ``OSError`` in time.

A process that is stopped reads nothing. Who asks it waits once; until it has answered what it was asked,
further questions fail at once. Answers have the number of their question, so a late one is nobody else's.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from threading import Lock
from typing import Any, Final

from contentcache.core.ports import Clock

#: Seconds in which a question to an index is answered, whatever the disk does.
ANSWERED_IN: Final = 3.0
_PIECE: Final = 1 << 16


class BlockingQuestions:
    """
    This side of a pair of sockets; the other side is :class:`contentcache.workers.index_desk.IndexDesk`.

    Every question that is not answered is an ``OSError``. ``seconds`` is how long one waits.
    """

    def __init__(
        self, end: socket.socket, seconds: float = ANSWERED_IN, monotonic: Clock = time.monotonic
    ) -> None:
        self._end = end
        self._seconds = seconds
        self._monotonic = monotonic
        self._lock = Lock()
        self._number = 0
        self._unsent = b""
        self._received = b""
        self._is_silent = False

    def close(self) -> None:
        """Ask no more."""
        with self._lock, suppress(OSError):
            self._end.close()

    def ask(self, method: str, given: Any) -> Any:
        """
        Ask for what ``method`` makes of what is ``given``, and wait for the answer.

        Raises ``OSError``, as the other side says or because it says nothing in time.
        """
        with self._lock:
            if self._is_silent:
                self._look_for_life()
            self._number += 1
            self._unsent += json.dumps([method, given, self._number]).encode("ascii") + b"\n"
            deadline = self._monotonic() + self._seconds
            try:
                self._send(deadline)
                value, fault = self._answer(deadline)
            except TimeoutError as error:
                self._is_silent = True
                message = f"the parent, which has the index, has not answered for {self._seconds:g} s"
                raise OSError(message) from error
        if fault is not None:
            raise OSError(*fault)
        return value

    def _look_for_life(self) -> None:
        """Take what has come meanwhile. Raises ``OSError`` where nothing has."""
        try:
            self._send(0.0)
            self._receive(0.0)
        except TimeoutError as error:
            raise OSError("the parent, which has the index, does not answer") from error
        self._is_silent = False

    def _send(self, deadline: float) -> None:
        while self._unsent:
            self._wait_until(deadline)
            try:
                self._unsent = self._unsent[self._end.send(self._unsent) :]
            except BlockingIOError as error:
                raise TimeoutError from error

    def _answer(self, deadline: float) -> tuple[Any, Any]:
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if not newline:
                self._receive(deadline)
                continue
            self._received = rest
            value, fault, number = json.loads(line)
            if number == self._number:
                return value, fault

    def _receive(self, deadline: float) -> None:
        self._wait_until(deadline)
        try:
            piece = self._end.recv(_PIECE)
        except BlockingIOError as error:
            raise TimeoutError from error
        if not piece:
            raise OSError("the parent, which has the index, is gone")
        self._received += piece

    def _wait_until(self, deadline: float) -> None:
        # With 0 the socket does not block.
        self._end.settimeout(max(0.0, deadline - self._monotonic()))
