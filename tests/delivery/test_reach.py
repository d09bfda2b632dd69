"""How far readers may go while more comes in."""

from __future__ import annotations

from contentcache.core.spans import Spans
from contentcache.delivery.download import Download
from tests.delivery.in_memory import LARGE, REPOSITORY, InMemoryCacheTestCase


class ReachTests(InMemoryCacheTestCase):
    """Readers of a running fetch."""

    def test_in_large_steps(self) -> None:
        """
        A reader at the head of the fetch waits for news, though bytes have come: else 64 readers take a turn
        each for every few kilobytes.
        """
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=len(LARGE) // 2, times=1)
        client = cache.pull(digest)
        (download,) = cache.blob_service.downloads
        assert isinstance(download, Download)
        told = download.progress.announced
        held: Spans = download.planner.held
        held.add(told, told + 1000)
        self.assertLessEqual(download.readable_until(told), told)
        self.assertLessEqual(download.readable_until(told - 10), told)
        client.leave()
        cache.later(60)
