"""
One index for all workers: the parent has it, and children ask it across a pair of sockets.

So there is one who opens and mends the file, and what one worker writes the next one reads. Both ends block,
and live in threads.
"""

from __future__ import annotations

import json
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock, Thread
from typing import Any, Final

import attrs
from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.storage.interfaces import Affirmation, BlobRecord, Index, Link, Tag, TagRecord
from contentcache.workers.blocking_questions import ANSWERED_IN, BlockingQuestions

_VALUES: Final = {kind.__name__: kind for kind in (BlobRecord, Link, Affirmation, Tag, TagRecord)}
#: So many verified blobs are known while the parent does not answer.
_BLOBS: Final = 10_000
_DIGEST: Final = "Digest"
_PAIRS: Final = "Mapping"


def in_words(value: Any) -> Any:
    """
    What goes in and out of an index, as JSON knows it.

    >>> of_words(in_words({Digest.of(b""): 1.5})) == {Digest.of(b""): 1.5}
    True
    """
    if isinstance(value, Digest):
        return {_DIGEST: str(value)}
    if type(value).__name__ in _VALUES:
        fields = attrs.asdict(value, recurse=False)
        return {type(value).__name__: {name: in_words(each) for name, each in fields.items()}}
    if isinstance(value, Mapping):
        return {_PAIRS: [[in_words(key), in_words(each)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [in_words(each) for each in value]
    return value


def of_words(words: Any) -> Any:
    """The same again."""
    if isinstance(words, list):
        return [of_words(each) for each in words]
    if not isinstance(words, dict):
        return words
    ((name, value),) = words.items()
    if name == _DIGEST:
        return Digest.parse(value)
    if name == _PAIRS:
        return {of_words(key): of_words(each) for key, each in value}
    return _VALUES[name](**{field: of_words(each) for field, each in value.items()})


class DistantIndex:
    """
    An :class:`contentcache.storage.interfaces.Index` at the parent's. ``end`` is this side's socket.

    One question at a time, as it is with the file itself. Where the parent has gone, or does not answer,
    everything is an ``OSError``. Two things hold all the same: what was read of verified blobs is known, so
    that they are served while the parent is stopped; and a link that was revoked is revoked before any other
    question about links is asked.
    """

    def __init__(self, end: socket.socket, seconds: float = ANSWERED_IN) -> None:
        self._questions = BlockingQuestions(end, seconds)
        self._blobs: OrderedDict[Digest, BlobRecord] = OrderedDict()
        self._revoked: set[Link] = set()
        self._lock = Lock()

    @property
    def rebuilt(self) -> bool:
        """Whether the store must be listed."""
        return bool(self._ask("rebuilt"))

    def rebuild_done(self) -> None:
        """The store was listed to its end."""
        self._ask("rebuild_done")

    def close(self) -> None:
        """Ask no more."""
        self._questions.close()

    def drop(self, digest: Digest) -> None:
        """A blob is gone, as the parent has told."""
        with self._lock:
            self._blobs.pop(digest, None)

    def blob(self, digest: Digest) -> BlobRecord | None:
        """The record of one blob."""
        try:
            record: BlobRecord | None = self._ask("blob", digest)
        except OSError:
            with self._lock:
                known = self._blobs.get(digest)
            if known is None:
                raise
            return known
        self._know(digest, record)
        return record

    def _know(self, digest: Digest, record: BlobRecord | None) -> None:
        with self._lock:
            self._blobs.pop(digest, None)
            if record is not None and record.verified:
                self._blobs[digest] = record
                if len(self._blobs) > _BLOBS:
                    self._blobs.popitem(last=False)

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """Add blobs, or replace what is known of them."""
        recorded = list(blobs)
        self._ask("record", recorded)
        for blob in recorded:
            self._know(blob.digest, blob)

    def touch(self, pulls: Mapping[Digest, float]) -> None:
        """Set last pulls."""
        self._ask("touch", pulls)

    def forget(self, digests: Iterable[Digest]) -> None:
        """These blobs are gone."""
        gone = list(digests)
        for digest in gone:
            self._know(digest, None)
        self._ask("forget", gone)

    def least_recent(
        self, limit: int, before: float | None = None, after: BlobRecord | None = None
    ) -> Sequence[BlobRecord]:
        """At most ``limit`` records, least recently pulled first."""
        records: Sequence[BlobRecord] = self._ask("least_recent", limit, before, after)
        return records

    def following(self, digest: Digest | None, limit: int) -> Sequence[BlobRecord]:
        """At most ``limit`` records in the order of their digests."""
        records: Sequence[BlobRecord] = self._ask("following", digest, limit)
        return records

    def possesses(self, origin: str, digest: Digest) -> bool:
        """Whether ``origin`` has delivered these stored bytes, or proved that it has them."""
        return bool(self._ask("possesses", origin, digest))

    def record_possession(self, origin: str, digest: Digest) -> None:
        """``origin`` has delivered these bytes or proved that it has them."""
        self._ask("record_possession", origin, digest)

    def total(self) -> int:
        """Bytes of all recorded blobs."""
        return int(self._ask("total"))

    def shift(self, seconds: float, now: float) -> None:
        """Move every last pull by ``seconds``, none beyond ``now``."""
        self._ask("shift", seconds, now)

    def affirmation(self, link: Link) -> Affirmation | None:
        """When a link was affirmed, if ever."""
        self._revoke_late()
        affirmation: Affirmation | None = self._ask("affirmation", link)
        return affirmation

    def affirm(self, link: Link, affirmation: Affirmation) -> None:
        """Remember a 2xx of the origin."""
        self._revoke_late()
        self._ask("affirm", link, affirmation)

    def revoke(self, link: Link) -> None:
        """The origin denies it."""
        with self._lock:
            self._revoked.add(link)
        self._revoke_late()

    def tag(self, tag: Tag) -> TagRecord | None:
        """What a tag meant when it was last asked."""
        record: TagRecord | None = self._ask("tag", tag)
        return record

    def remember_tag(self, tag: Tag, record: TagRecord) -> None:
        """Remember what a tag means."""
        self._ask("remember_tag", tag, record)

    def purge(self, before: float, limit: int) -> int:
        """Forget old links and tags."""
        return int(self._ask("purge", before, limit))

    def _revoke_late(self) -> None:
        """Revoke what has not been revoked yet: no link is read or written before. Raises ``OSError``."""
        with self._lock:
            revoked = tuple(self._revoked)
        for link in revoked:
            self._ask("revoke", link)
            with self._lock:
                self._revoked.discard(link)

    def _ask(self, method: str, *given: Any) -> Any:
        return of_words(self._questions.ask(method, in_words(given)))


#: What may be asked. The parent's index is the parent's to close.
_METHODS: Final = frozenset(name for name in vars(DistantIndex) if not name.startswith("_")) - {
    "close",
    "drop",
}


class IndexDesk:
    """
    The parent's side: one thread for each child, which ends with it.

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
                    method, words, *question = json.loads(line)
                    try:
                        answer = json.dumps([*self._answer(number, method, words), *question])
                    except Exception as error:  # noqa: BLE001  # whatever it is, who asks has to know
                        self._log.failure("index request failed", worker=number, method=method)
                        answer = json.dumps([None, [f"the index has failed: {error}"], *question])
                    stream.write(answer.encode("ascii") + b"\n")
                    stream.flush()
        except OSError:
            pass  # the child has ended in the middle of a line

    def _answer(self, number: int, method: str, words: Any) -> tuple[Any, Sequence[Any] | None]:
        given = of_words(words)
        if method not in _METHODS:
            return None, [f"nobody may ask an index to {method}"]
        try:
            asked = getattr(self._index, method)
            value = asked(*given) if callable(asked) else asked
        except OSError as error:
            return None, error.args[:2] if error.errno is not None else [str(error)]
        except Exception as error:  # noqa: BLE001  # a defect in one answer must not end all
            self._log.failure("index operation failed", worker=number, method=method)
            return None, [f"the index has failed: {error}"]
        if method == "revoke":
            self._denied(given[0], number)
        return in_words(value), None
