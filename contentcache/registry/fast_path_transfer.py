"""What is left of an answer whose head and beginning have gone out at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.core.ranges import Span
from contentcache.delivery.hot_blobs import HotBlob, HotBlobs
from contentcache.server.channel import ServerChannel
from contentcache.server.stall_timer import Watch


class Rest:
    """
    Stands in the place of a request. ``part`` is what of a blob is the body of the answer; ``note`` hears how
    many of its bytes went out.

    What it holds is given back by one call of ``_end``, whichever way the answer goes.
    """

    _log = Logger()

    def __init__(
        self,
        channel: ServerChannel,
        hot_blobs: HotBlobs,
        hot_blob: HotBlob,
        part: Span,
        *,
        watch: Watch,
        note: Callable[[int], None],
    ) -> None:
        self._channel = channel
        self._hot_blobs = hot_blobs
        self._hot_blob = hot_blob
        self._part = part
        self._watch = watch
        self._note = note
        self._begun = 0
        self._held = ExitStack()
        self._sending: Deferred[int] | None = None

    def send(self, begun: int) -> None:
        """Send what comes after the first ``begun`` bytes, as fast as the client takes it."""
        self._begun = begun
        try:
            self._held.callback(self._tell)
            self._channel.occupy(self)
            self._hot_blobs.acquire(self._hot_blob)
            self._held.callback(self._hot_blobs.release, self._hot_blob)
            self._held.callback(self._watch.stop)
            self._watch.start()
            start, stop = self._part.start + begun, self._part.stop
            self._sending = self._channel.transport.send_file(self._hot_blob.descriptor, start, stop)
        except BaseException:
            self._end(begun)
            raise
        # It fails with the connection only, which is heard of otherwise.
        self._sending.addCallbacks(self._sent, lambda _failure: None)
        self._sending.addErrback(self._give_up)

    def connectionLost(self, _reason: Failure) -> None:
        """The client has left, or is not waited for any longer. May be called twice."""
        try:
            if self._sending is not None:
                self._sending.cancel()
        finally:
            self._end(self._begun)

    def _give_up(self, failure: Failure) -> None:
        self._log.failure("rest of a response failed", failure)
        self._channel.end()

    def _sent(self, count: int) -> None:
        sent = self._begun + count
        self._end(sent)
        if sent < self._part.length:
            self._channel.end()  # the file is shorter than it was
        else:
            self._channel.requestDone(self)  # type: ignore[no-untyped-call]  # Twisted's

    def _end(self, sent: int) -> None:
        """Give everything back; nothing if that has been done."""
        self._sending = None
        self._begun = sent
        self._held.close()

    def _tell(self) -> None:
        self._note(self._begun)
