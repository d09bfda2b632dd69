"""The clients that have subscribed to a download."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred

from contentcache.core.errors import CacheError, OriginRefused
from contentcache.core.header_policy import Headers
from contentcache.delivery.requests import ContentRequest
from contentcache.telemetry.request_ids import current_id


class DecisionReporter(Protocol):
    """
    Reports the origin's decision about a client of another worker, which has its grants. ``asked`` is the time
    of the request, by the monotonic clock of the machine.
    """

    def report_allowed(self, media_type: str | None, asked: float) -> None: ...
    def report_denied(self, refusal: OriginRefused, asked: float) -> None: ...


@define(eq=False)
class Subscriber:
    """
    A client that has subscribed to a download.

    Until it is ``authorized`` it gets nothing, and the download's own request in its name asks the origin.
    ``ready`` fires when it can be answered. ``key`` names the request (credential, origin, repository, content)
    and does not reveal the credential; ``whole`` says that it wants all bytes. ``reporter`` is there for a client
    of another worker. ``asked`` is the time of the download's request that authorized it, if that makes a grant;
    ``coalesced`` says that the owner was downloading already.
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
    #: The id of the client's request; upstream is asked under it in this client's name.
    request_id: str = field(factory=current_id)

    def notify_ready(self) -> None:
        """Let the client be answered."""
        if not self.ready.called:
            self.ready.callback(None)

    def fail(self, error: CacheError) -> None:
        """Answer the client with this error, if it has not been answered yet."""
        if not self.ready.called:
            self.ready.errback(error)


class Subscribers:
    """The subscribers of one download: in whose name upstream is asked, and what each is answered."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []
        self._refused: set[bytes] = set()
        self._limited: set[bytes] = set()
        self._orders: dict[int, Sequence[str]] = {}
        self._last: dict[str, Subscriber] = {}

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def repository(self) -> str | None:
        """A repository that a client wants the content from, ``None`` where no client is left."""
        return next((each.request.content.repository for each in self._subscribers), None)

    def add(self, subscriber: Subscriber) -> None:
        """Add a client. Its question was perhaps denied before; its credential may be allowed by now."""
        self._subscribers.append(subscriber)
        self._refused.discard(subscriber.key)

    def remove(self, subscriber: Subscriber) -> bool:
        """Remove a client; ``False`` if it was not subscribed."""
        if subscriber not in self._subscribers:
            return False
        self._subscribers.remove(subscriber)
        return True

    def has_key(self, key: bytes) -> bool:
        """Whether a client with this request is subscribed."""
        return any(subscriber.key == key for subscriber in self._subscribers)

    @property
    def needs_whole(self) -> bool:
        """Whether any of them needs all bytes."""
        return any(subscriber.whole for subscriber in self._subscribers)

    def sources(self, *, or_last: bool = False) -> Mapping[str, Subscriber]:
        """
        The hosts that can be asked, in the order of the upstream pool, each with a client in whose name. Where
        no client is left, and with ``or_last``, the last ones. Clients whose rate upstream limits come last.
        """
        sources: dict[str, Subscriber] = {}
        seen: set[int] = set()
        for subscriber in sorted(self._subscribers, key=lambda each: each.key in self._limited):
            registry = subscriber.request.registry
            if subscriber.key in self._refused or id(registry) in seen:
                continue
            seen.add(id(registry))
            if id(registry) not in self._orders:
                # Once for each download: the order is round robin, and moves on each time.
                self._orders[id(registry)] = registry.order(subscriber.request.content.kind)
            for host in self._orders[id(registry)]:
                sources.setdefault(host, subscriber)
        if sources:
            self._last = sources
        return self._last if or_last else sources

    def repositories(self) -> Sequence[str]:
        """The repositories that they ask for it, for the log."""
        requests = [subscriber.request for subscriber in self._subscribers or self._last.values()]
        return sorted({request.content.repository for request in requests})

    def eject_host(self, host: str, reason: str) -> None:
        """Eject ``host`` in the pool of every origin whose clients have subscribed: once in each."""
        requests = [subscriber.request for subscriber in self._subscribers or self._last.values()]
        # Many clients of one origin are one failure.
        for request in {(id(each.registry), each.content.kind): each for each in requests}.values():
            request.host_failed(host, reason)

    def allow(self, key: bytes, asked: float | None) -> None:
        """
        The origin has allowed this request, which was sent at ``asked``; ``None`` if that is good for the bytes
        of this download alone.
        """
        self._limited.discard(key)
        for subscriber in self._subscribers:
            if subscriber.key == key:
                subscriber.authorized, subscriber.asked = True, asked

    def limit(self, key: bytes) -> bool:
        """Upstream limits the rate of this request's client; whether another client can be asked for."""
        self._limited.add(key)
        return any(each.key not in self._refused | self._limited for each in self._subscribers)

    def deny(self, key: bytes, refusal: OriginRefused) -> None:
        """The origin has denied this request: clients that are not authorized otherwise are refused now."""
        self._refused.add(key)
        self._last = {host: subscriber for host, subscriber in self._last.items() if subscriber.key != key}
        for subscriber in tuple(self._subscribers):  # one that is refused may unsubscribe at once
            if subscriber.key == key:
                subscriber.refusal = refusal
                if not subscriber.authorized:
                    subscriber.fail(refusal)

    def notify_ready(self) -> None:
        """Let those that are authorized be answered."""
        for subscriber in tuple(self._subscribers):
            if subscriber.authorized:
                subscriber.notify_ready()

    def fail_all(self, error: CacheError, *, but: Collection[str] = ()) -> None:
        """Answer those that wait with ``error``, or their own refusal, ``but`` not those with such a ``Via``."""
        for subscriber in tuple(self._subscribers):
            if subscriber.request.via not in but:
                subscriber.fail(subscriber.refusal or error)
