"""The body of a request on its way in: never held, taken as fast as the one taker takes it."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from contentcache.core.errors import CacheError
from contentcache.core.ports import DelayedCall, Timer
from contentcache.gateway.faults import BodyTooLarge, BodyTooSlow


class Taker(Protocol):
    """Where a body goes."""

    def write(self, data: bytes, /) -> None:
        """A piece of it."""

    def finish(self) -> None:
        """That was all of it."""

    def fail(self, error: CacheError, /) -> None:
        """There will be no more of it, though more was to come."""


class Source(Protocol):
    """The connection on which a body comes in."""

    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...


@implementer(IPushProducer)
class RequestBody:
    """
    ``length`` in bytes, ``None`` where only its end will tell. Nothing comes before :meth:`deliver`, but
    what was in the head's own packet. ``wanted`` is called when somebody takes it: a client may be waiting
    for that.

    A client that sends nothing for ``patience`` seconds, though somebody takes it, has failed.
    """

    def __init__(self, source: Source, timer: Timer, patience: float, length: int | None) -> None:
        self.length = length
        #: Whether all of it has come.
        self.complete = False
        #: Called once somebody takes it.
        self.wanted: Any = lambda: None
        self._source = source
        self._timer = timer
        self._patience = patience
        self._taker: Taker | None = None
        self._early: list[bytes] = []
        self._failure: CacheError | None = None
        self._paused = True
        self._due: DelayedCall | None = None
        source.pauseProducing()

    @property
    def paused(self) -> bool:
        """Whether its taker has enough for now."""
        return self._paused and self._taker is not None

    # The connection's side.

    def received(self, data: bytes) -> None:
        """A piece has come."""
        if self._taker is None:
            self._early.append(data)
            return
        if self._due is not None:
            self._due.reset(self._patience)
        self._taker.write(data)

    def ended(self) -> None:
        """All of it has come."""
        if self.complete:
            return
        self.complete = True
        self._rest()
        if self._taker is not None:
            self._taker.finish()

    def failed(self, error: CacheError) -> None:
        """The rest will not come."""
        if self.complete or self._failure is not None:
            return
        self._failure = error
        self._rest()
        if self._taker is not None:
            self._taker.fail(error)

    # The taker's side.

    def deliver(self, taker: Taker) -> None:
        """Let it come. To be called once; what takes it may pause it."""
        early, self._early = self._early, []
        for data in early:
            taker.write(data)
        if self.complete:
            taker.finish()
        elif self._failure is not None:
            taker.fail(self._failure)
        else:
            self._taker = taker
            self.wanted()
            self.resumeProducing()

    async def read(self, limit: int) -> bytes:
        """
        All of it, for small ones.

        :raises BodyTooLarge: it has more than ``limit`` bytes.
        :raises CacheError: it does not come.
        """
        if self.length is not None and self.length > limit:
            raise BodyTooLarge(f"a body has at most {limit} bytes here")
        whole = _Whole(limit)
        self.deliver(whole)
        return await whole.outcome

    def pauseProducing(self) -> None:
        """Take no more for now."""
        if not (self._paused or self.complete):
            self._paused = True
            self._rest()
            self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """Go on."""
        if self._paused and not self.complete and self._failure is None:
            self._paused = False
            self._due = self._timer.callLater(self._patience, self._stalled)
            self._source.resumeProducing()

    def stopProducing(self) -> None:
        """Nobody takes any more of it; the end of the answer says what becomes of the connection."""
        self.pauseProducing()
        self._taker = _Nobody()

    def _rest(self) -> None:
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._due = None

    def _stalled(self) -> None:
        self._due = None
        self.failed(BodyTooSlow(f"nothing of the request's body has come for {self._patience:g} s"))


class _Nobody:
    """Takes what is still on its way, and forgets it."""

    def write(self, data: bytes, /) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def fail(self, error: CacheError, /) -> None:
        """Nothing."""


class _Whole:
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
