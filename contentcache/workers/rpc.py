"""
Messages and calls between two processes of one daemon, over a pair of sockets.

Each line is a message (:mod:`contentcache.workers.messages`), a call, or a call's acknowledgement or result. File
descriptors are attached to lines. No other process has an end of the pair.

The receiver acknowledges a call as soon as it reads it, and sends one result: a value, or that there is none. The
caller waits for both with a timeout.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

from attrs import frozen
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IFileDescriptorReceiver, IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from contentcache.aio.reactor import SocketReactor
from contentcache.aio.tasks import in_background
from contentcache.core.ports import DelayedCall
from contentcache.workers import messages
from contentcache.workers.encoding import decode, encode

#: Seconds in which a call has a result, unless the caller says otherwise.
CALL_TIMEOUT: Final = 30.0
#: Seconds in which a call is acknowledged by a process that is not stopped.
ACKNOWLEDGEMENT_TIMEOUT: Final = 3.0
#: Seconds between two heartbeats.
_HEARTBEAT_INTERVAL: Final = 5.0
#: More than a manifest of the largest size that anybody has configured, as base64.
_MAX_LINE: Final = 1 << 30


class RPCError(Exception):
    """A call to another process has no result."""


class ConnectionClosedError(RPCError):
    """The other process has ended, or has closed the connection."""


class UnresponsiveError(RPCError):
    """The other process runs, and reads nothing: it is stopped, or hangs."""


class CallTimeoutError(RPCError):
    """The other process has read the call, and has not sent a result in time."""


class RemoteError(RPCError):
    """The other process has failed to compute the result; its log says why."""


@frozen(eq=False)
class _Call:
    result: Deferred[Any]
    acknowledgement_timeout: DelayedCall


@implementer(IFileDescriptorReceiver, IPushProducer)
class RPCConnection(LineOnlyReceiver):
    """
    One end of a connection.

    ``receive(message)`` gets the messages and calls of the other end; for a call it returns the result or an
    awaitable of it. ``closed()`` is called when the connection ends.
    """

    delimiter = b"\n"
    MAX_LENGTH = _MAX_LINE
    transport: Any
    _log = Logger()

    def __init__(
        self, receive: Callable[[Any], Awaitable[Any] | Any], closed: Callable[[], None] = lambda: None
    ) -> None:
        self._receive = receive
        self._closed = closed
        self._calls: dict[int, _Call] = {}
        self._last_call = 0
        self._descriptors: deque[int] = deque()
        self.is_closed = False
        #: Whether the last call was not acknowledged in time, and nothing has been received since.
        self.is_unresponsive = False
        #: Whether the other process reads more slowly than this one sends.
        self.is_backed_up = False
        self._next_heartbeat: DelayedCall | None = None

    def send(self, message: object) -> None:
        """Send a message. It is lost if the connection is closed."""
        self._write({"message": message})

    def call(self, message: object, *, timeout: float = CALL_TIMEOUT) -> Deferred[Any]:
        """
        Send a call and wait ``timeout`` seconds for the result.

        While the other process is unresponsive nothing is sent: the call fails at once.

        :raises ConnectionClosedError: the connection is closed, or was before the result came.
        :raises UnresponsiveError: the call is not acknowledged.
        :raises CallTimeoutError: it is acknowledged, and has no result in time.
        :raises RemoteError: the other process has failed to compute the result.
        """
        if self.is_closed:
            return fail(ConnectionClosedError("the other process has ended"))
        if self.is_unresponsive:
            return fail(UnresponsiveError("the other process does not respond"))
        self._last_call += 1
        number, timer = self._last_call, self.transport.reactor
        result: Deferred[Any] = Deferred()
        unacknowledged = timer.callLater(
            min(ACKNOWLEDGEMENT_TIMEOUT, timeout), self._not_acknowledged, number
        )
        self._calls[number] = _Call(result, unacknowledged)

        def late(_cancelled: object, seconds: float) -> NoReturn:
            name = type(message).__name__
            raise CallTimeoutError(f"the other process has not answered {name} within {seconds:g} s")

        result.addTimeout(timeout, timer, late).addBoth(self._call_ended, number)
        self._write({"call": number, "message": message})
        return result

    def close_when_unresponsive(self) -> None:
        """Send heartbeats to the other process, and close the connection as soon as it does not respond."""
        if not self.is_closed:
            self._next_heartbeat = self.transport.reactor.callLater(_HEARTBEAT_INTERVAL, self._send_heartbeat)

    def attach_descriptor(self, descriptor: int) -> None:
        """Send an open file along with the next line. It must stay open until that was acknowledged."""
        if not self.is_closed:
            self.transport.sendFileDescriptor(descriptor)

    def receive_descriptor(self) -> int | None:
        """
        The open file that came with a message, which the caller must close; ``None`` where it was lost: this
        process has too many open files.
        """
        return self._descriptors.popleft() if self._descriptors else None

    def close(self) -> None:
        """Close the connection after all that was sent."""
        if not self.is_closed:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    # Called by the transport.

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        """The transport's buffer is full (``IPushProducer``)."""
        self.is_backed_up = True

    def resumeProducing(self) -> None:
        """The transport's buffer has room again."""
        self.is_backed_up = False

    def stopProducing(self) -> None:
        """The connection has ended."""

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """A file has arrived (``IFileDescriptorReceiver``)."""
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def lineReceived(self, line: bytes) -> None:
        self.is_unresponsive = False
        try:
            frame = decode(line)
        except Exception:  # noqa: BLE001  # one faulty line must not end the connection
            self._log.failure("line of another process not decoded", bytes=len(line))
            return
        if "acknowledged" in frame:
            call = self._calls.get(frame["acknowledged"])
            if call is not None and call.acknowledgement_timeout.active():
                call.acknowledgement_timeout.cancel()
        elif "result" in frame:
            self._receive_result(frame["result"], frame["value"], frame["error"])
        elif "call" in frame:
            self._write({"acknowledged": frame["call"]})
            in_background(self._answer(frame["call"], frame["message"]))
        else:
            self._receive_message(frame["message"])

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002  # all reasons are alike
        self.is_closed = True
        if self._next_heartbeat is not None and self._next_heartbeat.active():
            self._next_heartbeat.cancel()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._closed()  # first, so that callers do not use this connection again
        while self._calls:  # a caller may cancel another call of its own
            next(iter(self._calls.values())).result.errback(
                ConnectionClosedError("the other process has ended")
            )

    def _receive_result(self, number: int, value: Any, error: str | None) -> None:
        call = self._calls.get(number)
        if call is not None:  # else its timeout has passed
            call.result.callback(value if error is None else Failure(RemoteError(error)))

    def _not_acknowledged(self, number: int) -> None:
        self.is_unresponsive = True
        self._calls[number].result.errback(UnresponsiveError("the other process does not respond"))

    def _call_ended(self, result: Any, number: int) -> Any:
        timer = self._calls.pop(number).acknowledgement_timeout
        if timer.active():
            timer.cancel()
        return result

    def _send_heartbeat(self) -> None:
        # The acknowledgement is enough.
        self.call(messages.Heartbeat()).addCallbacks(
            lambda _none: self.close_when_unresponsive(), self._heartbeat_failed
        )

    def _heartbeat_failed(self, failure: Failure) -> None:
        if failure.check(UnresponsiveError):
            self.transport.abortConnection()
        else:
            self.close_when_unresponsive()

    def _receive_message(self, message: Any) -> None:
        try:
            self._receive(message)
        except Exception:  # noqa: BLE001  # one faulty message must not end the connection
            self._log.failure("message of another process failed", kind=type(message).__name__)

    async def _answer(self, number: int, message: Any) -> None:
        name = type(message).__name__
        try:
            value = self._receive(message)
            if isinstance(value, Awaitable):
                value = await value
            self._write({"result": number, "value": value, "error": None})
        except Exception as error:  # noqa: BLE001  # the caller must not wait in vain
            self._log.failure("call of another process failed", kind=name)
            self._write({"result": number, "value": None, "error": f"{type(error).__name__}: {error}"})

    def _write(self, frame: Any) -> None:
        """:raises TypeError: the frame contains something that cannot be sent."""
        line = encode(frame) + self.delimiter
        if not self.is_closed:
            self.transport.write(line)


def connect(reactor: SocketReactor, descriptor: int, connection: RPCConnection) -> RPCConnection:
    """Start a connection over this end of a pair of sockets, which the reactor owns from now on."""
    factory: Any = _OneProtocolFactory(connection)
    end = socket.socket(fileno=descriptor)
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
    end.close()
    return connection


class _OneProtocolFactory(Factory):
    """Makes the one protocol of an adopted connection."""

    noisy = False

    def __init__(self, protocol: RPCConnection) -> None:
        self._protocol = protocol

    def buildProtocol(self, _addr: Any) -> Any:
        return self._protocol
