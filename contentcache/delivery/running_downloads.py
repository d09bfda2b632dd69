"""
The downloads that are running: at most one for each origin and digest.

A failing or slow origin never affects another one's clients: each has a download, and a partial file, of its
own. The first one that is verified stores the blob for all.
"""

from __future__ import annotations

from collections.abc import Iterator

from contentcache.core.digest import Digest
from contentcache.delivery.shared_download import DownloadKey, SharedDownload


class RunningDownloads:
    """A table of :class:`~contentcache.delivery.shared_download.SharedDownload`, by origin and digest."""

    def __init__(self) -> None:
        self._by_digest: dict[Digest, dict[str, SharedDownload]] = {}

    def __contains__(self, digest: Digest) -> bool:
        """Whether the content is being downloaded, from whichever origin."""
        return digest in self._by_digest

    def __iter__(self) -> Iterator[SharedDownload]:
        for of_digest in self._by_digest.values():
            yield from of_digest.values()

    def get(self, key: DownloadKey) -> SharedDownload | None:
        """The download from this origin."""
        return self._by_digest.get(key.digest, {}).get(key.origin)

    def others(self, key: DownloadKey) -> list[SharedDownload]:
        """The downloads of the same digest from other origins."""
        return [making for making in self._by_digest.get(key.digest, {}).values() if making.key != key]

    def add(self, making: SharedDownload) -> None:
        """It has begun."""
        self._by_digest.setdefault(making.key.digest, {})[making.key.origin] = making

    def remove(self, making: SharedDownload) -> None:
        """It is over; nothing happens if another one has its place by now."""
        of_digest = self._by_digest.get(making.key.digest, {})
        if of_digest.get(making.key.origin) is making:
            del of_digest[making.key.origin]
            if not of_digest:
                del self._by_digest[making.key.digest]
