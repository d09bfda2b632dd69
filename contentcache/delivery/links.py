"""
What origins have said, over an index whose disk may fail.

A disk that is full or broken costs questions to the origin, and no client its answer.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve
from twisted.logger import Logger

from contentcache.core.ports import Given, Run
from contentcache.storage.interfaces import Affirmation, Link, LinkIndex, Tag, TagRecord


class Links:
    """
    Links and tags. What was just affirmed is known at once, before the index has it.
    """

    _log = Logger()

    def __init__(self, index: LinkIndex, run: Run) -> None:
        self._index = index
        self._run = run
        self._fresh: dict[Link, Affirmation] = {}

    async def affirmation(self, link: Link) -> Affirmation | None:
        """
        When the origin last affirmed a link, if it is known.
        """
        fresh = self._fresh.get(link)
        if fresh is not None:
            return fresh
        try:
            return await self._run(self._index.affirmation, link)
        except OSError as error:
            self._log.error("the index cannot be read, so the origin is asked: {error}", error=str(error))
            return None

    async def affirm(self, link: Link, affirmation: Affirmation) -> None:
        """
        The origin has affirmed a link.
        """
        self._fresh[link] = affirmation
        try:
            await self._write(self._index.affirm, link, affirmation)
        finally:
            if self._fresh.get(link) is affirmation:
                del self._fresh[link]

    async def revoke(self, link: Link) -> None:
        """
        The origin denies a link.
        """
        self._fresh.pop(link, None)
        await self._write(self._index.revoke, link)

    async def tag(self, tag: Tag) -> TagRecord | None:
        """
        What a tag meant when it was last asked, if it is known.
        """
        try:
            return await self._run(self._index.tag, tag)
        except OSError as error:
            self._log.error("the index cannot be read: {error}", error=str(error))
            return None

    async def remember_tag(self, tag: Tag, record: TagRecord) -> None:
        """
        The origin has said what a tag means.
        """
        await self._write(self._index.remember_tag, tag, record)

    async def forget_tag(self, tag: Tag) -> None:
        """
        The origin does not have a tag any more.
        """
        record = await self.tag(tag)
        if record is not None:  # too old for anything from now on, and purged as such
            await self.remember_tag(tag, evolve(record, when=0.0))

    async def _write(self, write: Callable[Given, None], *args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            await self._run(write, *args, **kwargs)
        except OSError as error:
            self._log.error("the index cannot be written: {error}", error=str(error))
