"""The metrics of a daemon that has served, by Prometheus' own tools."""

from __future__ import annotations

import json
import socket
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.images import Image, push_image, random_bytes
from tests.real.origin import Origin
from tests.real.programs import needs, settled, until
from tests.real.prometheus import check_metrics
from tests.real.unruly import REPOSITORY, Unruly, ask, read_to_end
from tests.real.worker_processes import all_serve

_LAYER = 3 << 20


@needs("docker-registry", "promtool")
class MetricsTests(SynchronousTestCase):
    """A cache with one process."""

    workers = 1

    def begin(self) -> tuple[ContentCache, Image]:
        """A cache, and an image of its origin."""
        origin = Origin(self)
        image = push_image(origin, "org/app", layers=(_LAYER,))
        cache = ContentCache(self, origin.url, options={"maxsize": "1GB"})
        if self.workers > 1:
            all_serve(cache)
        return cache, image

    def pull(self, cache: ContentCache, image: Image) -> None:
        """All of an image, by its tag."""
        paths = [f"manifests/{image.tag}", *(f"blobs/{each.digest}" for each in image.blobs())]
        for path in paths:
            self.assertEqual(ask(cache.port, f"/v2/{image.name}/{path}", "Accept: */*").status, 200)
        cache.wait_stored(image.digest, *(each.digest for each in image.blobs()))
        # A request that finds its download still running counts as coalesced.
        self.assertEqual(settled(lambda: cache.metric("contentcache_downloads"), 0), 0)

    def test_hits_and_misses(self) -> None:
        """
        What is counted of a cold pull and of warm ones is what happened, by our names and by distribution's, and
        promtool has nothing to say.
        """
        cache, image = self.begin()
        check_metrics(self, cache)
        before = cache.metrics()
        for _ in range(3):
            self.pull(cache, image)
        size = sum(each.size for each in (image.manifest, *image.blobs()))
        self.assertEqual(settled(lambda: cache.metric("contentcache_received_bytes_total"), size), size)
        self.assertEqual(settled(lambda: cache.metric("contentcache_sent_bytes_total"), 3 * size), 3 * size)
        counted = settled(lambda: self.aliases(cache), self.expected(image))
        self.assertEqual(counted, self.expected(image))
        store = {"contentcache_store_blobs": 3.0, "contentcache_store_bytes": float(size)}
        self.assertEqual(settled(lambda: {name: cache.metric(name) for name in store}, store), store)
        after = cache.metrics()
        self.assertEqual(set(before) - set(after), set(), "a series has gone")
        self.assertEqual(after["contentcache_store_limit_bytes"], 1e9)
        self.assertGreater(after["contentcache_store_free_bytes"], 0)
        self.assertGreater(after["process_resident_memory_bytes"], 0)
        for histogram in ("http_request_duration_seconds", "http_time_to_first_byte_seconds"):
            name = f'contentcache_{histogram}_sum{{kind="blobs"}}'
            count = name.replace("_sum", "_count")
            self.assertEqual(settled(lambda count=count: cache.metrics()[count], 6), 6)  # type: ignore[misc]
            self.assertGreater(cache.metrics()[name], 0, "times of the fast path are measured")
        checks = json.loads(cache.health_text())["checks"]
        (host,) = (
            host for name, check in checks.items() if name.startswith("upstream") for host in check["hosts"]
        )
        self.assertEqual((host["healthy"], host["reason"]), (True, None))
        self.assertRegex(host["last_success"], r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
        check_metrics(self, cache)

    @staticmethod
    def aliases(cache: ContentCache) -> dict[str, float]:
        """What distribution's names say."""
        return {name: value for name, value in cache.metrics().items() if name.startswith("registry_proxy")}

    @staticmethod
    def expected(image: Image) -> dict[str, float]:
        """The same of three pulls of a whole image."""
        blobs = sum(each.size for each in image.blobs())
        values = {
            "requests": (6, 3),
            "hits": (4, 2),
            "misses": (2, 1),
            "pulled_bytes": (blobs, image.manifest.size),
            "pushed_bytes": (3 * blobs, 3 * image.manifest.size),
        }
        return {
            f'registry_proxy_{name}_total{{type="{kind}"}}': float(value)
            for name, pair in values.items()
            for kind, value in zip(("blob", "manifest"), pair, strict=True)
        }


class TwoWorkersTests(MetricsTests):
    """A cache with two."""

    workers = 2


class InFlightTests(SynchronousTestCase):
    """What is not there yet."""

    def test_download(self) -> None:
        """A running download is seen, with its bytes and its request, and is gone when it has ended."""
        size = 4 << 20
        upstream = Unruly(self, random_bytes(size, "in flight"))
        (digest,) = upstream.digests
        upstream.misbehave("stall", digest, at=size // 2, times=1)
        cache = ContentCache(self, upstream.url, workers=1)
        with socket.create_connection(("127.0.0.1", cache.port), timeout=60) as client:
            head = f"GET /v2/{REPOSITORY}/blobs/{digest} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode())
            until(lambda: cache.metric("contentcache_download_bytes") == size // 2, "a half of it")
            found = cache.metrics()
            self.assertEqual(found["contentcache_downloads"], 1)
            self.assertEqual(found["contentcache_download_connections"], 1)
            self.assertEqual(found["contentcache_download_queue"], 0)
            until(lambda: cache.metric("contentcache_partial_bytes") > 0, "a partial file")
            upstream.behave()
            self.assertEqual(len(read_to_end(client).body), size)
        for name in ("downloads", "download_bytes", "download_connections", "partial_bytes"):
            self.assertEqual(settled(partial(cache.metric, f"contentcache_{name}"), 0), 0, name)
