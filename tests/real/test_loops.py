"""Caches that name each other, and are asked at the same moment."""

from __future__ import annotations

import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache


class LoopTests(SynchronousTestCase):
    """Nobody waits for a timeout, which would be 504: each request is 508."""

    workers = 1

    def ring(self, size: int) -> list[ContentCache]:
        """So many caches, each the upstream of the one before."""
        caches = [
            ContentCache(self, "http://127.0.0.1:1", options={"stalltimeout": "20s"}) for _ in range(size)
        ]
        for number, cache in enumerate(caches):
            cache._upstreams = [{"originhost": caches[(number + 1) % size].url}]
            cache.set_options()
            cache.restart()
        return caches

    def status(self, url: str, method: str = "GET") -> int:
        """The status that a client gets."""
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def ask(self, caches: list[ContentCache]) -> None:
        """Ask all caches for the same at once, all kinds of requests, several times each."""
        digest = "sha256:" + "0" * 64
        for round_ in range(3):
            name = f"/v2/org/app{round_}"
            for path in (
                f"{name}/blobs/{digest}",
                f"{name}/manifests/{digest}",
                f"{name}/manifests/1",
                f"{name}/tags/list",
                f"{name}/referrers/{digest}",
                "/v2/_catalog",
                "/.well-known/contentcache/jwks.json",
            ):
                urls = [cache.url + path for cache in caches for _ in range(3)]
                with ThreadPoolExecutor(len(urls)) as pool:
                    found = set(pool.map(self.status, urls))
                self.assertEqual(found, {508}, path)
        for cache in caches:
            self.assertNotIn("Traceback", cache.log())

    def test_two(self) -> None:
        """Two caches, each the upstream of the other."""
        self.ask(self.ring(2))

    def test_three(self) -> None:
        """Three caches in a ring."""
        self.ask(self.ring(3))


class LoopOfWorkersTests(LoopTests):
    """The same with two workers each, of which one has the download and others its clients."""

    workers = 2
