"""
The owner's side of a download that clients of another worker subscribe to.

One connection is about one content at one other worker. It receives which clients subscribe and unsubscribe and
which bytes they wait for, and sends how far the file has grown. The file itself is sent as an open descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import evolve, frozen
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.aio.tasks import in_background
from contentcache.core.errors import CacheError, OriginRefused, cache_failed
from contentcache.core.ports import Run
from contentcache.delivery.download import Download
from contentcache.delivery.downloads import Downloads
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.shared_download import UndecidedError
from contentcache.delivery.subscribers import Subscriber
from contentcache.telemetry.request_ids import TRACE, RequestTrace
from contentcache.upstream.registry import Registry
from contentcache.workers import messages
from contentcache.workers.rpc import RPCConnection


@frozen
class SubscriberService:
    """
    Serves other workers as the owner. ``request_key`` names a request, ``registry_of`` returns the registry of an
    origin.
    """

    downloads: Downloads
    request_key: Callable[[ContentRequest], bytes]
    registry_of: Callable[[str], Registry]
    run: Run

    def connection(self) -> RPCConnection:
        """This side of a connection that another worker has started."""
        return _OwnerConnection(self).rpc


@frozen
class _Reporter:
    """Sends the origin's decision about a client of another worker."""

    rpc: RPCConnection
    number: int

    def report_allowed(self, media_type: str | None, asked: float) -> None:
        self.rpc.send(messages.OriginAllowed(self.number, media_type, asked))

    def report_denied(self, refusal: OriginRefused, asked: float) -> None:
        self.rpc.send(messages.OriginDenied(self.number, refusal, asked))


class _OwnerConnection:
    _log = Logger()

    def __init__(self, service: SubscriberService) -> None:
        self._service = service
        self.rpc = RPCConnection(self._receive, self._closed)
        self._download: Download | None = None
        self._subscribers: dict[int, Subscriber] = {}
        #: Clients that have unsubscribed before they were subscribed.
        self._unsubscribed: set[int] = set()
        #: Bytes that the other worker has requested since it was last sent anything.
        self._requested: set[tuple[int, int | None]] = set()
        self._descriptor: int | None = None
        self._last_state: messages.DownloadState | None = None
        self._sent_spans: set[tuple[int, int]] = set()
        self._is_closed = False

    def _receive(self, message: Any) -> Any:
        match message:
            case messages.Subscribe():
                in_background(self._subscribe(message))
            case messages.Unsubscribe(number=number):
                self._unsubscribe(number)
            case messages.RequestBytes(position=position, stop=stop):
                self._request_bytes(position, stop)
            case messages.StoreContent(key=key, content=content):
                return self._service.downloads.store(key, content)
        return None

    async def _subscribe(self, message: messages.Subscribe) -> None:
        service, number = self._service, message.number
        TRACE.set(RequestTrace(message.request_id))
        registry = service.registry_of(message.origin)
        request = ContentRequest(
            registry,
            registry.subject(message.content.repository, message.credential),
            message.content,
            tuple(message.accept),
            message.via,
        )
        subscriber = Subscriber(
            request,
            service.request_key(request),
            message.authorized,
            whole=message.whole,
            reporter=_Reporter(self.rpc, number),
        )
        try:
            download, coalesced = await service.downloads.subscribe(
                subscriber, in_place=message.in_place, total=message.total
            )
        except CacheError as error:
            self.rpc.send(messages.Refused(number, error))
            return
        except Exception:  # noqa: BLE001  # the client must not wait in vain after a defect
            content = message.content
            self._log.failure("download not shared", digest=content.digest, repository=content.repository)
            self.rpc.send(messages.Refused(number, cache_failed()))
            return
        if self._is_closed or number in self._unsubscribed or self._download not in {None, download}:
            # It has unsubscribed meanwhile; or the connection's download has ended, and it subscribes again.
            self._unsubscribed.discard(number)
            subscriber.ready.addErrback(lambda _failure: None)
            download.unsubscribe(subscriber)
            self.rpc.send(messages.Refused(number, UndecidedError("the fetch has ended meanwhile")))
            return
        self._subscribers[number] = subscriber
        is_decision = not subscriber.authorized

        def ready(_none: None) -> None:
            self._send_state(download)  # at least its size comes first
            asked = subscriber.asked if is_decision else None
            self.rpc.send(messages.Opened(number, download.media_type, coalesced, asked))

        def failed(failure: Failure) -> None:
            error: Any = failure.value
            if not isinstance(error, UndecidedError):
                self._send_state(download)  # the client's access log says which host has answered
            self.rpc.send(messages.Refused(number, error))

        subscriber.ready.addCallbacks(ready, failed)
        if self._download is None:
            self._download = download
            in_background(self._follow(download))

    def _unsubscribe(self, number: int) -> None:
        subscriber = self._subscribers.pop(number, None)
        if subscriber is None:
            self._unsubscribed.add(number)
        elif self._download is not None:
            subscriber.ready.addErrback(lambda _failure: None)
            self._download.unsubscribe(subscriber)

    def _request_bytes(self, position: int, stop: int | None) -> None:
        if self._download is None or self._download.is_over:
            return
        try:
            self._download.request_bytes(position, stop)
            self._requested.add((position, stop))
        except CacheError as error:
            self._requested.discard((position, stop))
            self.rpc.send(messages.BytesUnavailable(position, error))

    async def _follow(self, download: Download) -> None:
        """Send everything that changes, to the end."""
        while not (download.is_over or self._is_closed):
            if not self._send_state(download):
                # The other worker's readers are not woken, and do not request again: what they wait for may
                # have failed.
                for position, stop in tuple(self._requested):
                    self._request_bytes(position, stop)
            await download.progress.wait()
        if not self._is_closed:
            self._send_state(download)
            self.rpc.send(messages.DownloadEnded(download.failure, download.target))

    def _send_state(self, download: Download) -> bool:
        """
        Send what has changed; whether anything has. The other worker then requests again the bytes that it
        still waits for.
        """
        if self._is_closed:
            return False
        if self._descriptor is None and download.download_file.has_file:
            self._send_file(download)
        held = set(download.planner.held)
        before = self._last_state
        if before is not None and before.generation != download.generation:
            self._sent_spans.clear()
        state = messages.DownloadState(
            download.generation,
            download.size,
            download.media_type,
            download.progress.announced,
            download.verified,
            download.is_stored,
            download.awaits_decision,
            download.withholds_all,
            sorted(held - self._sent_spans),
            download.provenance.download,
            download.provenance.served_by,
        )
        self._sent_spans, self._last_state = held, state
        has_changed = before is None or bool(state.held) or state != evolve(before, held=[])
        if has_changed:
            self._requested.clear()
            self.rpc.send(state)
        return has_changed

    def _send_file(self, download: Download) -> None:
        descriptor = download.file.descriptor
        if descriptor is None:
            return
        # A copy: it is sent later, when the number may be that of another file.
        self._descriptor = os.dup(descriptor)
        self.rpc.attach_descriptor(self._descriptor)
        self.rpc.send(messages.AttachedFile())

    def _closed(self) -> None:
        self._is_closed = True
        for number in tuple(self._subscribers):
            self._unsubscribe(number)
        if self._descriptor is not None:
            # In a thread: whoever closes a deleted file last waits until its blocks are freed.
            in_background(_close(self._service.run, self._descriptor))


async def _close(run: Run, descriptor: int) -> None:
    await run(partial(os.close, descriptor))
