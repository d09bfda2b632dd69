"""
The other side: a fetch that another worker makes, as its readers here see it.

They read from the same file, and know of it what the owner tells. Where the owner dies, its successor goes on
with the file that it left, and so do the readers, if that is still what they have read from.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

from twisted.logger import Logger

from contentcache.aio.condition import Condition
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, OriginRefused, UpstreamUnavailable
from contentcache.core.ports import Timer
from contentcache.core.spans import Spans
from contentcache.delivery.other_workers import DecisionRecorder
from contentcache.delivery.progress import Progress
from contentcache.delivery.segments import LONGEST
from contentcache.delivery.shared_download import (
    HELD_BACK,
    AuthorizationNeeded,
    DownloadKey,
    OwnerUnreachableError,
    UndecidedError,
    readable,
)
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import BlobFile
from contentcache.workers.conversation import Conversation, NoAnswerError, Values
from contentcache.workers.words import asking_in_words, error_of

#: So many owners may die under one fetch before it is given up.
_MOST_OWNERS: Final = 8

_EVERYTHING: Final = 1 << 62

#: Begins the given side of a conversation with the owner of a content, as soon as there is one.
Reach = Callable[[Digest, Conversation], Awaitable[None]]


class Borrowed:
    """
    A :class:`~contentcache.delivery.shared_download.SharedDownload` of another worker. ``opened(descriptor)``
    makes a file of what it hands over; the other arguments are as in
    :class:`contentcache.delivery.other_workers.Owners`.
    """

    _log = Logger()

    def __init__(
        self,
        key: DownloadKey,
        recorder: DecisionRecorder,
        *,
        in_place: bool,
        total: int | None,
        reach: Reach,
        opened: Callable[[int], BlobFile],
        clock: Timer,
    ) -> None:
        self.key = key
        self.media_type: str | None = None
        self.target: str | None = None
        self.generation = 0
        self.verified = False
        self.progress = Progress(clock)
        self.failure: CacheError | None = None
        self._recorder = recorder
        self.in_place = in_place
        self._asked_total = total
        self._reach_owner = reach
        self._opened = opened
        self._total: int | None = None
        self._held = Spans()
        self._doubted: tuple[tuple[int, int], ...] = ()
        self._file: BlobFile | None = None
        self._takes_candidates = not in_place and total is None
        self._is_closed = in_place
        self._subscribers: dict[int, Subscriber] = {}
        self._whole_wants = 0
        self._affirmed: set[bytes] = set()
        self._numbers = count(1)
        self._needs: set[tuple[int, int | None]] = set()
        self._missing: list[tuple[int, CacheError]] = []
        self._conversation: Conversation | None = None
        self._owners_generation = 0
        self._is_over = False
        self._is_idle = False
        self._has_news = False
        self._holders = 1
        self._changed = Condition()

    # For those who read.

    @property
    def size(self) -> int | None:
        """How many bytes the content has, as far as is known."""
        return self._total

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""
        return self._held.reach(0)

    @property
    def file(self) -> BlobFile:
        """Where the bytes are."""
        if self._file is None:
            raise RuntimeError("the owner has handed over no file")
        return self._file

    @property
    def awaits_decision(self) -> bool:
        """Whether the owner, as far as we know, still waits for its first answer."""
        return self._takes_candidates and not self._is_over

    @property
    def is_ending(self) -> bool:
        """
        Whether nobody comes aboard any more: it is over, or the owner has nothing to share. Whoever comes
        then waits until it is gone, and finds what is in the store.
        """
        return self._is_over or self._is_idle

    def has_subscriber(self, key: bytes) -> bool:
        """Whether a client with this question is attached."""
        return any(subscriber.key == key for subscriber in self._subscribers.values())

    def readable_until(self, position: int = 0, *, small_part: bool = False) -> int:
        """Up to which byte a reader may go now that stands at ``position``."""
        if self.verified:
            return self.prefix
        if self._is_closed or self.generation:
            return 0
        return readable(self._held, self.progress.announced, self._total, position, small_part=small_part)

    def request_bytes(self, position: int, stop: int | None) -> None:
        """
        A reader wants the bytes from ``position`` on.

        :raises CacheError: they cannot be had.
        """
        for missing in self._missing:
            if missing[0] == position:
                self._missing.remove(missing)
                raise missing[1]
        if self._is_coming(position):
            return
        if (position, stop) not in self._needs and self._conversation is not None:
            self._needs.add((position, stop))
            self._conversation.tell("need", position=position, stop=stop)

    def _is_coming(self, position: int) -> bool:
        """Whether these bytes come by themselves. Where nobody can tell, the owner is asked to see to it."""
        total = self._total
        if total is None or position >= total:
            return True
        if self._held.reach(position) > position:
            return position < total - HELD_BACK  # what is there at the end waits for the digest of all
        return self._whole_wants > 0 and position - self.prefix <= LONGEST

    def subscribe(self, subscriber: Subscriber) -> None:
        """A client wants this content."""
        number = next(self._numbers)
        self._holders += 1
        self._subscribers[number] = subscriber
        self._whole_wants += subscriber.whole
        self._announce(number, subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """A client has what it wanted, or has left."""
        number = next((number for number, each in self._subscribers.items() if each is subscriber), None)
        if number is None:
            return
        del self._subscribers[number]
        self._whole_wants -= subscriber.whole
        if self._conversation is not None:
            self._conversation.tell("detach", want=number)
        self._release()
        self._changed.notify_all()

    # The work.

    async def run(self) -> None:
        """Follow the owner, and its successor, until the content is made or nobody here wants it any more."""
        try:
            await self._follow_owners()
        except CacheError as error:
            self.failure = error
        except Exception:  # noqa: BLE001  # a defect of ours must not leave clients waiting
            self._log.failure(
                "download of another worker not followed", origin=self.key.origin, digest=self.key.digest
            )
            self.failure = UpstreamUnavailable("the cache has failed; its log says why")
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.hang_up()
        self._end()

    async def abort(self, error: CacheError) -> None:
        """Never mind."""
        self.failure = error
        self._end()

    def _end(self) -> None:
        self._is_over = True
        error = self.failure or AuthorizationNeeded("the origin has not been asked")
        for subscriber in tuple(self._subscribers.values()):
            subscriber.fail(subscriber.refusal or error)
        self.progress.notify_all(self.prefix)
        self._release()

    def _release(self) -> None:
        self._holders -= 1
        if self._holders == 0 and self._file is not None:
            self._file.close()

    async def _follow_owners(self) -> None:
        for _ in range(_MOST_OWNERS):
            conversation = Conversation(self._heard, self._changed.notify_all)
            try:
                await self._reach_owner(self.key.digest, conversation)
            except NoAnswerError as error:
                raise OwnerUnreachableError("the worker that downloads this does not answer") from error
            self._conversation = conversation
            self._has_news = self._is_idle = False
            self._needs.clear()
            for number, subscriber in tuple(self._subscribers.items()):
                self._announce(number, subscriber)
            while self._subscribers and not (self._is_over or conversation.is_over):
                await self._changed.wait()
            if self._is_over or not self._subscribers:
                return
            self._conversation = None
        raise OwnerUnreachableError("the workers that download this content end one after the other")

    def _announce(self, number: int, subscriber: Subscriber) -> None:
        if self._conversation is not None:
            self._conversation.tell(
                "attach",
                want=number,
                asking=asking_in_words(subscriber.request),
                judged=subscriber.authorized,
                whole=subscriber.whole,
                in_place=self.in_place,
                total=self._asked_total,
            )

    # What the owner tells.

    def _heard(self, name: str, values: Values) -> Any:
        subscriber = self._subscribers.get(values.get("want", 0))
        match name:
            case "file":
                self._take_file()
            case "news":
                self._take_news(values)
            case "opened" if subscriber is not None:
                self._open(subscriber, values)
            case "refused" if subscriber is not None:
                self._refuse(subscriber, error_of(values["error"]))
            case "yes" if subscriber is not None:
                self._judged(subscriber, values["media_type"], values["asked"])
            case "no" if subscriber is not None:
                self._say_no(subscriber, error_of(values["error"]), values["asked"])
            case "missing":
                self._take_missing(values["position"], error_of(values["error"]))
            case "end":
                self._take_end(values)

    def _take_file(self) -> None:
        assert self._conversation is not None  # noqa: S101  # it is what has just spoken
        descriptor = self._conversation.take_descriptor()
        if descriptor is None:
            self.failure = UpstreamUnavailable("this worker has too many open files")
            self._is_over = True
            self._changed.notify_all()
            return
        file = self._opened(descriptor)
        before, self._file = self._file, file
        if before is None:
            return
        # A successor's. What the one before it told counts no more, until the new one tells the same.
        self._owners_generation = 0
        self._doubted = tuple(self._held) if _is_same(before, file) else ((0, _EVERYTHING),)
        self._held.clear()
        self.progress.announced = 0
        before.close()

    def _take_news(self, values: Values) -> None:
        if values["generation"] != self._owners_generation:
            self._owners_generation = values["generation"]
            self._start_again()
        self.media_type = values["media_type"]
        self._takes_candidates = values["takes_candidates"]
        self._is_closed = values["is_closed"]
        self._total = values["total"]
        for start, stop in values["held"]:
            self._held.add(start, stop)
        doubted, self._doubted = self._doubted, ()
        if any(self._held.reach(start) < stop for start, stop in doubted):
            # Somebody may have read bytes here that are, or will be, others by now.
            self.generation += 1
        self.verified = values["verified"]
        self._has_news, self._is_idle = True, False
        self._needs.clear()
        self.progress.notify_all(values["told"])

    def _start_again(self) -> None:
        self.generation += 1
        self._held.clear()
        self.progress.announced = 0

    def _open(self, subscriber: Subscriber, values: Values) -> None:
        subscriber.coalesced = values["joined"]
        self.media_type = values["media_type"] or self.media_type
        if values["asked"] is not None:
            self._judged(subscriber, values["media_type"], values["asked"])
        # Else the owner has had a yes for it lately, which is the owner's own.
        subscriber.authorized = True
        subscriber.notify_ready()

    def _judged(self, subscriber: Subscriber, media_type: str | None, asked: float) -> None:
        subscriber.authorized = True
        if subscriber.key not in self._affirmed:
            self._affirmed.add(subscriber.key)
            self._recorder.record_allowed(subscriber, media_type, asked)

    def _say_no(self, subscriber: Subscriber, refusal: CacheError, asked: float) -> None:
        if isinstance(refusal, OriginRefused):
            subscriber.refusal = refusal
            self._recorder.record_denied(subscriber, refusal, asked)

    def _refuse(self, subscriber: Subscriber, error: CacheError) -> None:
        if isinstance(error, UndecidedError) and not self._has_news:
            self._is_idle = True
        if not subscriber.ready.called:
            subscriber.fail(error)
        elif not self.verified:
            # A successor does not take it aboard any more: what it has got is all that there is.
            self.failure = error if not isinstance(error, UndecidedError) else None
            self.failure = self.failure or UpstreamUnavailable("the fetch has ended meanwhile")
            self._is_over = True
            self._changed.notify_all()

    def _take_missing(self, position: int, error: CacheError) -> None:
        self._missing = [*self._missing[-63:], (position, error)]
        # A second reader that waits for them asks again: the error is for one.
        self._needs = {need for need in self._needs if need[0] != position}
        self.progress.notify_all(self.progress.announced)

    def _take_end(self, values: Values) -> None:
        self.failure = None if values["error"] is None else error_of(values["error"])
        self.target = values["target"]
        self._is_over = True
        self._changed.notify_all()


def _is_same(one: BlobFile, other: BlobFile) -> bool:
    if one.descriptor is None or other.descriptor is None:
        return False
    return os.path.samestat(os.fstat(one.descriptor), os.fstat(other.descriptor))
