"""
What processes of one daemon say to each other: lines of JSON over a pair of sockets.

A line tells something, or asks, or answers. File descriptors go along with a line. Nobody else has an end of
the pair, and what is said is never logged: there are credentials in it.

Every question is acknowledged as soon as it is read, and answered once: with a value, or with the fact that
there is none. Who asks waits for neither without a bound.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IFileDescriptorReceiver, IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from contentcache.aio.tasks import in_background
from contentcache.core.ports import DelayedCall

#: Seconds in which a question is answered, unless who asks says otherwise.
ANSWERED_IN: Final = 30.0
#: More than a manifest of the largest size that anybody has set, as base64.
_LONGEST: Final = 1 << 30

#: Seconds between two looks at whether the other process still runs, by who waits for what it tells.
_LOOK_EVERY: Final = 5.0
#: Seconds within which a question is acknowledged by a process that runs at all.
ACKNOWLEDGED_IN: Final = 3.0

Values: TypeAlias = Mapping[str, Any]


class NoAnswerError(Exception):
    """A question to another process has no answer."""


class GoneError(NoAnswerError):
    """The other process has ended, or hung up."""


class SilentError(NoAnswerError):
    """The other process is there, and reads nothing: it is stopped, or hangs."""


class LateError(NoAnswerError):
    """The other process has read the question, and has not answered in time."""


class RemoteError(NoAnswerError):
    """The other process has failed to answer; its log says why."""


@define(eq=False)
class _Question:
    """A question that waits: for its answer, and for the ends of both times."""

    answer: Deferred[Any]
    unread: DelayedCall
    late: DelayedCall

    def end(self) -> bool:
        """Wait no longer; whether it still did."""
        for timer in (self.unread, self.late):
            if timer.active():
                timer.cancel()
        return not self.answer.called


@implementer(IFileDescriptorReceiver, IPushProducer)
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
        self._questions: dict[int, _Question] = {}
        self._asked = 0
        self._descriptors: deque[int] = deque()
        self.is_over = False
        #: Whether the last question was not even read in time, and nothing has come since.
        self.is_silent = False
        self._look: DelayedCall | None = None
        #: Whether much of what was said waits to be read.
        self.is_backed_up = False

    def tell(self, name: str, **values: Any) -> None:
        """Say something. It may come in vain, if the other end has gone."""
        self._write({"tell": name, "with": values})

    def ask(self, name: str, *, timeout: float = ANSWERED_IN, **values: Any) -> Deferred[Any]:
        """
        Ask something, and wait ``timeout`` seconds for the answer.

        While the other process is silent the question is not even sent: it fails at once.

        :raises GoneError: nobody is there to answer, or any more.
        :raises SilentError: the question is not read.
        :raises LateError: it is read, and not answered in time.
        :raises RemoteError: the other process has failed to answer.
        """
        answer: Deferred[Any] = Deferred()
        if self.is_over:
            return _failed(answer, GoneError("the other process is gone"))
        if self.is_silent:
            return _failed(answer, SilentError("the other process does not read what it is asked"))
        self._asked += 1
        number, timer = self._asked, self.transport.reactor
        self._questions[number] = _Question(
            answer,
            timer.callLater(min(ACKNOWLEDGED_IN, timeout), self._was_not_read, number),
            timer.callLater(timeout, self._was_not_answered, number, name, timeout),
        )
        self._write({"ask": name, "id": number, "with": values})
        return answer

    def watch(self) -> None:
        """Hang up as soon as the other process reads nothing: for who waits for what it tells."""
        if not self.is_over:
            self._look = self.transport.reactor.callLater(_LOOK_EVERY, self._see_it_runs)

    def hand(self, descriptor: int) -> None:
        """Send an open file along with what is said next. It must stay open until that was answered."""
        if not self.is_over:
            self.transport.sendFileDescriptor(descriptor)

    def take_descriptor(self) -> int | None:
        """
        The open file that came with what was said; it is the caller's to close. ``None`` where it was lost:
        this process has too many already.
        """
        return self._descriptors.popleft() if self._descriptors else None

    def hang_up(self) -> None:
        """Say no more."""
        if not self.is_over:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    # What the transport reports.

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        """The other process reads more slowly than we say (``IPushProducer``)."""
        self.is_backed_up = True

    def resumeProducing(self) -> None:
        """It has caught up."""
        self.is_backed_up = False

    def stopProducing(self) -> None:
        """It is gone."""

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """A file has come (``IFileDescriptorReceiver``)."""
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def lineReceived(self, line: bytes) -> None:
        self.is_silent = False
        message = json.loads(line)
        if "read" in message:
            question = self._questions.get(message["read"])
            if question is not None and question.unread.active():
                question.unread.cancel()
        elif "answer" in message:
            self._take_answer(message)
        elif "ask" in message:
            self._write({"read": message["id"]})
            in_background(self._answer(message))
        else:
            self._hear(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002  # whyever
        self.is_over = True
        if self._look is not None and self._look.active():
            self._look.cancel()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        waiting, self._questions = self._questions, {}
        self._left()  # first, so that who waits for an answer does not ask again here
        for question in waiting.values():
            if question.end():
                question.answer.errback(GoneError("the other process is gone"))

    def _take_answer(self, message: Mapping[str, Any]) -> None:
        question = self._questions.pop(message["answer"], None)
        if question is None or not question.end():
            return
        if "error" in message:
            question.answer.errback(RemoteError(message["error"]))
        else:
            question.answer.callback(message["value"])

    def _was_not_read(self, number: int) -> None:
        self.is_silent = True
        self._fail(number, SilentError("the other process does not read what it is asked"))

    def _was_not_answered(self, number: int, name: str, timeout: float) -> None:
        self._fail(number, LateError(f"the other process has not answered {name} within {timeout:g} s"))

    def _fail(self, number: int, error: NoAnswerError) -> None:
        question = self._questions.pop(number)
        if question.end():
            question.answer.errback(error)

    def _see_it_runs(self) -> None:
        # That it is read is answer enough.
        self.ask("alive").addCallbacks(lambda _none: self.watch(), self._does_not_run)

    def _does_not_run(self, failure: Failure) -> None:
        if failure.check(SilentError):
            self.transport.abortConnection()
        else:
            self.watch()

    def _hear(self, message: Mapping[str, Any]) -> None:
        try:
            self._heard(message["tell"], message["with"])
        except Exception:  # noqa: BLE001  # a defect in one thing must not end all
            self._log.failure("notification of another process failed", notification=message["tell"])

    async def _answer(self, message: Mapping[str, Any]) -> None:
        try:
            value = self._heard(message["ask"], message["with"])
            if isinstance(value, Awaitable):
                value = await value
            self._write({"answer": message["id"], "value": value})
        except Exception as error:  # noqa: BLE001  # whatever it is, who asks has to know
            self._log.failure("request of another process failed", request=message["ask"])
            self._write({"answer": message["id"], "error": f"{type(error).__name__}: {error}"})

    def _write(self, message: Mapping[str, Any]) -> None:
        """Raises ``TypeError`` where the message has a value that JSON does not know."""
        line = json.dumps(message, separators=(",", ":")).encode("ascii") + self.delimiter
        if not self.is_over:
            self.transport.write(line)


def _failed(answer: Deferred[Any], error: NoAnswerError) -> Deferred[Any]:
    answer.errback(error)
    return answer


def converse(reactor: Any, descriptor: int, conversation: Conversation) -> Conversation:
    """Begin at this end of a pair of sockets, whose number the reactor has from now on."""
    factory: Any = _Once(conversation)
    end = socket.socket(fileno=descriptor)
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
    end.close()
    return conversation


class _Once(Factory):
    """Makes the one protocol of an accepted connection."""

    noisy = False

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def buildProtocol(self, _addr: Any) -> Any:
        return self._conversation
