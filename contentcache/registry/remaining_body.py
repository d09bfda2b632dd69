"""The rest of a fast path response, of which the socket took only the beginning."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.core.ranges import Span
from contentcache.core.response_end import COMPLETE, ResponseEnd
from contentcache.delivery.hot_blobs import HotBlob, HotBlobs
from contentcache.server.channel import ServerChannel
from contentcache.server.stall_timer import StallTimer

_TRUNCATED: Final = ResponseEnd("disk", "the stored file is shorter than it was")
_DEFECT: Final = ResponseEnd("upstream", "the cache has failed; its log says why")


class RemainingBody:
    """
    Sends the rest of ``span`` of a blob, of which the socket took only the beginning; ``record`` gets the number
    of bytes sent, and how the response ended. Stands in for a request of the channel. However it ends, ``_end``
    releases what it holds.
    """

    _log = Logger()

    def __init__(
        self,
        channel: ServerChannel,
        hot_blobs: HotBlobs,
        blob: HotBlob,
        span: Span,
        *,
        stall_timer: StallTimer,
        record: Callable[[int, ResponseEnd], None],
    ) -> None:
        self._channel = channel
        self._hot_blobs = hot_blobs
        self._blob = blob
        self._span = span
        self._stall_timer = stall_timer
        self._record = record
        self._count = 0
        self._how_ended = COMPLETE
        self._held = ExitStack()
        self._sending: Deferred[int] | None = None

    def send(self, already_sent: int) -> None:
        """Send what follows the first ``already_sent`` bytes."""
        self._count = already_sent
        try:
            self._held.callback(lambda: self._record(self._count, self._how_ended))
            self._channel.occupy(self)
            self._hot_blobs.acquire(self._blob)
            self._held.callback(self._hot_blobs.release, self._blob)
            self._held.callback(self._stall_timer.stop)
            self._stall_timer.start()
            start, stop = self._span.start + already_sent, self._span.stop
            self._sending = self._channel.transport.send_file(self._blob.descriptor, start, stop)
        except BaseException:
            self._end(already_sent, _DEFECT)
            raise
        # It fails only with the connection, which connectionLost() tells.
        self._sending.addCallbacks(self._sent, lambda _failure: None)
        self._sending.addErrback(self._fail)

    def connectionLost(self, _reason: Failure) -> None:
        """The client has disconnected, or was disconnected. May be called twice."""
        sending, count = self._sending, self._count
        try:
            if sending is not None:
                count += self._channel.transport.file_bytes_sent
                sending.cancel()
        finally:
            self._end(count, self._channel.lost_by)

    def _sent(self, count: int) -> None:
        sent = self._count + count
        if sent < self._span.length:
            self._end(sent, _TRUNCATED)
            self._channel.end()
        else:
            self._end(sent, COMPLETE)
            self._channel.requestDone(self)  # type: ignore[no-untyped-call]  # Twisted's

    def _fail(self, failure: Failure) -> None:
        self._log.failure("rest of a response failed", failure)
        self._channel.end()

    def _end(self, sent: int, end: ResponseEnd) -> None:
        """Release everything, unless released."""
        self._sending = None
        self._count, self._how_ended = sent, end
        self._held.close()
