"""
Two workers over one store, with lines between them that are in memory: one has all fetches, clients are at
the other.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from contentcache.config.model import Upstream
from contentcache.core.digest import Digest
from contentcache.delivery.other_workers import DecisionRecorder, OtherWorkers
from contentcache.delivery.shared_download import DownloadKey, SharedDownload
from contentcache.storage.filesystem import FilesystemStore
from contentcache.workers.borrowing import Borrowed
from contentcache.workers.conversation import Conversation, GoneError
from contentcache.workers.lending import Lender
from tests.delivery.house import House
from tests.storage.faults import FaultyStore


class Post:
    """Delivers what is said, in order, and nothing in the middle of something else."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False

    def bring(self, delivery: Callable[[], None]) -> None:
        """Deliver this after what came before it."""
        self._waiting.append(delivery)
        if not self._busy:
            self._deliver()

    def hold(self) -> Callable[[], None]:
        """Deliver nothing, as where a process is stopped, until what this answers is called."""
        self._busy = True
        return self._deliver

    def _deliver(self) -> None:
        self._busy = True
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._busy = False


class End:
    """One end of a line: a transport, as much of it as a conversation uses."""

    disconnecting = False

    def __init__(self, post: Post, conversation: Conversation) -> None:
        self._post = post
        self._conversation = conversation
        self._is_open = True
        self.reactor = Clock()
        self.other: End
        self.said: list[bytes] = []

    def registerProducer(self, _producer: object, _streaming: bool) -> None:
        """Nothing is ever too much (``ITransport``)."""

    def unregisterProducer(self) -> None:
        """The same."""

    def write(self, data: bytes) -> None:
        """Say something (``ITransport``)."""
        self.said.append(data)
        self._post.bring(lambda: self.other.deliver(data))

    def sendFileDescriptor(self, descriptor: int) -> None:
        """Hand over a file (``IUNIXTransport``)."""
        copy = os.dup(descriptor)
        self._post.bring(lambda: self.other.take(copy))

    def loseConnection(self) -> None:
        """Hang up (``ITransport``)."""
        self._post.bring(self.cut)

    def abortConnection(self) -> None:
        """Hang up at once (``ITCPTransport``)."""
        self.cut()

    def deliver(self, data: bytes) -> None:
        """What the other end has said."""
        if self._is_open:
            self._conversation.dataReceived(data)

    def take(self, descriptor: int) -> None:
        """What the other end has handed over."""
        if self._is_open:
            self._conversation.fileDescriptorReceived(descriptor)
        else:
            os.close(descriptor)

    def cut(self) -> None:
        """The line ends, at both ends."""
        for end in (self, self.other):
            if end._is_open:
                end._is_open = False
                end._conversation.connectionLost()


def join(post: Post, one: Conversation, other: Conversation) -> End:
    """Put two conversations at the ends of a line; the first one's end."""
    ends = End(post, one), End(post, other)
    ends[0].other, ends[1].other = ends[1], ends[0]
    one.makeConnection(ends[0])
    other.makeConnection(ends[1])
    return ends[0]


class Neighbour:
    """The other worker, which has everything (``Owners``). While it is ``away``, nobody can reach it."""

    def __init__(self, house: TwoWorkers) -> None:
        self._house = house
        self.post = Post()
        self.lines: list[End] = []
        self.away = False

    def is_own(self, _digest: Digest) -> bool:
        """Nothing belongs to the one who asks."""
        return False

    def join(
        self, key: DownloadKey, recorder: DecisionRecorder, *, in_place: bool, total: int | None
    ) -> SharedDownload:
        """Have it made."""
        return Borrowed(
            key,
            recorder,
            in_place=in_place,
            total=total,
            reach=self._reach,
            opened=self._house.files.take,
            clock=self._house.clock,
        )

    async def store(self, key: DownloadKey, content: bytes) -> None:
        """Have it stored."""
        await self._house.owner.store(key, content)

    async def _reach(self, _digest: Digest, conversation: Conversation) -> None:
        if self.away:
            raise GoneError("it is away")
        self.lines.append(join(self.post, conversation, self._house.lender.lend()))


class TwoWorkers(House):
    """A house whose ``contents`` are the asking worker's; ``owner`` are those of the one that fetches."""

    def __init__(self, *upstreams: Upstream, folder: Path, **options: Any) -> None:
        self.files = FilesystemStore(str(folder), shared=True)
        store = options.get("store")
        if isinstance(store, FaultyStore):
            store.stands_for(self.files)
        super().__init__(*upstreams, **{"store": self.files, **options})
        self.owner = self.blob_service
        self.lender = Lender(self.owner, self.access.key, self._registry_of, self._run)
        self.neighbour = Neighbour(self)
        self.furnish(OtherWorkers(owners=self.neighbour), **self._options)

    @property
    def running_downloads(self) -> int:
        """How many fetches are running."""
        return self.owner.running_downloads

    def _registry_of(self, origin: str) -> Any:
        return next(registry for registry in self.registries if registry.upstream.origin == origin)
