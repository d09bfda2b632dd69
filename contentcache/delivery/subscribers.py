"""Clients as a fetch sees them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from contentcache.core.errors import CacheError, OriginRefused
from contentcache.core.header_policy import Headers
from contentcache.delivery.requests import ContentRequest


class DecisionReporter(Protocol):
    """
    Hears what the origin says to a client's question, where its grants are another worker's. ``asked`` is the
    time of the question, by the monotonic clock of the machine.
    """

    def report_allowed(self, media_type: str | None, asked: float) -> None: ...
    def report_denied(self, refusal: OriginRefused, asked: float) -> None: ...


@define(eq=False)
class Subscriber:
    """
    A client that is attached to a fetch.

    ``judged`` says that the origin has said yes to it; until then it gets nothing, and the fetch's own
    request in its name is the question. ``opened`` fires when it may be answered. ``key`` names (credential,
    origin, repository, content) and says nothing of the credential; ``whole`` says that it wants all bytes.
    ``told`` takes note of the verdict for a client of another worker, ``None`` for one of ours; ``asked`` is
    the time of the fetch's own question that was the verdict, if it was and makes a grant;
    ``joined`` says that the fetch turned out to be somebody else's.
    """

    request: ContentRequest
    key: bytes
    authorized: bool
    whole: bool = True
    reporter: DecisionReporter | None = None
    ready: Deferred[None] = field(factory=Deferred)
    refusal: OriginRefused | None = None
    coalesced: bool = False
    #: The origin's warnings and rate limits, where it was asked in this client's name.
    notices: Headers = field(factory=dict)
    asked: float | None = None

    def notify_ready(self) -> None:
        """The client may be answered."""
        if not self.ready.called:
            self.ready.callback(None)

    def fail(self, error: CacheError) -> None:
        """The client gets this error, if it has got nothing yet."""
        if not self.ready.called:
            self.ready.errback(error)


class Subscribers:
    """The clients of one fetch: in whose name upstream is asked, and what each of them hears."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []
        self._refused: set[bytes] = set()
        self._orders: dict[int, Sequence[str]] = {}
        self._last: dict[str, Subscriber] = {}

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def add(self, subscriber: Subscriber) -> None:
        """A client has come. Its credential may know better than the last time."""
        self._subscribers.append(subscriber)
        self._refused.discard(subscriber.key)

    def remove(self, subscriber: Subscriber) -> bool:
        """A client has left; ``False`` if it was not here."""
        if subscriber not in self._subscribers:
            return False
        self._subscribers.remove(subscriber)
        return True

    def has_key(self, key: bytes) -> bool:
        """Whether a client with this question is here."""
        return any(subscriber.key == key for subscriber in self._subscribers)

    @property
    def any_wants_whole(self) -> bool:
        """Whether anybody wants all bytes."""
        return any(subscriber.whole for subscriber in self._subscribers)

    def sources(self, *, or_last: bool = False) -> Mapping[str, Subscriber]:
        """
        The hosts that can be asked, in the order of their turn, each with a client in whose name; where
        nobody is left, and ``or_last``, with the last one who was.
        """
        sources: dict[str, Subscriber] = {}
        seen: set[int] = set()
        for subscriber in self._subscribers:
            registry = subscriber.request.registry
            if subscriber.key in self._refused or id(registry) in seen:
                continue
            seen.add(id(registry))
            if id(registry) not in self._orders:
                # Once a fetch: each look at the order is somebody's turn.
                self._orders[id(registry)] = registry.order(subscriber.request.content.kind)
            for host in self._orders[id(registry)]:
                sources.setdefault(host, subscriber)
        if sources:
            self._last = sources
        return self._last if or_last else sources

    def eject_host(self, host: str, reason: str) -> None:
        """Tell every registry that has it: ``host`` is not to be trusted for a while."""
        for subscriber in self._subscribers or self._last.values():
            subscriber.request.registry.failed(host, reason, subscriber.request.content.kind)

    def allow(self, key: bytes, asked: float | None) -> None:
        """
        The origin has said yes to this question, which was asked at ``asked``; ``None`` if that is good for
        the bytes of this fetch alone.
        """
        for subscriber in self._subscribers:
            if subscriber.key == key:
                subscriber.authorized, subscriber.asked = True, asked

    def deny(self, key: bytes, refusal: OriginRefused) -> None:
        """The origin has said no to this question: who has no yes of its own hears it now."""
        self._refused.add(key)
        self._last = {host: subscriber for host, subscriber in self._last.items() if subscriber.key != key}
        for subscriber in tuple(self._subscribers):  # who hears of it may leave at once
            if subscriber.key == key:
                subscriber.refusal = refusal
                if not subscriber.authorized:
                    subscriber.fail(refusal)

    def notify_ready(self) -> None:
        """Those who have a yes may be answered."""
        for subscriber in tuple(self._subscribers):
            if subscriber.authorized:
                subscriber.notify_ready()

    def fail_all(self, error: CacheError, *, but: Collection[str] = ()) -> None:
        """
        Nothing more comes: those who wait hear why, each its own reason first; but for those with such a
        ``Via``.
        """
        for subscriber in tuple(self._subscribers):
            if subscriber.request.via not in but:
                subscriber.fail(subscriber.refusal or error)
