"""A request to the registry behind: its head as a value, and its body, which is never held as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from contentcache.core.errors import CacheError
from contentcache.core.ports import DelayedCall, Timer
from contentcache.gateway.errors import BodyTooLarge, BodyTooSlow

#: A header field, name and value, each byte as one character (latin-1).
Field = tuple[str, str]


@frozen
class ProxyRequest:
    """
    The head of a request: ``target`` is path and query, ``fields`` are complete but for those that frame the
    body. With ``expects_continue`` the registry is asked first whether it accepts the body.
    """

    method: str
    target: str
    fields: Sequence[Field]
    expects_continue: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent a second time where the outcome of the first is unknown."""
        return self.method in {"GET", "HEAD", "OPTIONS"}

    def framing(self, body: RequestBody | None) -> Sequence[Field]:
        """Return the fields that say where the request ends (RFC 9112 §6)."""
        if body is None:
            # RFC 9110 §8.6: where a body would have a meaning its absence is said.
            return [("Content-Length", "0")] if self.method in {"POST", "PUT", "PATCH"} else []
        if body.length is None:
            return [("Transfer-Encoding", "chunked")]
        return [("Content-Length", str(body.length))]


class BodyReceiver(Protocol):
    """Where a request's body is written to."""

    def write(self, data: bytes, /) -> None:
        """Receive a piece."""

    def finish(self) -> None:
        """The body is complete."""

    def fail(self, error: CacheError, /) -> None:
        """The body ends before it is complete."""


class ClientConnection(Protocol):
    """The client's connection, on which a request's body arrives."""

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


@implementer(IPushProducer)
class RequestBody:
    """
    The body of a client's request; ``length`` in bytes, ``None`` where it is not stated.

    The connection is paused until :meth:`deliver`; then the receiver may pause it. A client that sends nothing
    for ``timeout`` seconds while it is not paused has failed.
    """

    def __init__(
        self, connection: ClientConnection, timer: Timer, timeout: float, length: int | None
    ) -> None:
        self.length = length
        #: Whether all of it has arrived.
        self.complete = False
        #: Called when a receiver is there: the client may be waiting for ``100 Continue``.
        self.on_delivery: Callable[[], None] = lambda: None
        self._connection = connection
        self._timer = timer
        self._timeout = timeout
        self._receiver: BodyReceiver | None = None
        #: What arrived in one packet with the head.
        self._early: list[bytes] = []
        self._failure: CacheError | None = None
        self._paused = True
        self._deadline: DelayedCall | None = None
        connection.pauseProducing()

    @property
    def paused(self) -> bool:
        """Whether its receiver has paused it."""
        return self._paused and self._receiver is not None

    # Called by the channel.

    def received(self, data: bytes) -> None:
        """A piece has arrived."""
        if self._receiver is None:
            self._early.append(data)
            return
        if self._deadline is not None:
            self._deadline.reset(self._timeout)
        self._receiver.write(data)

    def ended(self) -> None:
        """All of it has arrived."""
        if self.complete:
            return
        self.complete = True
        self._cancel_deadline()
        if self._receiver is not None:
            self._receiver.finish()

    def failed(self, error: CacheError) -> None:
        """The rest will not arrive."""
        if self.complete or self._failure is not None:
            return
        self._failure = error
        self._cancel_deadline()
        if self._receiver is not None:
            self._receiver.fail(error)

    # Called by what answers.

    def deliver(self, receiver: BodyReceiver) -> None:
        """Write the body to ``receiver``, which may pause it. To be called once."""
        early, self._early = self._early, []
        for data in early:
            receiver.write(data)
        if self.complete:
            receiver.finish()
        elif self._failure is not None:
            receiver.fail(self._failure)
        else:
            self._receiver = receiver
            self.on_delivery()
            self.resumeProducing()

    async def read(self, limit: int) -> bytes:
        """
        Return a small body as a whole.

        :raises BodyTooLarge: it has more than ``limit`` bytes.
        :raises CacheError: it does not arrive.
        """
        if self.length is not None and self.length > limit:
            raise BodyTooLarge(f"a body has at most {limit} bytes here")
        collector = _BodyCollector(limit)
        self.deliver(collector)
        return await collector.outcome

    def pauseProducing(self) -> None:
        """Stop reading from the client for now."""
        if not (self._paused or self.complete):
            self._paused = True
            self._cancel_deadline()
            self._connection.pauseProducing()

    def resumeProducing(self) -> None:
        """Read from the client again."""
        if self._paused and not self.complete and self._failure is None:
            self._paused = False
            self._deadline = self._timer.callLater(self._timeout, self._time_out)
            self._connection.resumeProducing()

    def stopProducing(self) -> None:
        """Discard the rest; the channel closes the connection after the answer."""
        self.pauseProducing()
        self._receiver = _DiscardingReceiver()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def _time_out(self) -> None:
        self._deadline = None
        self.failed(BodyTooSlow(f"nothing of the request's body has come for {self._timeout:g} s"))


class _DiscardingReceiver:
    def write(self, data: bytes, /) -> None:
        """Discard it."""

    def finish(self) -> None:
        """Nothing is to be done."""

    def fail(self, error: CacheError, /) -> None:
        """Nothing is to be done."""


class _BodyCollector:
    """Collects a small body."""

    def __init__(self, limit: int) -> None:
        self.outcome: Deferred[bytes] = Deferred()
        self._left = limit
        self._pieces: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self._pieces.append(data)
        else:
            self._pieces.clear()
            self.fail(BodyTooLarge("the request's body is too large"))

    def finish(self) -> None:
        if not self.outcome.called:
            self.outcome.callback(b"".join(self._pieces))

    def fail(self, error: CacheError, /) -> None:
        if not self.outcome.called:
            self.outcome.errback(error)
