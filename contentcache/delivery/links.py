"""
Links and tags, written through to an index whose disk may fail.

A disk that is full or broken costs requests to the origin, and no client its response.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve
from twisted.logger import Logger

from contentcache.core.lru import LruCache
from contentcache.core.ports import Run
from contentcache.core.request_order import LatestRequests
from contentcache.storage.interfaces import Affirmation, Link, LinkIndex, Tag, TagRecord

#: Number of denials in memory while the index cannot be written.
_MOST_UNWRITTEN: Final = 100_000


class Links:
    """
    Links and tags. A link that was just affirmed is known at once, before it is in the index; the ``most`` links
    that were used last are in memory.
    """

    _log = Logger()

    def __init__(self, index: LinkIndex, run: Run, *, most: int = 0) -> None:
        self._index = index
        self._run = run
        self._fresh: dict[Link, Affirmation] = {}
        self._known: LruCache[Link, Affirmation] = LruCache(most)
        #: The same as :meth:`affirmation`, as far as it is in memory; without a further call on the fast path.
        self.known: Callable[[Link], Affirmation | None] = self._known.peek
        self._denials = 0
        self._unwritten_denials: LruCache[Link, None] = LruCache(_MOST_UNWRITTEN)
        self._denied = LatestRequests()

    def clear(self) -> None:
        """The index was lost: forget the links that are in memory."""
        self._denials += 1
        self._known.clear()

    async def affirmation(self, link: Link) -> Affirmation | None:
        """When the origin last affirmed a link, if it is known."""
        fresh = self._fresh.get(link) or self.known(link)
        if fresh is not None:
            return fresh
        if link in self._unwritten_denials:
            return None
        denials = self._denials
        try:
            found = await self._run(self._index.affirmation, link)
        except OSError as error:
            self._log.error(
                "link not read from the index, origin is asked",
                origin=link.origin,
                repository=link.repository,
                digest=link.digest,
                reason=error,
            )
            return None
        if found is not None and denials == self._denials:
            # Nothing was denied during the lookup: the link still counts.
            self._known.put(link, found)
        return found

    async def affirm(self, link: Link, affirmation: Affirmation, *, asked: float) -> None:
        """
        Record that the origin has affirmed a link, in the answer to a request that was sent at ``asked``.

        Nothing happens if a request that was sent later was answered by a denial of the link.
        """
        if self._denied.outdates(asked, link):
            return
        await self._record(link, affirmation)

    async def record_media_type(self, link: Link, media_type: str | None) -> None:
        """Record the verified media type of a content; nothing happens to a link that is not known."""
        known = await self.affirmation(link)
        if known is not None and media_type is not None and known.media_type != media_type:
            await self._record(link, evolve(known, media_type=media_type))

    async def _record(self, link: Link, affirmation: Affirmation) -> None:
        before = self._fresh.get(link) or self.known(link)
        if affirmation.media_type is None and before is not None:
            affirmation = evolve(affirmation, media_type=before.media_type)
        self._fresh[link] = affirmation
        if affirmation.media_type is not None or link.kind != "manifests":
            self._known.put(link, affirmation)  # else the index may know the media type
        try:
            if await self._write(self._index.affirm, link, affirmation):
                self._unwritten_denials.remove(link)
                await self._write_denials()
        finally:
            if self._fresh.get(link) is affirmation:
                del self._fresh[link]

    async def revoke(self, link: Link, *, asked: float) -> None:
        """Record that the origin has denied a link, in the answer to a request that was sent at ``asked``."""
        self.apply_denial(link, asked=asked)
        if await self._write(self._index.revoke, link):
            self._unwritten_denials.remove(link)
            return
        # The index still has the link: it is not asked for it until the denial is written.
        self._unwritten_denials.put(link, None)

    def apply_denial(self, link: Link, *, asked: float) -> None:
        """Apply a denial that is in the index already, of a request sent at ``asked`` or before."""
        self._denied.record(link, asked)
        self._fresh.pop(link, None)
        self._known.remove(link)
        self._denials += 1

    async def tag(self, tag: Tag) -> TagRecord | None:
        """The manifest of a tag when the origin was last asked, if it is known."""
        try:
            return await self._run(self._index.tag, tag)
        except OSError as error:
            self._log.error(
                "tag not read from the index",
                origin=tag.origin,
                repository=tag.repository,
                tag=tag.name,
                reason=error,
            )
            return None

    async def record_tag(self, tag: Tag, record: TagRecord) -> None:
        """Record the manifest that the origin has for a tag."""
        await self._write(self._index.remember_tag, tag, record)

    async def expire_tag(self, tag: Tag) -> None:
        """Record that the origin has deleted a tag."""
        record = await self.tag(tag)
        if record is not None:  # too old for anything from now on, and purged as such
            await self.record_tag(tag, evolve(record, when=0.0))

    async def _write_denials(self) -> None:
        """The index can be written again: write the denials that it does not have."""
        while self._unwritten_denials:
            link = next(iter(self._unwritten_denials))
            if not await self._write(self._index.revoke, link):
                return
            self._unwritten_denials.remove(link)

    async def _write(self, write: Callable[..., None], subject: Link | Tag, *values: object) -> bool:
        try:
            await self._run(write, subject, *values)
        except OSError as error:
            self._log.error(
                "index not written",
                origin=subject.origin,
                repository=subject.repository,
                digest=subject.digest if isinstance(subject, Link) else None,
                tag=subject.name if isinstance(subject, Tag) else None,
                reason=error,
            )
            return False
        return True
