"""
Bytes far from where the stream of a download is, requested on their own.

Lazy-pulling snapshotters read kilobytes at the far end, containerd the rest of the blob from many places at
once, and disconnects after a chunk. What such a reader waits for becomes bounded segments of the same sparse
file: every byte is downloaded once, readers of the same bytes share a segment, and one that has begun is
finished.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import evolve, frozen
from twisted.logger import Logger

from contentcache.aio.condition import wait_at_most
from contentcache.aio.tasks import in_background
from contentcache.core.errors import (
    CacheError,
    DiskFailed,
    LoopDetected,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
    cache_failed,
)
from contentcache.core.outage import Outage, repeatable_after
from contentcache.core.ranges import parse_body_start
from contentcache.delivery.subscribers import Subscriber
from contentcache.upstream.answers import Answer

if TYPE_CHECKING:
    from contentcache.delivery.download import Download

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


class Segments:
    """The segments of one download: those that run, those that wait, and those that have failed."""

    _log = Logger()

    def __init__(self, download: Download) -> None:
        self._download = download
        #: Whether an upstream has answered a request for a range with everything: no more are requested.
        self.ranges_ignored = False
        self._running: set[_Segment] = set()
        self._waiting: list[_Segment] = []
        self._failed: list[tuple[_Segment, CacheError]] = []
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether any runs or waits."""
        return bool(self._running or self._waiting)

    @property
    def running(self) -> int:
        """How many are requested now."""
        return len(self._running)

    def covers(self, offset: int) -> bool:
        """Whether this byte is on its way."""
        return any(one.start <= offset < one.stop for one in (*self._running, *self._waiting))

    def next_start(self, offset: int) -> int | None:
        """Where the next segment begins behind ``offset``."""
        starts = [one.start for one in (*self._running, *self._waiting) if one.start > offset]
        return min(starts, default=None)

    def request(self, offset: int, stop: int) -> None:
        """
        A reader waits for the bytes from ``offset`` on, up to ``stop`` at the most.

        :raises CacheError: they could not be had when they were asked for.
        """
        if self.ranges_ignored:
            return
        for failed in self._failed:
            if failed[0].start <= offset < failed[0].stop:
                self._failed.remove(failed)
                raise failed[1]
        if self._closed or self.covers(offset):
            return
        begin, end = self._download.planner.held.gap(offset)
        start = max(begin, offset - offset % _ALIGNED)
        stop = min(
            bound for bound in (stop, start + LONGEST, end, self.next_start(offset)) if bound is not None
        )
        self._waiting.append(_Segment(start, stop))
        self._start_more()

    def close(self) -> None:
        """Start no more."""
        self._closed = True
        self._waiting.clear()
        self._download.changed.notify_all()

    def _start_more(self) -> None:
        while self._waiting and len(self._running) < MOST_AT_ONCE:
            segment = self._waiting.pop(0)
            self._running.add(segment)
            in_background(self._run(segment))

    async def _run(self, segment: _Segment) -> None:
        try:
            await self._fill(segment)
        except CacheError as error:
            self._fail(segment, error)
        except Exception:  # noqa: BLE001  # a reader must not request the same again and again
            key = self._download.key
            self._log.failure("segment failed", origin=key.origin, digest=key.digest, offset=segment.start)
            self._fail(segment, cache_failed())
        finally:
            self._running.discard(segment)
            try:
                self._start_more()
            finally:
                self._download.segment_ended()

    def _fail(self, segment: _Segment, error: CacheError) -> None:
        self._failed = [*self._failed[-15:], (segment, error)]
        if isinstance(error, RangesIgnored):
            self.ranges_ignored = True
        elif isinstance(error, DiskFailed):
            self._download.disk_error = error

    async def _fill(self, segment: _Segment) -> None:
        held, outage = self._download.planner.held, Outage()
        tried: set[str] = set()
        error: CacheError = UpstreamUnavailable("nobody is left in whose name upstream can be asked")
        while (offset := held.reach(segment.start)) < segment.stop:
            untried = [
                (host, subscriber)
                for host, subscriber in self._download.sources().items()
                if host not in tried
            ]
            if not untried:
                await self._wait_for_upstream(outage, error)
                tried.clear()
                continue
            host, subscriber = untried[0]
            try:
                await self._receive(host, subscriber, offset, segment.stop)
            except OriginRefused as refusal:
                error = refusal
                tried.add(host)
            except RangesIgnored:
                raise
            except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken, LoopDetected) as broken:
                error = broken
                if held.reach(segment.start) == offset:
                    tried.add(host)
                else:
                    outage.ended()
                outage.began(self._download.context.clock.seconds())

    async def _wait_for_upstream(self, outage: Outage, error: CacheError) -> None:
        """
        Wait before the hosts are asked again.

        :raises CacheError: it is no use, or has taken too long already, or nobody needs it any more.
        """
        download, clock = self._download, self._download.context.clock
        retry_after = repeatable_after(error)
        pause = None
        if retry_after is not None:
            pause = outage.next_pause(clock.seconds(), download.options.retry_for, retry_after)
        if pause is None:
            raise error
        until = clock.seconds() + pause
        while (left := until - clock.seconds()) > 0:
            if self._closed or not download.sources():
                raise error
            await wait_at_most(clock, left, download.changed)

    async def _receive(self, host: str, subscriber: Subscriber, offset: int, stop: int) -> None:
        registry = subscriber.request.registry
        self._download.trace(subscriber.request_id)
        upstream_request = subscriber.request.upstream_request("GET", range_=f"bytes={offset}-{stop - 1}")
        answer = await registry.ask_host(host, evolve(upstream_request, parallel=True))
        try:
            self._check(answer, host, offset)
        except BaseException:
            answer.abandon()
            raise
        self._download.provenance.served_by = host
        await self._download.reserve(answer)
        try:
            await self._download.download_file.receive(
                answer, offset, offset, stop, partial(self._download.arrived, host)
            )
        except (UpstreamBroken, UpstreamTimeout) as error:
            subscriber.request.host_failed(host, error.message)
            raise

    def _check(self, answer: Answer, host: str, offset: int) -> None:
        opening = parse_body_start(answer.status, answer.length, answer.header("Content-Range"), offset)
        if opening.start != offset:
            raise RangesIgnored(f"{host} does not answer ranges")
        if not self._download.planner.opened(host, opening.total):
            raise UpstreamBroken(f"{host} says another size than others did")
