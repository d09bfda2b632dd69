"""A disk that gives back other bytes than it took, under a running daemon."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contentcache.storage.index_sqlite import SqliteIndex
from tests.real.cache import ContentCache
from tests.real.programs import place, status_of, until
from tests.real.unruly import Unruly, blob_url
from tests.storage.suites import numbered, record

CONTENT = os.urandom(1 << 20)


class BadDiskTests(SynchronousTestCase):
    """The index and the blobs, spoilt while they are in use."""

    def setUp(self) -> None:
        self.origin = Unruly(self, CONTENT)
        (self.digest,) = self.origin.digests

    def pull(self, cache: ContentCache) -> tuple[bytes, str]:
        """The blob, and its cache status."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(blob_url(cache.url, self.digest), timeout=30) as answer:
            return answer.read(), answer.headers["Cache-Status"]

    def test_blob(self) -> None:
        """With ``scrub`` a blob that was changed on the disk goes, is told of, and is fetched again."""
        cache = ContentCache(self, self.origin.url, options={"scrub": "1s"})
        self.assertEqual(self.pull(cache)[0], CONTENT)
        until(lambda: cache.metric("contentcache_store_verified_total") > 0, "it is looked at")
        self.assertEqual(cache.metric("contentcache_store_corrupt_total"), 0)
        with open(cache.blob_file(self.digest), "r+b") as file:
            file.seek(5000)
            file.write(bytes(100))
        until(lambda: not cache.stored(self.digest), "it is gone")
        until(lambda: cache.metric("contentcache_store_corrupt_total") >= 1, "the failure counted")
        cache.wait_for_log(f"stored blob corrupt, deleted digest={self.digest} ")
        content, status = self.pull(cache)
        self.assertEqual((content, status), (CONTENT, "contentcache; fwd=miss; stored"))
        cache.stop()
        self.assertNotIn("Traceback", cache.log())

    def test_index(self) -> None:
        """
        An index that is spoilt under the daemon is made anew by it: clients notice nothing, and what is in
        the store serves again once it is hashed.
        """
        root = place(self) / "root"
        path = root / "contentcache" / "index.sqlite3"
        index = SqliteIndex(str(path))
        index.record(record(number, float(number)) for number in range(20_000))
        index.rebuild_done()
        index.close()
        cache = ContentCache(self, self.origin.url, root=root)
        self.assertEqual(self.pull(cache)[0], CONTENT)
        cache.restart()  # so that little of the file is in its memory
        size = path.stat().st_size
        with open(path, "r+b") as file:
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        wal = Path(f"{path}-wal")
        if wal.exists():
            os.truncate(wal, 0)
        content, _status = self.pull(cache)
        self.assertEqual(content, CONTENT)
        for number in range(0, 20_000, 1000):  # far apart in the file
            self.assertEqual(status_of(blob_url(cache.url, str(numbered(number)))), 404)
        until(lambda: "index rebuilt blobs=1 " in cache.log(), "the store is listed")
        content, status = self.pull(cache)
        self.assertEqual(content, CONTENT)
        self.assertTrue(status.startswith("contentcache; hit"), status)
        self.assertEqual(cache.log().count("index.sqlite3 is damaged"), 1)
        self.assertTrue(path.with_name("index.sqlite3.damaged-1").exists())
        cache.stop()
        self.assertNotIn("Traceback", cache.log())
