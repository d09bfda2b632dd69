"""The owners of digests: which worker owns which, and how another worker reaches it."""

from __future__ import annotations

import hashlib
import socket
from typing import Final

from twisted.logger import Logger

from contentcache.aio.reactor import DaemonReactor
from contentcache.core.digest import Digest
from contentcache.delivery.other_workers import DecisionRecorder
from contentcache.delivery.shared_download import DownloadKey, SharedDownload, UndecidedError
from contentcache.storage.filesystem import FilesystemStore
from contentcache.workers import messages
from contentcache.workers.remote_download import RemoteDownload
from contentcache.workers.rpc import (
    ConnectionClosedError,
    RPCConnection,
    RPCError,
    UnresponsiveError,
    connect,
)

#: Seconds; longer than the supervisor itself waits for a worker that is started again.
_CONNECT_TIMEOUT: Final = 40.0


def owner_of(digest: Digest, workers: int) -> int:
    """
    The number of the worker, from 1 up to ``workers``, that owns a digest (rendezvous hashing).

    Each worker has a weight for each digest, and the highest wins: with one worker more or less, only what that
    one owns changes its owner. A worker that has ended still owns its digests, since it is started again at
    once: if another one owned them meanwhile, two could write the same file.

    >>> [owner_of(Digest.of(bytes([content])), 3) for content in range(8)]
    [1, 1, 3, 2, 2, 2, 1, 1]
    """
    return max(range(1, workers + 1), key=lambda number: _weight(digest, number))


def _weight(digest: Digest, number: int) -> bytes:
    return hashlib.blake2b(f"{number} {digest}".encode("ascii"), digest_size=8).digest()


class RemoteOwners:
    """
    The :class:`contentcache.delivery.other_workers.Owners` of worker ``number`` of ``workers``. The ``supervisor``
    connects it to the owners.
    """

    _log = Logger()

    def __init__(
        self,
        number: int,
        workers: int,
        supervisor: RPCConnection,
        store: FilesystemStore,
        reactor: DaemonReactor,
    ) -> None:
        self._number = number
        self._workers = workers
        self._supervisor = supervisor
        self._store = store
        self._reactor = reactor
        self._unacknowledged: list[socket.socket] = []

    def is_own(self, digest: Digest) -> bool:
        """Whether this worker owns a digest, or cannot be connected to the owner."""
        return owner_of(digest, self._workers) == self._number or self._supervisor.is_unresponsive

    def join(
        self, key: DownloadKey, recorder: DecisionRecorder, *, in_place: bool, total: int | None
    ) -> SharedDownload:
        """The owner's download."""
        return RemoteDownload(
            key,
            recorder,
            in_place=in_place,
            total=total,
            connect_owner=self._connect,
            open_file=self._store.from_descriptor,
            clock=self._reactor,
        )

    async def store(self, key: DownloadKey, content: bytes) -> None:
        """Let the owner store small content; if that fails, it is downloaded another time."""
        rpc = RPCConnection(lambda _message: None)
        try:
            await self._connect(key.digest, rpc)
            await rpc.call(messages.StoreContent(key, content))
        except (RPCError, UndecidedError) as error:
            self._log.warn("blob not stored by its owner", origin=key.origin, digest=key.digest, reason=error)
        rpc.close()

    async def _connect(self, digest: Digest, rpc: RPCConnection) -> None:
        """
        :raises UndecidedError: the supervisor does not respond: from now on the digest is this worker's own.
        :raises RPCError: neither the owner nor a successor can be reached.
        """
        if self._supervisor.is_unresponsive:
            raise UndecidedError("the supervisor connects no workers now")
        while self._unacknowledged:
            self._unacknowledged.pop().close()
        mine, theirs = socket.socketpair()
        try:
            self._supervisor.attach_descriptor(theirs.fileno())
            message = messages.ConnectOwner(owner_of(digest, self._workers))
            is_connected = await self._supervisor.call(message, timeout=_CONNECT_TIMEOUT)
        except UnresponsiveError as error:
            mine.close()
            # The descriptor may still have to be sent. Nobody answers at its other end.
            self._unacknowledged.append(theirs)
            raise UndecidedError("the supervisor connects no workers now") from error
        except BaseException:
            mine.close()
            theirs.close()
            raise
        theirs.close()
        if not is_connected:
            mine.close()
            raise ConnectionClosedError("the worker that owns this digest is not started again")
        connect(self._reactor, mine.detach(), rpc).close_when_unresponsive()
