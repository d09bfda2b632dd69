"""
The owner's side of a fetch that clients of another worker read along with.

One conversation is about one content at one other worker. It hears which clients come and leave and which
bytes they wait for, and tells how far the file has grown. The file itself is handed over open.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from contentcache.aio.tasks import in_background
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, OriginRefused, UpstreamUnavailable
from contentcache.core.ports import Run
from contentcache.delivery.blob_service import BlobService
from contentcache.delivery.download import Download
from contentcache.delivery.shared_download import DownloadKey, UndecidedError
from contentcache.delivery.subscribers import ContentRequest, Subscriber
from contentcache.workers.conversation import Conversation, Values
from contentcache.workers.words import asking_of, error_in_words


@frozen
class Lender:
    """
    What lending needs: ours are ``contents``; ``key`` names a question, ``registry_of`` has the registry of
    an origin.
    """

    blob_service: BlobService
    key: Callable[[ContentRequest], bytes]
    registry_of: Callable[[str], Any]
    run: Run

    def lend(self) -> Conversation:
        """This side of the conversation that another worker has begun."""
        return _Lending(self).conversation


@frozen
class _Told:
    """What the origin says to a client of another worker."""

    conversation: Conversation
    number: int

    def report_allowed(self, media_type: str | None, asked: float) -> None:
        self.conversation.tell("yes", want=self.number, media_type=media_type, asked=asked)

    def report_denied(self, refusal: OriginRefused, asked: float) -> None:
        self.conversation.tell("no", want=self.number, error=error_in_words(refusal), asked=asked)


class _Lending:
    """One conversation."""

    _log = Logger()

    def __init__(self, lender: Lender) -> None:
        self._lender = lender
        self.conversation = Conversation(self._heard, self._left)
        self._download: Download | None = None
        self._subscribers: dict[int, Subscriber] = {}
        #: What the other side waits for since it was last told of anything.
        self._needs: set[tuple[int, int | None]] = set()
        self._leaving: set[int] = set()
        self._descriptor: int | None = None
        self._last_words: dict[str, Any] = {}
        self._generation = 0
        self._runs: set[tuple[int, int]] = set()
        self._over = False

    def _heard(self, name: str, values: Values) -> Any:
        match name:
            case "attach":
                in_background(self._attach(values["want"], values))
            case "detach":
                self._detach(values["want"])
            case "need":
                self._need(values["position"], values["stop"])
            case "keep":
                return self._keep(values["origin"], values["digest"], values["content"])
        return None

    async def _keep(self, origin: str, digest: str, content: str) -> None:
        key = DownloadKey(origin, Digest.parse(digest))
        await self._lender.blob_service.store(key, base64.b64decode(content))

    async def _attach(self, number: int, values: Values) -> None:
        asking = asking_of(values["asking"], self._lender.registry_of)
        told = _Told(self.conversation, number)
        subscriber = Subscriber(
            asking, self._lender.key(asking), values["judged"], whole=values["whole"], reporter=told
        )
        try:
            download, coalesced = await self._lender.blob_service.subscribe(
                subscriber, in_place=values["in_place"], total=values["total"]
            )
        except CacheError as error:
            self._refuse(number, error)
            return
        except Exception:  # noqa: BLE001  # a defect of ours must not leave a client waiting
            self._log.failure(
                "download not shared", digest=asking.content.digest, repository=asking.content.repository
            )
            self._refuse(number, UpstreamUnavailable("the cache has failed; its log says why"))
            return
        if self._over or number in self._leaving or (self._download not in {None, download}):
            # It has left meanwhile; or what the conversation was about has ended, and it comes again.
            self._leaving.discard(number)
            subscriber.ready.addErrback(lambda _failure: None)
            download.unsubscribe(subscriber)
            self._refuse(number, UndecidedError("the fetch has ended meanwhile"))
            return
        self._subscribers[number] = subscriber
        is_verdict = not subscriber.authorized
        subscriber.ready.addCallbacks(
            lambda _none: self._opened(
                number, download, subscriber, coalesced=coalesced, is_verdict=is_verdict
            ),
            lambda failure: self._refuse(number, failure.value),
        )
        if self._download is None:
            self._download = download
            in_background(self._follow(download))

    def _opened(
        self, number: int, download: Download, subscriber: Subscriber, *, coalesced: bool, is_verdict: bool
    ) -> None:
        self._tell_news(download)  # its size at the least comes first
        self.conversation.tell(
            "opened",
            want=number,
            media_type=download.media_type,
            joined=coalesced,
            asked=subscriber.asked if is_verdict else None,
        )

    def _refuse(self, number: int, error: CacheError) -> None:
        self.conversation.tell("refused", want=number, error=error_in_words(error))

    def _detach(self, number: int) -> None:
        subscriber = self._subscribers.pop(number, None)
        if subscriber is None:
            self._leaving.add(number)
        elif self._download is not None:
            subscriber.ready.addErrback(lambda _failure: None)
            self._download.unsubscribe(subscriber)

    def _need(self, position: int, stop: int | None) -> None:
        if self._download is None or self._download.is_over:
            return
        try:
            self._download.request_bytes(position, stop)
            self._needs.add((position, stop))
        except CacheError as error:
            self._needs.discard((position, stop))
            self.conversation.tell("missing", position=position, error=error_in_words(error))

    async def _follow(self, download: Download) -> None:
        """Tell of everything that changes, to the end."""
        while not (download.is_over or self._over):
            if not self._tell_news(download):
                # Its readers are not woken, and do not ask again: what they wait for may have failed.
                for position, stop in tuple(self._needs):
                    self._need(position, stop)
            await download.progress.wait()
        if self._over:
            return
        self._tell_news(download)
        failure = download.failure
        self.conversation.tell(
            "end", error=None if failure is None else error_in_words(failure), target=download.target
        )

    def _tell_news(self, download: Download) -> bool:
        """
        Tell what has changed; ``False`` if there is nothing to tell. What the other side still needs after
        that, it asks for again.
        """
        if self._over:
            return False
        if self._descriptor is None and download.download_file.has_file:
            self._hand_over(download)
        if download.generation != self._generation:
            self._generation = download.generation
            self._runs.clear()
        held = set(download.planner.held)
        words = {
            "generation": download.generation,
            "total": download.size,
            "media_type": download.media_type,
            "told": download.progress.announced,
            "verified": download.verified,
            "takes_candidates": download.awaits_decision,
            "is_closed": download.withholds_all,
            "held": sorted(held - self._runs),
        }
        self._runs = held
        is_news = bool(words["held"]) or words != {**self._last_words, "held": []}
        self._last_words = words
        if is_news:
            self._needs.clear()
            self.conversation.tell("news", **words)
        return is_news

    def _hand_over(self, download: Download) -> None:
        descriptor = download.file.descriptor
        if descriptor is None:
            return
        # One of our own: it is sent later, when the number may be another file's.
        self._descriptor = os.dup(descriptor)
        self.conversation.hand(self._descriptor)
        self.conversation.tell("file")

    def _left(self) -> None:
        self._over = True
        for number in tuple(self._subscribers):
            self._detach(number)
        if self._descriptor is not None:
            # The last one to close a deleted file waits for its blocks to be freed.
            in_background(_close(self._lender.run, self._descriptor))


async def _close(run: Run, descriptor: int) -> None:
    await run(partial(os.close, descriptor))
