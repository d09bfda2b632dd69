"""
The id of a request: in the log, at the next cache, and never at an origin.

The whole cache is here, from a client's connection to upstreams in memory.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

from twisted.logger import globalLogPublisher

from contentcache.config.model import Log, Upstream
from contentcache.core.live import Live
from contentcache.server.access_log import AccessLogEntry
from contentcache.telemetry.logging import log_observer
from tests.delivery.in_memory import LARGE, ORIGIN, REPOSITORY, InMemoryCache, InMemoryCacheTestCase
from tests.registry.harness import Client, Reply, request

HOP = "https://hop.example"
_VIA_HOP = Upstream(ORIGIN, (HOP,), names=frozenset({"one.example"}), issuer=ORIGIN)


class RequestIdTests(InMemoryCacheTestCase):
    """Clients of a cache, of which some name their requests."""

    def setUp(self) -> None:
        super().setUp()
        self.lines: list[AccessLogEntry] = []
        self.log = StringIO()
        observers: Any = self._collect, log_observer(self.log, Live(Log(level="info")))
        for observer in observers:
            globalLogPublisher.addObserver(observer)
            self.addCleanup(globalLogPublisher.removeObserver, observer)

    def _collect(self, event: Any) -> None:
        self.lines += event.get("accesses") or [each for each in (event.get("access"),) if each]

    def pull(self, cache: InMemoryCache, path: str, *fields: str) -> Reply:
        """One request on a connection of its own."""
        client = Client(cache.services.factory)
        reply = client.ask(path, *fields)
        client.leave()
        cache.clock.advance(0)
        return reply

    def sent_ids(self, cache: InMemoryCache) -> list[str | None]:
        """The ids of all requests that the upstream got."""
        return [asked.headers.get("x-request-id") for asked in cache.origin.requests]

    def test_next_cache(self) -> None:
        """The next cache gets the id of each request, of a tag, of a blob and of a list; so all log the same."""
        cache = self.make_cache(_VIA_HOP)
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        for path in (f"/v2/{REPOSITORY}/blobs/{digest}", f"/v2/{REPOSITORY}/manifests/1", "/v2/_catalog"):
            cache.origin.requests.clear()
            self.pull(cache, path, "X-Request-Id: build-7")
            self.assertEqual(set(self.sent_ids(cache)), {"build-7"}, path)
            self.assertEqual((self.lines[-1].request_id, self.lines[-1].served_by), ("build-7", HOP), path)
        cache.origin.requests.clear()
        reply = self.pull(cache, f"/v2/{REPOSITORY}/tags/list")
        self.assertEqual(self.sent_ids(cache), [reply.header("X-Request-Id")])

    def test_origin(self) -> None:
        """An origin gets no id and no trace, neither one of the client's nor one that was made here."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        fields = (
            "X-Request-Id: build-7",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        for path in (f"/v2/{REPOSITORY}/blobs/{digest}", f"/v2/{REPOSITORY}/tags/list", "/v2/"):
            self.pull(cache, path, *fields)
        self.assertEqual(set(self.sent_ids(cache)), {None})
        self.assertNotIn("traceparent", {name for asked in cache.origin.requests for name in asked.headers})

    def test_learned_cache(self) -> None:
        """An upstream that is called the origin, and answers as a Content Cache, gets the id from then on."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.registries[0].behind.learn(ORIGIN, ["1.1 contentcache-next"])
        self.pull(cache, f"/v2/{REPOSITORY}/blobs/{digest}", "X-Request-Id: build-7")
        self.assertEqual(set(self.sent_ids(cache)), {"build-7"})

    def test_shared_download(self) -> None:
        """Each client of a download has its own id; the download's ties their lines, and names the host."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", at=1000, times=1)
        clients = [Client(cache.services.factory) for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(request(f"/v2/{REPOSITORY}/blobs/{digest}", f"X-Request-Id: client-{number}"))
        cache.origin.release()
        cache.later(1)
        self.assertEqual(
            {line.request_id for line in self.lines}, {f"client-{number}" for number in range(3)}
        )
        (download,) = {line.download for line in self.lines}
        self.assertRegex(download, "^[0-9a-f]{16}$")
        self.assertEqual({line.served_by for line in self.lines}, {ORIGIN})
        self.pull(cache, f"/v2/{REPOSITORY}/blobs/{digest}")
        hit = self.lines[-1]
        self.assertEqual((hit.cache, hit.served_by, hit.download), ("hit", "-", "-"))

    def test_failed_before_head(self) -> None:
        """A download fails before its clients have a head: their lines have its id all the same, and the host."""
        for status in (500, 404):
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, LARGE)
            cache.origin.misbehave("status", status=status)
            cache.origin.misbehave("stall", at=-1, times=1)
            self.lines.clear()
            clients = [Client(cache.services.factory) for _ in range(3)]
            for number, client in enumerate(clients):
                client.send(request(f"/v2/{REPOSITORY}/blobs/{digest}", f"X-Request-Id: client-{number}"))
            clients[0].leave()
            self.assertEqual([(line.status, line.served_by) for line in self.lines], [(499, "-")])
            cache.origin.release()
            cache.later(60)
            self.assertEqual(len(self.lines), 3)
            (download,) = {line.download for line in self.lines}
            self.assertRegex(download, "^[0-9a-f]{16}$")
            self.assertEqual({line.served_by for line in self.lines[1:]}, {ORIGIN})

    def test_failover(self) -> None:
        """The line names the host that has sent the last bytes."""
        urls = ("https://one.example", "https://two.example")
        cache = self.make_cache(Upstream(urls[0], urls))
        for origin in cache.origins.values():
            digest = origin.put_blob(REPOSITORY, LARGE)
        cache.origins["one.example"].misbehave("reset", at=1000)
        self.assertEqual(self.pull(cache, f"/v2/{REPOSITORY}/blobs/{digest}").body, LARGE)
        self.assertEqual(self.lines[-1].served_by, urls[1])
        self.assertRegex(
            self.log.getvalue(), r"upstream unhealthy upstream=https://one\.example .* request_id="
        )

    def test_failed_download(self) -> None:
        """The line about a failed download names the content, and has the ids of the download and of a client."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("wrong")
        self.pull(cache, f"/v2/{REPOSITORY}/blobs/{digest}", "X-Request-Id: build-7")
        cache.later(60)
        (line,) = (line for line in self.log.getvalue().splitlines() if " download failed " in line)
        self.assertIn(f" repository={REPOSITORY} digest={digest} ", line)
        self.assertTrue(line.endswith(f" request_id=build-7 download={self.lines[-1].download}"), line)

    def test_lines(self) -> None:
        """What is logged while a request is answered has its id."""
        cache = self.make_cache()
        cache.wire.down.add("one.example")
        self.pull(cache, f"/v2/{REPOSITORY}/manifests/1", "X-Request-Id: build-7")
        (line,) = (line for line in self.log.getvalue().splitlines() if "upstream unhealthy" in line)
        self.assertIn(f" repository={REPOSITORY} tag=1 digest=- ", line)
        self.assertTrue(line.endswith(" request_id=build-7"), line)
