"""Manifests are read into memory, so their size is bounded, and checked before they count."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import ManifestTooLarge
from contentcache.core.live import Live
from contentcache.core.lru import LruCache
from contentcache.core.manifests import CheckedManifest, check_manifest
from contentcache.core.ports import Run
from contentcache.delivery.options import DeliveryOptions
from contentcache.storage.interfaces import BlobFile
from contentcache.upstream.answers import Answer, AnswerTooLarge

#: Number of stored manifests whose check is in memory.
_MOST_CHECKED: Final = 10_000


def too_large(size: int | None, limit: int) -> ManifestTooLarge:
    """The error for a manifest of ``size`` bytes where ``limit`` are allowed."""
    stated = "more" if size is None else str(size)
    return ManifestTooLarge(f"this manifest has {stated} bytes, and {limit} are allowed (limits.manifest)")


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
    """A stored manifest: its size in bytes, and the result of its check."""

    size: int
    checked: CheckedManifest


class StoredManifests:
    """Checks stored manifests, each once."""

    def __init__(self, run: Run, options: Live[DeliveryOptions]) -> None:
        self._run = run
        self._options = options
        self._known: LruCache[Digest, StoredManifest] = LruCache(_MOST_CHECKED)

    def known(self, digest: Digest) -> StoredManifest | None:
        """The result of an earlier check, if it is in memory."""
        return self._known.get(digest)

    async def check(self, digest: Digest, file: BlobFile) -> StoredManifest:
        """
        Check a stored, verified content as a manifest.

        :raises ManifestInvalid: it is no manifest.
        :raises ManifestTooLarge: it has more bytes than are allowed.
        :raises OSError: it cannot be read.
        """
        found = self.known(digest)
        if found is None:
            size, limit = file.size, self._options.now.manifest_limit
            if size > limit:
                raise too_large(size, limit)
            content = await self._run(file.read, 0, size)
            found = StoredManifest(size, check_manifest(content))
            self._known.put(digest, found)
        return found
