"""
Bytes far from where a fetch stands, asked for on their own.

Lazy-pulling snapshotters ask for kilobytes at the far end, containerd for the rest of the blob from many
places at once, hanging up after a chunk. Each such wish becomes bounded segments of the same sparse file:
every byte is fetched once, wishes for the same bytes share a segment, and one that has begun is finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, Protocol

from attrs import evolve, frozen

from contentcache.aio.tasks import in_background
from contentcache.core.download_planner import DownloadPlanner
from contentcache.core.errors import (
    CacheError,
    LoopDetected,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.ranges import read_opening
from contentcache.delivery.download_file import DownloadFile
from contentcache.delivery.subscribers import Subscriber
from contentcache.upstream.answers import Answer

#: No segment has more bytes.
LONGEST: Final = 8 << 20
#: So many are under way at once for one content.
MOST_AT_ONCE: Final = 4
#: Segments begin at such offsets, so that a filesystem can tell what is there from what is not.
_ALIGNED: Final = 4096


class RangesIgnored(UpstreamBroken):
    """An upstream answers a request for a range with everything."""


@frozen
class _Segment:
    start: int
    stop: int


class Owner(Protocol):
    """The fetch that segments belong to."""

    @property
    def planner(self) -> DownloadPlanner: ...
    @property
    def download_file(self) -> DownloadFile: ...
    def sources(self) -> Mapping[str, Subscriber]: ...
    async def reserve(self, answer: Answer | None = None) -> None: ...
    def arrived(self, host: str, start: int, stop: int) -> None: ...
    def failed_for(self, error: CacheError) -> None: ...
    def changed(self) -> None: ...


class Segments:
    """The segments of one fetch: those under way, those that wait, and those that could not be had."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._under_way: set[_Segment] = set()
        self._waiting: list[_Segment] = []
        self._failed: list[tuple[_Segment, CacheError]] = []
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether any is under way or waits."""
        return bool(self._under_way or self._waiting)

    def covers(self, offset: int) -> bool:
        """Whether this byte is on its way."""
        return any(one.start <= offset < one.stop for one in (*self._under_way, *self._waiting))

    def next_start(self, offset: int) -> int | None:
        """Where the next segment begins behind ``offset``."""
        starts = [one.start for one in (*self._under_way, *self._waiting) if one.start > offset]
        return min(starts, default=None)

    def request(self, offset: int, stop: int) -> None:
        """
        A reader waits for the bytes from ``offset`` on, up to ``stop`` at the most.

        :raises CacheError: they could not be had when they were asked for.
        """
        for failed in self._failed:
            if failed[0].start <= offset < failed[0].stop:
                self._failed.remove(failed)
                raise failed[1]
        if self._closed or self.covers(offset):
            return
        begin, end = self._owner.planner.held.gap(offset)
        start = max(begin, offset - offset % _ALIGNED)
        stop = min(
            bound for bound in (stop, start + LONGEST, end, self.next_start(offset)) if bound is not None
        )
        self._waiting.append(_Segment(start, stop))
        self._begin_more()

    def close(self) -> None:
        """Begin no more."""
        self._closed = True
        self._waiting.clear()

    def _begin_more(self) -> None:
        while self._waiting and len(self._under_way) < MOST_AT_ONCE:
            segment = self._waiting.pop(0)
            self._under_way.add(segment)
            in_background(self._download(segment))

    async def _download(self, segment: _Segment) -> None:
        try:
            await self._fill(segment)
        except CacheError as error:
            self._failed = [*self._failed[-15:], (segment, error)]
            self._owner.failed_for(error)
        finally:
            self._under_way.discard(segment)
            self._begin_more()
            self._owner.changed()

    async def _fill(self, segment: _Segment) -> None:
        held = self._owner.planner.held
        tried: set[str] = set()
        error: CacheError = UpstreamUnavailable("nobody is left in whose name upstream can be asked")
        while (offset := held.reach(segment.start)) < segment.stop:
            untried = [
                (host, subscriber) for host, subscriber in self._owner.sources().items() if host not in tried
            ]
            if not untried:
                raise error
            host, subscriber = untried[0]
            try:
                await self._take(host, subscriber, offset, segment.stop)
            except OriginRefused as refusal:
                error = refusal
                tried.add(host)
            except RangesIgnored:
                raise
            except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken, LoopDetected) as broken:
                error = broken
                if held.reach(segment.start) == offset:
                    tried.add(host)

    async def _take(self, host: str, subscriber: Subscriber, offset: int, stop: int) -> None:
        registry = subscriber.request.registry
        upstream_request = subscriber.request.upstream_request("GET", range_=f"bytes={offset}-{stop - 1}")
        answer = await registry.ask_host(host, evolve(upstream_request, parallel=True))
        try:
            self._look_at(answer, host, offset)
        except UpstreamBroken:
            answer.abandon()
            raise
        await self._owner.reserve(answer)
        try:
            await self._owner.download_file.receive(
                answer, offset, offset, stop, partial(self._owner.arrived, host)
            )
        except (UpstreamBroken, UpstreamTimeout) as error:
            registry.failed(host, error.message, subscriber.request.content.kind)
            raise

    def _look_at(self, answer: Answer, host: str, offset: int) -> None:
        opening = read_opening(answer.status, answer.length, answer.header("Content-Range"), offset)
        if opening.start != offset:
            raise RangesIgnored(f"{host} does not answer ranges")
        if not self._owner.planner.opened(host, opening.total):
            raise UpstreamBroken(f"{host} says another size than others did")
