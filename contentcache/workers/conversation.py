"""
What processes of one daemon say to each other: lines of JSON over a pair of sockets.

A line tells something, or asks, or answers. File descriptors go along with a line. Nobody else has an end of
the pair, and what is said is never logged: there are credentials in it.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from contentcache.delivery.tasks import in_background

#: More than a manifest of the largest size that anybody has set, as base64.
_LONGEST: Final = 1 << 30

Values: TypeAlias = Mapping[str, Any]


class GoneError(Exception):
    """The other process has ended, or hung up."""


@implementer(IFileDescriptorReceiver)
class Conversation(LineOnlyReceiver):
    """
    One end. ``heard(name, values)`` gets what the other end tells, and answers what it asks; ``left()`` is
    called when there is no other end any more.
    """

    delimiter = b"\n"
    MAX_LENGTH = _LONGEST
    transport: Any
    _log = Logger()

    def __init__(
        self, heard: Callable[[str, Values], Awaitable[Any] | Any], left: Callable[[], None] = lambda: None
    ) -> None:
        self._heard = heard
        self._left = left
        self._questions: dict[int, Deferred[Any]] = {}
        self._asked = 0
        self._descriptors: deque[int] = deque()
        self.is_over = False

    def tell(self, name: str, **values: Any) -> None:
        """
        Say something. It may come in vain, if the other end has gone.
        """
        self._write({"tell": name, "with": values})

    def ask(self, name: str, **values: Any) -> Deferred[Any]:
        """
        Ask something.

        :raises GoneError: nobody is there to answer, or any more.
        """
        answer: Deferred[Any] = Deferred()
        if self.is_over:
            answer.errback(GoneError("the other process is gone"))
            return answer
        self._asked += 1
        self._questions[self._asked] = answer
        self._write({"ask": name, "id": self._asked, "with": values})
        return answer

    def hand(self, descriptor: int) -> None:
        """
        Send an open file along with what is said next. It must stay open until that was answered.
        """
        if not self.is_over:
            self.transport.sendFileDescriptor(descriptor)

    def take_descriptor(self) -> int | None:
        """
        The open file that came with what was said; it is the caller's to close. ``None`` where it was lost:
        this process has too many already.
        """
        return self._descriptors.popleft() if self._descriptors else None

    def hang_up(self) -> None:
        """
        Say no more.
        """
        if not self.is_over:
            self.transport.loseConnection()

    # What the transport reports.

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """A file has come (``IFileDescriptorReceiver``)."""
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def lineReceived(self, line: bytes) -> None:
        message = json.loads(line)
        if "answer" in message:
            waiting = self._questions.pop(message["answer"], None)
            if waiting is not None and not waiting.called:
                waiting.callback(message["value"])
        elif "ask" in message:
            in_background(self._answer(message))
        else:
            self._hear(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002  # whyever
        self.is_over = True
        while self._descriptors:
            os.close(self._descriptors.popleft())
        waiting, self._questions = self._questions, {}
        self._left()  # first, so that who waits for an answer does not ask again here
        for answer in waiting.values():
            if not answer.called:
                answer.errback(GoneError("the other process is gone"))

    def _hear(self, message: Mapping[str, Any]) -> None:
        try:
            self._heard(message["tell"], message["with"])
        except Exception:  # noqa: BLE001  # a defect in one thing must not end all
            self._log.failure("what another process has told made no sense: {name}", name=message["tell"])

    async def _answer(self, message: Mapping[str, Any]) -> None:
        value = None
        try:
            value = self._heard(message["ask"], message["with"])
            if isinstance(value, Awaitable):
                value = await value
        finally:
            self._write({"answer": message["id"], "value": value})

    def _write(self, message: Mapping[str, Any]) -> None:
        if not self.is_over:
            self.transport.write(json.dumps(message, separators=(",", ":")).encode("ascii") + self.delimiter)


def converse(reactor: Any, descriptor: int, conversation: Conversation) -> Conversation:
    """
    Begin at this end of a pair of sockets, whose number the reactor has from now on.
    """
    factory: Any = _Once(conversation)
    end = socket.socket(fileno=descriptor)
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
    end.close()
    return conversation


class _Once(Factory):
    """
    Makes the one protocol of an accepted connection.
    """

    noisy = False

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def buildProtocol(self, _addr: Any) -> Any:
        return self._conversation
