"""The other workers of the same daemon, which serve clients from the same store."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from attrs import field, frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused
from contentcache.core.via import FAMILY
from contentcache.delivery.authorization import Revocation
from contentcache.delivery.shared_download import DownloadKey, SharedDownload
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import Room


class DecisionRecorder(Protocol):
    """Records what the origin decided about a client of this worker, whoever sent the request."""

    def record_allowed(self, subscriber: Subscriber, media_type: str | None, asked: float) -> None: ...
    def record_denied(self, subscriber: Subscriber, refusal: OriginRefused, asked: float) -> None: ...


class Owners(Protocol):
    """Each digest is owned by one worker, which runs its downloads and writes its file."""

    def is_own(self, digest: Digest) -> bool:
        """Whether this worker is the owner."""

    def join(
        self, key: DownloadKey, recorder: DecisionRecorder, *, in_place: bool, total: int | None
    ) -> SharedDownload:
        """The owner's download, as this worker's clients see it."""

    async def store(self, key: DownloadKey, content: bytes) -> None:
        """Let the owner store small content that has come whole and is verified."""


def _ignore(_digest: Digest) -> None:
    """Without other workers nobody is notified."""


def _ignore_review(_in_use: Callable[[Digest], bool]) -> None:
    """Without other workers nobody is notified."""


@frozen
class OtherWorkers:
    """
    What this process shares with the others; the defaults are those of a process that works alone.

    ``secret`` names credentials and ``pseudonym`` the cache: the same in all processes. ``owners`` knows the
    downloads of the other workers. ``serves_clients`` is false in a supervisor, ``maintains_store`` in a
    worker: the store is listed, scrubbed and evicted from in one process only.

    ``in_use(digest)``, where the readers are other processes, says whether any of them uses a blob; ``room``,
    where the evictor is in another process, reserves space for downloads.

    The rest is called to notify the other processes: ``on_use(digest)`` for each blob that a reader or a
    download uses, ``on_review(in_use)`` from time to time with what tells which are still in use,
    ``on_evicted(digest)``, ``on_revoked(revocation)`` for grants, ``on_index_lost()``, and
    ``on_disk_fault(fault)`` with what the disk refuses, ``None`` when it accepts writes again.
    """

    secret: bytes = field(factory=lambda: secrets.token_bytes(64), repr=False)
    pseudonym: str = field(factory=lambda: FAMILY + secrets.token_hex(4))
    owners: Owners | None = None
    serves_clients: bool = True
    maintains_store: bool = True
    in_use: Callable[[Digest], bool] | None = None
    room: Room | None = None
    on_use: Callable[[Digest], None] = _ignore
    on_review: Callable[[Callable[[Digest], bool]], None] = _ignore_review
    on_evicted: Callable[[Digest], None] = _ignore
    on_revoked: Callable[[Revocation], None] = lambda _revocation: None
    on_disk_fault: Callable[[str | None], None] = lambda _fault: None
    on_index_lost: Callable[[], None] = lambda: None
