"""Manifests are held in memory while they pass, so their size is bounded, and checked before they count."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import ManifestTooLarge
from contentcache.core.lru import LruCache
from contentcache.core.manifests import CheckedManifest, check_manifest
from contentcache.core.ports import Run
from contentcache.storage.interfaces import BlobFile
from contentcache.upstream.answers import Answer, AnswerTooLarge

#: Number of stored manifests of which it is remembered that they are some.
_MOST_CHECKED: Final = 10_000


def too_large(size: int | None, limit: int) -> ManifestTooLarge:
    """What there is to say of a manifest of ``size`` bytes where ``limit`` are allowed."""
    told = "more" if size is None else str(size)
    return ManifestTooLarge(f"this manifest has {told} bytes, and {limit} are allowed (limits.manifest)")


async def read_manifest(answer: Answer, limit: int) -> bytes:
    """
    The body of ``answer``.

    :raises ManifestTooLarge: it has more than ``limit`` bytes.
    :raises UpstreamBroken: it is cut short.
    :raises UpstreamTimeout: it stalls.
    """
    try:
        return await answer.read(limit)
    except AnswerTooLarge as error:
        raise too_large(answer.length, limit) from error


@frozen
class StoredManifest:
    """A manifest of the store: its size in bytes, and what it says of its media type."""

    size: int
    checked: CheckedManifest


class StoredManifests:
    """
    Which contents of the store are manifests: each is read once, and then known by its digest.

    ``limit`` is in bytes.
    """

    def __init__(self, run: Run, limit: int) -> None:
        self._run = run
        self._limit = limit
        self._known: LruCache[Digest, StoredManifest] = LruCache(_MOST_CHECKED)

    def known(self, digest: Digest) -> StoredManifest | None:
        """What was found when it was last read, if it was."""
        return self._known.get(digest)

    async def check(self, digest: Digest, file: BlobFile) -> StoredManifest:
        """
        What a verified content of the store is, as a manifest.

        :raises ManifestInvalid: it is none.
        :raises ManifestTooLarge: it has more bytes than are allowed.
        :raises OSError: it cannot be read.
        """
        found = self.known(digest)
        if found is None:
            size = file.size
            if size > self._limit:
                raise too_large(size, self._limit)
            content = await self._run(file.read, 0, size)
            found = StoredManifest(size, check_manifest(content))
            self._known.put(digest, found)
        return found
