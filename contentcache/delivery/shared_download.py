"""A running download as its subscribers see it, whichever worker runs it."""

from __future__ import annotations

from enum import Enum, auto
from typing import ClassVar, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from contentcache.aio.condition import Condition
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError
from contentcache.core.ports import DelayedCall, Timer
from contentcache.core.spans import Spans
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import BlobFile
from contentcache.telemetry.request_ids import Provenance

#: Bytes of the held-back tail: no client ever completes what is not verified.
HELD_BACK: Final = 4 << 10
#: Subscribers are notified of so many new bytes at once, of fewer after so many seconds.
_NOTIFIED_BYTES: Final = 1 << 20
_NOTIFIED_AFTER: Final = 0.01


class NextStep(Enum):
    """What a request does that can neither be answered now nor be refused."""

    LOOK_UP_AGAIN = auto()
    AUTHORIZE = auto()
    PASS_THROUGH = auto()


class UndecidedError(CacheError):
    """The content may be here, but this attempt to get it is over; ``next_step`` is what to do."""

    next_step: ClassVar[NextStep] = NextStep.LOOK_UP_AGAIN


class AuthorizationNeeded(UndecidedError):
    """The content is there, or on its way for others: the origin has to be asked for this client."""

    next_step = NextStep.AUTHORIZE


class NotShareable(UndecidedError):
    """What is requested is neither stored nor shared, but passed through to this client."""

    next_step = NextStep.PASS_THROUGH


class SignedManifest(NotShareable):
    """A signed manifest of schema 1, whose digest is not that of its bytes."""


class LoopPossible(NotShareable):
    """
    A request that came through a cache does not wait for what was asked in another one's name: it might be
    waiting for this request. It is asked on its own.
    """


class OwnerUnreachableError(NotShareable):
    """
    The worker that owns the download does not answer: it is stopped, hangs, or is not started again. Its
    subscribers in other workers are passed the blob, or the rest of it.
    """


class StoredMeanwhile(UndecidedError):
    """
    Another origin's download of the same digest has stored the blob: clients are authorized again, which
    demands their origin's proof of possession, and go on from the stored file.
    """


def superseded() -> StoredMeanwhile:
    """The failure of a download that another origin's download of the same digest has overtaken."""
    return StoredMeanwhile("the blob has been stored from another origin")


@frozen(cache_hash=True)
class DownloadKey:
    """What a download is of: a digest, from an origin."""

    origin: str
    digest: Digest

    @classmethod
    def of(cls, request: ContentRequest) -> DownloadKey:
        """That of what a client requests."""
        return cls(request.registry.upstream.origin, request.content.digest)


class Progress:
    """
    Notifies the subscribers of a download, but not of every few bytes, since each of them then has a turn.

    ``announced`` is how many bytes from the start they know of, ``received`` how many have come from upstream since
    ``started`` (monotonic seconds).
    """

    def __init__(self, clock: Timer) -> None:
        self.announced = 0
        self.started = clock.seconds()
        self.received = 0
        self._clock = clock
        self._condition = Condition()
        self._prefix = 0
        self._later: DelayedCall | None = None

    def wait(self) -> Deferred[None]:
        """Fires at the next notification."""
        return self._condition.wait()

    def notify_soon(self, prefix: int) -> None:
        """``prefix`` bytes are there from the start."""
        self._prefix = prefix
        if self.announced == 0 or prefix - self.announced >= _NOTIFIED_BYTES:
            self.notify_all(prefix)
        elif self._later is None:
            self._later = self._clock.callLater(_NOTIFIED_AFTER, self._notify_all)

    def notify_all(self, prefix: int) -> None:
        """Notify them now: ``prefix`` bytes are there, or something else has changed."""
        self._prefix = prefix
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._notify_all()

    def _notify_all(self) -> None:
        self._later = None
        self.announced = self._prefix
        self._condition.notify_all()


class SharedDownload(Protocol):
    """
    One running download, this worker's own or that of the owner.

    ``provenance`` is for the log; ``generation`` counts its restarts; ``progress`` notifies of every change;
    ``failure`` is why it has ended without the content.
    """

    key: DownloadKey
    provenance: Provenance
    progress: Progress
    failure: CacheError | None

    @property
    def media_type(self) -> str | None:
        """What the origin says that the content is."""

    @property
    def generation(self) -> int:
        """How often bytes that were read may have changed since."""

    @property
    def verified(self) -> bool:
        """Whether the whole content has its digest."""

    @property
    def is_stored(self) -> bool:
        """Whether the whole content is in the store, or on its way there, verified, where the disk is slow."""

    @property
    def in_place(self) -> bool:
        """Whether it is a stored blob that is being verified."""

    @property
    def target(self) -> str | None:
        """The host that the origin has redirected to, if all bytes are from there."""

    @property
    def size(self) -> int | None:
        """How many bytes the content has, as far as is known."""

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""

    @property
    def file(self) -> BlobFile:
        """Where the bytes are. There is one as soon as a client may be answered."""

    @property
    def awaits_decision(self) -> bool:
        """Whether the first answer is still to come, and can be the decision for who subscribes now."""

    @property
    def is_ending(self) -> bool:
        """Whether it is over without the content, and leaves its file: nobody can join any more."""

    def has_subscriber(self, key: bytes) -> bool:
        """Whether a client with this question has subscribed."""

    def readable_until(self, position: int = 0, *, small_part: bool = False) -> int:
        """
        Up to which byte a reader may go now that stands at ``position``; with ``small_part`` the last bytes are
        not held back.
        """

    def request_bytes(self, position: int, stop: int | None) -> None:
        """
        A reader wants the bytes from ``position`` on.

        :raises CacheError: they cannot be had.
        """

    def subscribe(self, subscriber: Subscriber) -> None:
        """A client wants this content. The file stays open for it until :meth:`unsubscribe`."""

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """A client has what it wanted, or has disconnected."""

    async def run(self) -> None:
        """Download until the end; ``failure`` says why it has failed."""


def readable(held: Spans, announced: int, total: int | None, position: int, *, small_part: bool) -> int:
    """
    Up to which byte a reader at ``position`` may go, of a content of which nobody knows anything bad.

    With ``small_part``, for a small part of the content, the last bytes are not held back: the promise is for
    whole contents, and who looks at the end of one would wait for all of it.

    >>> held = Spans()
    >>> held.add(0, 10_000)
    >>> readable(held, 8_000, 20_000, 0, small_part=False), readable(held, 8_000, 10_000, 0, small_part=False)
    (8000, 5904)
    """
    # What they have been told of, not what has come since: in large steps all get on faster.
    near = position <= held.reach(0)
    so_far = announced if near else held.reach(position)
    end = so_far if total is None else total
    return so_far if small_part else max(0, min(so_far, end - HELD_BACK))
