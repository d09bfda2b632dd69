"""The one place where calls of an index are forwarded to another index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

from contentcache.core.digest import Digest
from contentcache.storage.interfaces import BlobRecord, Index

Method = TypeVar("Method", bound=Callable[..., Any])


def _forwarded(method: Method) -> Method:
    name = method.__name__

    def forward(self: ForwardingIndex, /, *args: Any, **kwargs: Any) -> Any:
        return self._forward(name, *args, **kwargs)

    return cast("Method", wraps(method)(forward))


class ForwardingIndex:
    """
    The methods of an :class:`~contentcache.storage.interfaces.Index`, each of which calls :meth:`_forward` of the
    subclass. ``close`` and ``rebuild_done`` are not among them.
    """

    def _forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the method ``name`` of the other index, perhaps several times; ``rebuilt`` is a property."""
        raise NotImplementedError

    blob = _forwarded(Index.blob)
    touch = _forwarded(Index.touch)
    least_recent = _forwarded(Index.least_recent)
    following = _forwarded(Index.following)
    possesses = _forwarded(Index.possesses)
    record_possession = _forwarded(Index.record_possession)
    total = _forwarded(Index.total)
    count = _forwarded(Index.count)
    shift = _forwarded(Index.shift)
    affirmation = _forwarded(Index.affirmation)
    affirm = _forwarded(Index.affirm)
    links = _forwarded(Index.links)
    revoke = _forwarded(Index.revoke)
    tag = _forwarded(Index.tag)
    remember_tag = _forwarded(Index.remember_tag)
    names = _forwarded(Index.names)
    purge = _forwarded(Index.purge)

    @property
    def rebuilt(self) -> bool:
        """Whether the store must be listed."""
        return bool(self._forward("rebuilt"))

    def record(self, blobs: Iterable[BlobRecord]) -> None:
        """Add blobs, or replace their records."""
        self._forward("record", list(blobs))

    def forget(self, digests: Iterable[Digest]) -> None:
        """Delete the records of blobs."""
        self._forward("forget", list(digests))
