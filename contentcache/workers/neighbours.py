"""The other workers, as one of them sees them: each content belongs to one of all."""

from __future__ import annotations

import base64
import socket
from typing import Any, Final

from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.delivery.other_workers import DecisionRecorder
from contentcache.delivery.shared_download import DownloadKey, SharedDownload, UndecidedError
from contentcache.storage.filesystem import FilesystemStore
from contentcache.workers.borrowing import Borrowed
from contentcache.workers.conversation import Conversation, GoneError, NoAnswerError, SilentError, converse
from contentcache.workers.rendezvous import owner

#: Longer than the parent itself waits for a worker that is started again.
_CONNECTED_IN: Final = 40.0


class Neighbours:
    """
    A :class:`contentcache.delivery.other_workers.Owners`: we are ``number`` of ``workers``. The ``parent``
    brings conversations about.
    """

    _log = Logger()

    def __init__(
        self, number: int, workers: int, parent: Conversation, store: FilesystemStore, reactor: Any
    ) -> None:
        self._number = number
        self._workers = workers
        self._parent = parent
        self._store = store
        self._reactor = reactor
        self._unread: list[socket.socket] = []

    def is_own(self, digest: Digest) -> bool:
        """Whether it belongs to this one, or nobody can be brought together with the one whose it is."""
        return owner(digest, self._workers) == self._number or self._parent.is_silent

    def join(
        self, key: DownloadKey, recorder: DecisionRecorder, *, in_place: bool, total: int | None
    ) -> SharedDownload:
        """Have it made by the one whose it is."""
        return Borrowed(
            key,
            recorder,
            in_place=in_place,
            total=total,
            reach=self._reach,
            opened=self._store.take,
            clock=self._reactor,
        )

    async def store(self, key: DownloadKey, content: bytes) -> None:
        """Have the one whose it is store a small content; where it cannot, it is fetched another time."""
        conversation = Conversation(lambda _name, _values: None)
        try:
            await self._reach(key.digest, conversation)
            await conversation.ask(
                "keep",
                origin=key.origin,
                digest=str(key.digest),
                content=base64.b64encode(content).decode("ascii"),
            )
        except (NoAnswerError, UndecidedError) as error:
            self._log.warn("blob not stored by its owner", origin=key.origin, digest=key.digest, reason=error)
        conversation.hang_up()

    async def _reach(self, digest: Digest, conversation: Conversation) -> None:
        """
        :raises UndecidedError: the parent does not answer: from now on it is ours.
        :raises NoAnswerError: the owner, and each of its successors, is not there.
        """
        if self._parent.is_silent:
            raise UndecidedError("the parent brings nobody together now")
        while self._unread:
            self._unread.pop().close()
        mine, theirs = socket.socketpair()
        try:
            self._parent.hand(theirs.fileno())
            to = owner(digest, self._workers)
            reached = await self._parent.ask("connect", timeout=_CONNECTED_IN, to=to)
        except SilentError as error:
            mine.close()
            # It may still have to be sent. Nobody answers at its other end.
            self._unread.append(theirs)
            raise UndecidedError("the parent brings nobody together now") from error
        except BaseException:
            mine.close()
            theirs.close()
            raise
        theirs.close()
        if not reached:
            mine.close()
            raise GoneError("the worker that has this content does not come back")
        converse(self._reactor, mine.detach(), conversation).watch()
