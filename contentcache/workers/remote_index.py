"""
One index for all workers: the supervisor has it, and workers call it over a pair of sockets.

So one process opens and repairs the file, and what one worker writes the next one reads. Both ends block, in
threads.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import Any, Final

from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.lru import LruCache
from contentcache.core.ports import Clock
from contentcache.storage.index_forwarding import ForwardingIndex
from contentcache.storage.interfaces import BlobRecord, Index, Link
from contentcache.workers.encoding import decode, encode, pairs

#: Seconds in which a call to the index has a result, whatever the disk does.
CALL_TIMEOUT: Final = 3.0
_READ_SIZE: Final = 1 << 16
#: Number of verified blobs whose records are cached for the time that the supervisor does not respond.
_MAX_BLOBS: Final = 10_000
#: Calls about links, which are sent after all revocations that could not be sent before.
_AFTER_REVOCATIONS: Final = frozenset({"affirmation", "affirm"})


class _BlockingCalls:
    """
    Calls to :class:`IndexServer` from threads, one at a time; each has a result or an ``OSError`` in time.

    A process that is stopped reads nothing. Only the first call waits for it: until its result has come, the
    next ones fail at once. Results have the number of their call, so that a late one is ignored.
    """

    def __init__(self, end: socket.socket, timeout: float, monotonic: Clock = time.monotonic) -> None:
        self._end = end
        self.timeout = timeout
        self._monotonic = monotonic
        self._lock = Lock()
        self._number = 0
        self._unsent = b""
        self._received = b""
        self._is_unresponsive = False

    def close(self) -> None:
        """Close the socket."""
        with self._lock, suppress(OSError):
            self._end.close()

    def call(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """
        The result of a method of the index.

        :raises OSError: the index has failed, or there is no result in time.
        """
        with self._lock:
            if self._is_unresponsive:
                self._check_responsive()
            self._number += 1
            self._unsent += encode([self._number, method, args, kwargs]) + b"\n"
            deadline = self._monotonic() + self.timeout
            try:
                self._send(deadline)
                value, fault = self._result(deadline)
            except TimeoutError as error:
                self._is_unresponsive = True
                message = f"the supervisor, which has the index, has not answered for {self.timeout:g} s"
                raise OSError(message) from error
        if fault is not None:
            raise OSError(*fault)
        return value

    def _check_responsive(self) -> None:
        """Receive what has come meanwhile. Raises ``OSError`` if nothing has."""
        try:
            self._send(0.0)
            self._receive(0.0)
        except TimeoutError as error:
            raise OSError("the supervisor, which has the index, does not answer") from error
        self._is_unresponsive = False

    def _send(self, deadline: float) -> None:
        while self._unsent:
            self._set_timeout(deadline)
            try:
                self._unsent = self._unsent[self._end.send(self._unsent) :]
            except BlockingIOError as error:
                raise TimeoutError from error

    def _result(self, deadline: float) -> tuple[Any, Any]:
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if not newline:
                self._receive(deadline)
                continue
            self._received = rest
            number, value, fault = decode(line)
            if number == self._number:
                return value, fault

    def _receive(self, deadline: float) -> None:
        self._set_timeout(deadline)
        try:
            piece = self._end.recv(_READ_SIZE)
        except BlockingIOError as error:
            raise TimeoutError from error
        if not piece:
            raise OSError("the supervisor, which has the index, has ended")
        self._received += piece

    def _set_timeout(self, deadline: float) -> None:
        # With 0 the socket does not block.
        self._end.settimeout(max(0.0, deadline - self._monotonic()))


class RemoteIndex(ForwardingIndex):
    """
    An :class:`contentcache.storage.interfaces.Index` in the supervisor. ``end`` is this process's socket.

    One call at a time, as with the file itself. Where the supervisor has ended or does not respond, everything
    is an ``OSError``, with two exceptions: records of verified blobs that were read before are cached, so that
    these blobs are served while the supervisor is stopped; and a link that was revoked is revoked before any
    other call about links.
    """

    def __init__(self, end: socket.socket, timeout: float = CALL_TIMEOUT) -> None:
        self._calls = _BlockingCalls(end, timeout)
        self._blobs: LruCache[Digest, BlobRecord] = LruCache(_MAX_BLOBS)
        self._unrevoked: set[Link] = set()
        self._lock = Lock()

    def rebuild_done(self) -> None:
        """The store was listed to its end."""
        self._forward("rebuild_done")

    def close(self) -> None:
        """Close the socket; the supervisor's index stays open."""
        self._calls.close()

    def uncache(self, digest: Digest) -> None:
        """Remove a record from the cache: the blob was evicted."""
        self._cache(digest, None)

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of one blob."""
        try:
            record = super().blob(digest)
        except OSError:
            with self._lock:
                cached = self._blobs.get(digest)
            if cached is None:
                raise
            return cached
        self._cache(digest, record)
        return record

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """Add blobs, or replace their records."""
        recorded = list(blobs)
        super().record(recorded)
        for blob in recorded:
            self._cache(blob.digest, blob)

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        """Set last pulls."""
        self._forward("touch", pairs(pulls))

    def forget(self, digests: Iterable[Digest]) -> None:
        """Delete the records of blobs."""
        deleted = list(digests)
        for digest in deleted:
            self._cache(digest, None)
        super().forget(deleted)

    def revoke(self, link: Link) -> None:
        """The origin denies it."""
        with self._lock:
            self._unrevoked.add(link)
        self._revoke_pending()

    def _cache(self, digest: Digest, record: BlobRecord | None) -> None:
        with self._lock:
            if record is not None and record.verified:
                self._blobs.put(digest, record)
            else:
                self._blobs.remove(digest)

    def _revoke_pending(self) -> None:
        """Revoke what could not be revoked before. Raises ``OSError``."""
        with self._lock:
            links = tuple(self._unrevoked)
        for link in links:
            self._calls.call("revoke", [link], {})
            with self._lock:
                self._unrevoked.discard(link)

    def _forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name in _AFTER_REVOCATIONS:
            self._revoke_pending()
        return self._calls.call(name, args, kwargs)


#: What a worker may call. The supervisor's index is not closed by workers.
_METHODS: Final = frozenset(name for name in dir(RemoteIndex) if name[0] != "_") - {"close", "uncache"}


class IndexServer:
    """
    The supervisor's side: one thread for each worker, which ends with the worker.

    ``denied(link, number)`` is called, in that thread, after worker ``number`` has revoked a link.
    """

    _log = Logger()

    def __init__(self, index: Index, denied: Callable[[Link, int], None]) -> None:
        self._index = index
        self._denied = denied

    def serve(self, number: int, end: socket.socket) -> None:
        """Answer worker ``number``, which has the other end, until it is closed."""
        end.setblocking(True)
        Thread(target=self._serve, args=(number, end), name=f"index {number}", daemon=True).start()

    def _serve(self, number: int, end: socket.socket) -> None:
        try:
            with end, end.makefile("rwb") as stream:
                while (line := stream.readline()).endswith(b"\n"):
                    call = method = None
                    try:
                        call, method, args, kwargs = decode(line)
                        answer = encode([call, *self._result(number, method, args, kwargs)])
                    except Exception as error:  # noqa: BLE001  # the worker must not wait in vain
                        self._log.failure("index request failed", worker=number, method=method)
                        answer = encode([call, None, [f"the index has failed: {error}"]])
                    stream.write(answer + b"\n")
                    stream.flush()
        except OSError:
            pass  # the worker has ended in the middle of a line

    def _result(self, number: int, method: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if method not in _METHODS:
            return None, [f"{method} of the index may not be called"]
        try:
            attribute = getattr(self._index, method)
            value = attribute(*args, **kwargs) if callable(attribute) else attribute
        except OSError as error:
            return None, error.args[:2] if error.errno is not None else [str(error)]
        except Exception as error:  # noqa: BLE001  # one defect must not end the thread
            self._log.failure("index operation failed", worker=number, method=method)
            return None, [f"the index has failed: {error}"]
        if method == "revoke":
            self._denied(args[0], number)
        return value, None
