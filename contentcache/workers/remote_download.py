"""
A download that another worker runs, as its subscribers in this worker see it.

They read from the same file, up to where the owner says. If the owner crashes, its successor goes on with the
file that it has left, and so do the subscribers, if that is still the file that they have read from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final

from twisted.logger import Logger

from contentcache.aio.condition import Condition
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, OriginRefused, UpstreamUnavailable, cache_failed
from contentcache.core.ports import Timer
from contentcache.delivery.other_workers import DecisionRecorder
from contentcache.delivery.segments import LONGEST
from contentcache.delivery.shared_download import (
    HELD_BACK,
    AuthorizationNeeded,
    DownloadKey,
    OwnerUnreachableError,
    Progress,
    UndecidedError,
)
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import BlobFile
from contentcache.telemetry.request_ids import Provenance
from contentcache.workers import messages
from contentcache.workers.owner_state import ByteRequests, OwnerState
from contentcache.workers.rpc import RPCConnection, RPCError

#: Owners of one download that may crash before it fails.
_MAX_OWNERS: Final = 8

#: Connects an RPC connection to the owner of a digest, as soon as that runs.
ConnectOwnerOf = Callable[[Digest, RPCConnection], Awaitable[None]]


class RemoteDownload:
    """
    A :class:`~contentcache.delivery.shared_download.SharedDownload` of another worker.

    ``open_file(descriptor)`` makes a file of a descriptor that the owner sends; the other arguments are as in
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
        connect_owner: ConnectOwnerOf,
        open_file: Callable[[int], BlobFile],
        clock: Timer,
    ) -> None:
        self.key = key
        self.in_place = in_place
        self.progress = Progress(clock)
        self.provenance = Provenance()
        self.failure: CacheError | None = None
        self.target: str | None = None
        self._recorder = recorder
        self._requested_total = total
        self._connect_owner = connect_owner
        self._open_file = open_file
        self._state = OwnerState(in_place=in_place, total=total)
        self._requests = ByteRequests()
        self._subscribers: dict[int, Subscriber] = {}
        self._numbers = count(1)
        self._allowed: set[bytes] = set()
        self._rpc: RPCConnection | None = None
        #: Notified when the owner ends the download, the connection is closed, or a subscriber leaves.
        self._changed = Condition()
        self._is_over = False
        #: Whether the owner has refused a subscriber, since it has no download to share.
        self._is_idle = False
        self._has_state = False
        self._has_ended = False

    # For readers.

    @property
    def size(self) -> int | None:
        """How many bytes the content has, as far as is known."""
        return self._state.total

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""
        return self._state.prefix

    @property
    def media_type(self) -> str | None:
        """What the origin says that the content is."""
        return self._state.media_type

    @property
    def generation(self) -> int:
        """How often bytes that were read may have changed since."""
        return self._state.generation

    @property
    def verified(self) -> bool:
        """Whether the whole content has its digest."""
        return self._state.verified

    @property
    def is_stored(self) -> bool:
        """Whether the owner has stored it."""
        return self._state.is_stored

    @property
    def file(self) -> BlobFile:
        """Where the bytes are."""
        if self._state.file is None:
            raise RuntimeError("the owner has sent no file")
        return self._state.file

    @property
    def awaits_decision(self) -> bool:
        """Whether the owner, as far as is known, still waits for the first response."""
        return self._state.awaits_decision and not self._is_over

    @property
    def is_ending(self) -> bool:
        """
        Whether nobody can subscribe any more: it is over, or the owner has no download to share. New
        subscribers wait until it is removed, and find what is in the store.
        """
        return self._is_over or self._is_idle

    def has_subscriber(self, key: bytes) -> bool:
        """Whether a client with this request is subscribed."""
        return any(subscriber.key == key for subscriber in self._subscribers.values())

    def readable_until(self, position: int = 0, *, small_part: bool = False) -> int:
        """Up to which byte a reader at ``position`` may read."""
        return self._state.readable_until(self.progress.announced, position, small_part=small_part)

    def request_bytes(self, position: int, stop: int | None) -> None:
        """
        A reader waits for the bytes from ``position`` on.

        :raises CacheError: they cannot be had.
        """
        self._requests.check(position)
        if self._rpc is not None and not self._is_coming(position) and self._requests.add(position, stop):
            self._rpc.send(messages.RequestBytes(position, stop))

    def _is_coming(self, position: int) -> bool:
        """Whether the owner downloads these bytes without a request."""
        total, held = self._state.total, self._state.held
        if total is None or position >= total:
            return True
        if held.reach(position) > position:
            return position < total - HELD_BACK  # bytes at the end wait for the digest of all
        is_whole = any(subscriber.whole for subscriber in self._subscribers.values())
        return is_whole and position - self.prefix <= LONGEST

    def subscribe(self, subscriber: Subscriber) -> None:
        """A client wants this content."""
        number = next(self._numbers)
        self._subscribers[number] = subscriber
        self._send_subscriber(number, subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """A client has all that it wanted, or has disconnected."""
        number = next((number for number, each in self._subscribers.items() if each is subscriber), None)
        if number is None:
            return
        del self._subscribers[number]
        if self._rpc is not None:
            self._rpc.send(messages.Unsubscribe(number))
        self._close_file_if_unused()
        self._changed.notify_all()

    # The connection to the owner.

    async def run(self) -> None:
        """Follow the owner, and its successors, until the download has ended or has no subscriber here any more."""
        try:
            await self._follow_owners()
        except CacheError as error:
            self.failure = error
        except Exception:  # noqa: BLE001  # clients must not wait in vain after a defect
            self._log.failure(
                "download of another worker not followed", origin=self.key.origin, digest=self.key.digest
            )
            self.failure = cache_failed()
        rpc, self._rpc = self._rpc, None
        if rpc is not None:
            rpc.close()
        self._end()

    def _end(self) -> None:
        self._is_over = self._has_ended = True
        error = self.failure or AuthorizationNeeded("the origin has not been asked")
        for subscriber in tuple(self._subscribers.values()):
            subscriber.fail(subscriber.refusal or error)
        self.progress.notify_all(self.prefix)
        self._close_file_if_unused()

    def _close_file_if_unused(self) -> None:
        if self._has_ended and not self._subscribers and self._state.file is not None:
            self._state.file.close()

    async def _follow_owners(self) -> None:
        for _ in range(_MAX_OWNERS):
            rpc = RPCConnection(self._receive, self._changed.notify_all)
            try:
                await self._connect_owner(self.key.digest, rpc)
            except RPCError as error:
                raise OwnerUnreachableError("the worker that downloads this does not answer") from error
            self._rpc = rpc
            self._has_state = self._is_idle = False
            self._requests.clear()
            for number, subscriber in tuple(self._subscribers.items()):
                self._send_subscriber(number, subscriber)
            while self._subscribers and not (self._is_over or rpc.is_closed):
                await self._changed.wait()
            if self._is_over or not self._subscribers:
                return
            self._rpc = None
        raise OwnerUnreachableError("the workers that download this content end one after the other")

    def _send_subscriber(self, number: int, subscriber: Subscriber) -> None:
        if self._rpc is None:
            return
        request = subscriber.request
        self._rpc.send(
            messages.Subscribe(
                number,
                request.registry.upstream.origin,
                request.content,
                request.credential,
                request.accept,
                request.via,
                authorized=subscriber.authorized,
                whole=subscriber.whole,
                in_place=self.in_place,
                total=self._requested_total,
                request_id=subscriber.request_id,
            )
        )

    # Messages of the owner.

    def _receive(self, message: Any) -> None:
        match message:
            case messages.AttachedFile():
                self._receive_file()
            case messages.DownloadState():
                self._state.update(message)
                self.provenance.download, self.provenance.served_by = message.download, message.served_by
                self._has_state, self._is_idle = True, False
                self._requests.clear()
                self.progress.notify_all(message.readable)
            case messages.Opened() | messages.Refused() | messages.OriginAllowed() | messages.OriginDenied():
                subscriber = self._subscribers.get(message.number)
                if subscriber is not None:
                    self._receive_decision(subscriber, message)
            case messages.BytesUnavailable(position=position, error=error):
                self._requests.fail(position, error)
                self.progress.notify_all(self.progress.announced)
            case messages.DownloadEnded(error=error, target=target):
                self.target = target
                self._stop(error)

    def _receive_file(self) -> None:
        assert self._rpc is not None  # noqa: S101  # the message came over it
        descriptor = self._rpc.receive_descriptor()
        if descriptor is None:
            self._stop(UpstreamUnavailable("this worker has too many open files"))
        elif self._state.replace_file(self._open_file(descriptor)):
            self.progress.announced = 0

    def _receive_decision(
        self,
        subscriber: Subscriber,
        message: messages.Opened | messages.Refused | messages.OriginAllowed | messages.OriginDenied,
    ) -> None:
        match message:
            case messages.Opened(media_type=media_type, coalesced=coalesced, asked=asked):
                subscriber.coalesced = coalesced
                self._state.media_type = media_type or self._state.media_type
                if asked is not None:
                    self._record_allowed(subscriber, media_type, asked)
                # Else the owner has a grant, which is not this worker's.
                subscriber.authorized = True
                subscriber.notify_ready()
            case messages.OriginAllowed(media_type=media_type, asked=asked):
                self._record_allowed(subscriber, media_type, asked)
            case messages.OriginDenied(error=error, asked=asked):
                if isinstance(error, OriginRefused):
                    subscriber.refusal = error
                    self._recorder.record_denied(subscriber, error, asked)
            case messages.Refused(error=error):
                self._refuse(subscriber, error)

    def _record_allowed(self, subscriber: Subscriber, media_type: str | None, asked: float) -> None:
        subscriber.authorized = True
        if subscriber.key not in self._allowed:
            self._allowed.add(subscriber.key)
            self._recorder.record_allowed(subscriber, media_type, asked)

    def _refuse(self, subscriber: Subscriber, error: CacheError) -> None:
        is_undecided = isinstance(error, UndecidedError)
        if is_undecided and not self._has_state:
            self._is_idle = True
        if not subscriber.ready.called:
            subscriber.fail(error)
        elif not self.verified:
            # A successor refuses it: it gets no more than what it has.
            self._stop(UpstreamUnavailable("the fetch has ended meanwhile") if is_undecided else error)

    def _stop(self, error: CacheError | None) -> None:
        self.failure = error
        self._is_over = True
        self._changed.notify_all()
