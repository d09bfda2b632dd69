"""The body of an upstream's answer while it is received, with back-pressure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from contentcache.core.errors import UpstreamBroken, UpstreamTimeout
from contentcache.core.ports import DelayedCall, Timer
from contentcache.upstream.content_coding import Decoder


class Transport(Protocol):
    """What a body is delivered over."""

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def stopProducing(self) -> None: ...


#: Receives the pieces of a body; may be called before :meth:`Answer.stream` has returned.
Received: TypeAlias = Callable[["Inflow", bytes], None]


class Inflow(TwistedProtocol):
    """
    A body that is being received: ``received(inflow, data)`` gets its bytes.

    ``ended`` fires with ``None`` when the body ended as HTTP says it must; it fails with
    :class:`UpstreamBroken` when it was cut short, and with :class:`UpstreamTimeout` when nothing was received
    for ``stall_timeout`` seconds, those in which it was paused not counted. ``count`` gets the size of each piece.
    """

    count: Callable[[float], object] | None = None

    def __init__(
        self, received: Received, clock: Timer, stall_timeout: float, decoder: Decoder | None = None
    ) -> None:
        self._decoder = decoder
        self.ended: Deferred[None] = Deferred()
        self._received = received
        self._clock = clock
        self._stall_timeout = stall_timeout
        self._timer: DelayedCall | None = None
        self._paused = False
        self._over = False

    def connectionMade(self) -> None:
        self._wait()

    def dataReceived(self, data: bytes) -> None:
        if self.count is not None:
            self.count(len(data))
        if self._over:
            return
        if self._timer is not None:
            self._timer.reset(self._stall_timeout)
        try:
            for piece in (data,) if self._decoder is None else self._decoder.decode(data):
                if not self._over:
                    self._received(self, piece)
        except Exception as error:  # noqa: BLE001  # ``ended`` fails with it
            self._drop(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone, PotentialDataLoss) is not None:
            self._end(self._outcome())
        else:
            self._end(Failure(UpstreamBroken("upstream broke the body off")))

    def _outcome(self) -> Failure | None:
        try:
            if self._decoder is not None:
                self._decoder.end()
        except UpstreamBroken as error:
            return Failure(error)
        return None

    def pause(self) -> None:
        """Stop receiving for now."""
        if not (self._paused or self._over):
            self._paused = True
            self._stop_waiting()
            self._transport.pauseProducing()

    def resume(self) -> None:
        """Receive again."""
        if self._paused and not self._over:
            self._paused = False
            self._wait()
            self._transport.resumeProducing()

    def abandon(self) -> None:
        """Stop receiving for good; ``ended`` fails with :class:`UpstreamBroken`."""
        self._drop(UpstreamBroken("the body is not wanted any more"))

    @property
    def _transport(self) -> Transport:
        return cast("Transport", self.transport)

    def _wait(self) -> None:
        self._timer = self._clock.callLater(self._stall_timeout, self._stalled)

    def _stop_waiting(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _stalled(self) -> None:
        self._timer = None
        self._drop(UpstreamTimeout(f"upstream sent nothing for {self._stall_timeout:g} s"))

    def _drop(self, error: Exception) -> None:
        if self._over:
            return
        self._end(Failure(error))
        if self.transport is not None:
            self._transport.stopProducing()

    def _end(self, result: Failure | None) -> None:
        if self._over:
            return
        self._over = True
        self._stop_waiting()
        if result is None:
            self.ended.callback(None)
        else:
            self.ended.errback(result)
