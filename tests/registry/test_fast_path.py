"""
Tests for :mod:`contentcache.registry.fast_path`: with it and without it clients see the same, and may do the
same.

The whole cache is here, from a client's connection to a registry in memory, over a store on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from contentcache.app import assembly
from contentcache.config.model import Address, Http, Limits, Upstream
from contentcache.core.errors import OriginRefused
from contentcache.delivery.hot_blobs import LARGEST, HotBlob
from contentcache.server.access_log import AccessLog, AccessLogEntry
from contentcache.server.dispatcher import RequestDispatcher
from contentcache.server.factory import ServerFactory
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.interfaces import Link
from tests.delivery.in_memory import REPOSITORY, InMemoryCache
from tests.delivery.in_memory import InMemoryCacheTestCase as DeliveryTestCase
from tests.delivery.test_authorization import bearer_until
from tests.registry.harness import Client, Reply, request

CONTENT = b"0123456789" * 100
_ONE = Upstream("https://one.example", ("https://one.example",), deny=("secret/*",))
_TWO = Upstream("https://two.example", ("https://two.example",), names=frozenset({"two.example"}))


class CacheTestCase(DeliveryTestCase):
    """Has a whole cache, and a blob in it that Ann has pulled. ``fast`` says whether it has the fast path."""

    fast = False
    upstreams: tuple[Upstream, ...] = (_ONE, _TWO)

    def setUp(self) -> None:
        # Wherever the tests run: some filesystems cannot tell what is in memory.
        self.patch(HotBlob, "_peek", _peek)
        self.lines: list[AccessLogEntry] = []
        self.patch(AccessLog, "_log", _Pen(self.lines))
        self.begun = 0
        dispatch = RequestDispatcher.dispatch

        def count(dispatcher: RequestDispatcher[Any], given: Any) -> None:
            self.begun += 1
            dispatch(dispatcher, given)

        self.patch(RequestDispatcher, "dispatch", count)
        self.build()

    def build(
        self, *, limits: Limits | None = None, prefix: str = "/", extra: Any = None, **options: Any
    ) -> None:
        """A cache, and its blob."""
        self.root = Path(self.mktemp())
        store = FilesystemStore(str(self.root))
        store.prepare()
        http = Http(Address("", 5000), prefix=prefix, headers=extra or {})
        given: Any = {"auth": "basic", "store": store, "fastpath": self.fast, "http": http, **options}
        if limits is not None:
            given["limits"] = limits
        cache = self.there = self.make_cache(*self.upstreams, **given)
        self.addCleanup(cache.blob_service.hot_blobs.close)
        for origin in cache.origins.values():
            self.ann = origin.let("ann", "1", REPOSITORY, "org/other", "secret/app")
            self.bob = origin.let("bob", "2", "org/other")
            self.digest = origin.put_blob(REPOSITORY, CONTENT)
        self.prefix = prefix.rstrip("/")
        self.factory = self.serve(cache)
        self.path = f"{self.prefix}/v2/{REPOSITORY}/blobs/{self.digest}"
        # Once to fetch it, and once to know it.
        for _ in range(2):
            self.assertEqual(self.ask(self.ann).body, CONTENT)
        self.forget()

    def serve(self, cache: InMemoryCache) -> ServerFactory:
        """The server of the cache, whose requests beyond the fast path are counted."""
        return cache.services.factory

    def forget(self) -> None:
        """Look at what comes from now on."""
        self.there.clock.advance(0)
        for origin in self.there.origins.values():
            origin.requests.clear()
        self.lines.clear()
        self.begun = 0

    def ask(
        self, who: str | None = None, *fields: str, path: str | None = None, method: str = "GET"
    ) -> Reply:
        """One request on a connection of its own."""
        client = Client(self.factory)
        told = (f"Authorization: {who}",) if who is not None else ()
        reply = client.ask(path or self.path, *told, *fields, method=method)
        client.leave()
        self.there.clock.advance(0)
        return reply

    def assert_fast(self, count: int = 1) -> None:
        """That many requests were answered by the fast path, where there is one, and none upstream."""
        self.assertEqual(self.begun, 0 if self.fast else count)
        self.assertEqual(len(self.lines), count)
        self.assert_asked()
        self.forget()

    def assert_asked(self, *methods: str) -> None:
        """The origin was asked so."""
        asked = [each.method for origin in self.there.origins.values() for each in origin.requests]
        self.assertEqual(asked, list(methods))

    def blob_file(self) -> Path:
        """Where it lies."""
        (path,) = self.root.rglob(f"{self.digest.hex}/data")
        return path


def _peek(kept: HotBlob, buffer: bytearray, offset: int) -> bool:
    return os.preadv(kept.descriptor, [buffer], offset) == len(buffer)


class _Pen:
    def __init__(self, lines: list[AccessLogEntry]) -> None:
        self._lines = lines

    def info(
        self, _format: str, access: AccessLogEntry | None = None, accesses: tuple[AccessLogEntry, ...] = ()
    ) -> None:
        """Lines."""
        self._lines += [access] if access is not None else accesses


class WithoutFastPathTests(CacheTestCase):
    """Without the fast path."""

    def test_get(self) -> None:
        """A blob comes with the head that the API gives it."""
        reply = self.ask(self.ann)
        self.assertEqual((reply.status, reply.body), (200, CONTENT))
        told = {name.decode(): value[0].decode() for name, value in reply.headers.getAllRawHeaders()}
        self.assertIn("GMT", told.pop("Date"))
        self.assertRegex(told.pop("X-Request-Id"), "^[0-9a-f]{16}$")
        self.assertEqual(
            told,
            {
                "Docker-Distribution-Api-Version": "registry/2.0",
                "X-Content-Type-Options": "nosniff",
                "Content-Type": "application/octet-stream",
                "Docker-Content-Digest": str(self.digest),
                "ETag": f'"{self.digest}"',
                "Cache-Control": "private, max-age=31536000, immutable",
                "Cache-Status": "contentcache; hit",
                "Accept-Ranges": "bytes",
                "Content-Length": str(len(CONTENT)),
            },
        )
        self.assert_fast()

    def test_head(self) -> None:
        """``HEAD`` gets the head alone."""
        whole = self.ask(self.ann)
        head = self.ask(self.ann, method="HEAD")
        self.assertEqual((head.status, head.body), (200, b""))
        told = [dict(reply.headers.getAllRawHeaders()) for reply in (whole, head)]
        self.assertEqual(len({fields.pop(b"X-Request-Id")[0] for fields in told}), 2)
        self.assertEqual(told[0], told[1])
        self.assert_fast(2)

    def test_logged(self) -> None:
        """The record has the user and the id that the response names."""
        reply = self.ask(self.ann)
        (line,) = self.lines
        self.assertEqual((line.user, line.request_id), ("ann", reply.header("X-Request-Id")))
        self.assertEqual((line.served_by, line.download), ("-", "-"))

    def test_kept_alive(self) -> None:
        """One after the other on one connection, with one credential and another, and none."""
        client = Client(self.factory)
        for _ in range(3):
            self.assertEqual(client.ask(self.path, f"Authorization: {self.ann}").body, CONTENT)
        self.there.clock.advance(0)
        self.assert_fast(3)
        for who in (f"Authorization: {self.bob}", "Accept: */*"):
            reply = client.ask(self.path, who)
            self.assertIn(reply.status, {401, 403, 404})
        self.assertEqual(client.ask(self.path, f"Authorization: {self.ann}").body, CONTENT)

    def test_pipelined(self) -> None:
        """Several in one piece are answered in their order, also where one of them is not simple."""
        mine = f"Authorization: {self.ann}"
        part = request(self.path, mine, "Range: bytes=0-3")
        one = request(self.path, mine)
        data = one + one + part + one + request("/") + request(self.path, mine, method="HEAD") + one
        found = Client(self.factory).send(data).replies("GET", "GET", "GET", "GET", "GET", "HEAD", "GET")
        self.assertEqual([reply.status for reply in found], [200, 200, 206, 200, 200, 200, 200])
        bodies = [len(reply.body) for reply in found]
        self.assertEqual(bodies, [1000, 1000, 4, 1000, 0, 0, 1000])

    def test_in_pieces(self) -> None:
        """Wherever a head is cut in two, it is answered once, and so is the one behind it."""
        data = request(self.path, f"Authorization: {self.ann}") * 2
        for cut in range(1, len(data), 3):
            client = Client(self.factory)
            client.send(data[:cut])
            client.send(data[cut:])
            self.assertEqual([reply.body for reply in client.replies()], [CONTENT, CONTENT], cut)
            client.leave()

    def test_empty_line_before(self) -> None:
        """An empty line that comes before a request in two pieces starts no deadline that outlives the request."""
        self.build(limits=Limits(headertime=5.0, headsperaddress=1))
        client = Client(self.factory)
        client.send("\r")
        client.send("\n")
        reply = client.ask(self.path, f"Authorization: {self.ann}")
        self.assertEqual((reply.status, reply.body), (200, CONTENT))
        self.there.clock.advance(6)
        self.assertFalse(client.ended)
        other = Client(self.factory).send("GET / HT")
        self.assertFalse(other.ended)

    def test_not_simple(self) -> None:
        """Ranges, conditions, framings, doubtful heads: the answers are those that they always have."""
        mine = f"Authorization: {self.ann}"
        for field, status in {
            "Range: bytes=1-2": 206,
            "range: bytes=5000-": 416,
            f'If-None-Match: "{self.digest}"': 304,
            'If-Match: "x"': 412,
            "Content-Length: 0": 200,
            "Content-Length: 5": 400,
            "Transfer-Encoding: chunked": 400,
            "Expect: x": 417,
            "Host: another": 400,
            f"Authorization: {self.bob}": 400,
            "Via: 1.1 contentcache-me": 508,
            "Unknown: x": 200,
            "Accept : x": 400,
            " folded: x": 400,
            "Connection: close": 200,
        }.items():
            client = Client(self.factory).send(request(self.path, mine, field))
            (reply,) = client.replies()
            self.assertEqual(reply.status, status, field)
            self.assertEqual(client.ended, status in {400, 417} or "close" in field, field)
            self.assertEqual(reply.header("Connection") == "close", client.ended, field)

    def test_other_targets(self) -> None:
        """What is denied, unknown, absent, escaped or asked elsewhere is what it always was."""
        name = str(self.digest)
        for target, status in {
            f"/v2/{REPOSITORY}/blobs/{name}?ns=unknown.example": 404,
            f"/v2/{REPOSITORY}/blobs/{name.upper()}": 400,
            f"/v2/{REPOSITORY}/blobs/{name[:-1]}": 400,
            f"/v2//{REPOSITORY}/blobs/{name}": 400,
            f"/v2/secret/app/blobs/{name}": 403,
            f"http://cache.example/v2/{REPOSITORY}/blobs/{name}": 200,
            f"/v2/{REPOSITORY}/blobs/{name}?x=y": 200,
            f"/v2/{REPOSITORY}/blobs/sha256%3A{self.digest.hex}": 200,
        }.items():
            self.assertEqual(self.ask(self.ann, path=target).status, status, target)

    def test_namespace(self) -> None:
        """``?ns=`` means another origin, which has to say yes itself."""
        path = f"{self.path}?ns=two.example"
        self.assertEqual(self.ask(self.ann, path=path).body, CONTENT)
        self.assert_asked("HEAD", "GET")  # that is its proof that it has the blob
        self.forget()
        self.assertEqual(self.ask(self.ann, path=path).body, CONTENT)
        self.assert_fast()

    def test_proved_by_each_origin(self) -> None:
        """
        A blob that is open in memory is served in the name of an origin that has proved to have it, only:
        neither a grant and a link of another origin nor what is told of the blob do without.
        """
        two = self.there.origins["two.example"]
        two.misbehave("status", method="GET", status=404)
        path = f"{self.path}?ns=two.example"
        for method in ("GET", "HEAD", "GET"):
            self.assertEqual(self.ask(self.ann, path=path, method=method).status, 404)
        self.forget()
        self.assertEqual(self.ask(self.ann).body, CONTENT)
        self.assert_fast()

    def test_prefix_and_extra_headers(self) -> None:
        """The API below a prefix; headers of the operator's go out with every answer."""
        self.build(prefix="/below/", extra={"X-Content-Type-Options": ("nosniff",)})
        reply = self.ask(self.ann)
        self.assertEqual((reply.body, reply.header("X-Content-Type-Options")), (CONTENT, "nosniff"))
        self.assert_fast()
        self.assertEqual(self.ask(self.ann, path=self.path.removeprefix("/below")).status, 404)

    def test_noted(self) -> None:
        """Access log and metrics have what they always have."""
        before = self.there.meter.text()
        self.assertNotIn(b'method="HEAD"', before)
        fields = ("User-Agent: docker/27", "Referer: http://a.example/?token=1")
        self.ask(self.ann, *fields)
        self.ask(self.ann, *fields, method="HEAD")
        get, head = self.lines
        self.assertEqual((get.method, get.uri, get.status, get.sent), ("GET", self.path, 200, 1000))
        self.assertEqual((get.address, get.agent, get.cache), ("192.0.2.1", "docker/27", "hit"))
        self.assertEqual((get.referer, get.upstream), ("http://a.example/?token=***", "https://one.example"))
        self.assertEqual((head.method, head.sent, head.protocol), ("HEAD", 0, "HTTP/1.1"))
        after = self.there.meter.text().decode()
        for line in (
            'contentcache_http_requests_total{code="200",kind="blobs",method="GET"} 3.0',
            'contentcache_http_requests_total{code="200",kind="blobs",method="HEAD"} 1.0',
            'contentcache_pulls_total{cache="hit",kind="blobs",registry="one.example"} 2.0',
            'contentcache_sent_bytes_total{kind="blobs",registry="one.example"} 3000.0',
            'contentcache_http_request_duration_seconds_count{kind="blobs"} 4.0',
        ):
            self.assertIn(line, after)

    def test_pulls(self) -> None:
        """A pull is a GET whose client gets the content, all or a part, or has it: no refusal, and no HEAD."""
        etag = f'"{self.digest}"'
        pulls = 'contentcache_pulls_total{cache="hit",kind="blobs",registry="one.example"}'
        requests = 'contentcache_http_requests_total{code="416",kind="blobs",method="GET"}'
        for counted, status, method, *fields in (
            (2, 200, "GET"),
            (3, 206, "GET", "Range: bytes=0-1"),
            (4, 206, "GET", "Range: bytes=0-1,5-6"),
            (5, 304, "GET", f"If-None-Match: {etag}"),
            (6, 304, "GET", f"If-None-Match: {etag}", "Range: bytes=5000-"),
            (6, 304, "HEAD", f"If-None-Match: {etag}"),
            (6, 200, "HEAD"),
            (6, 416, "GET", "Range: bytes=5000-"),
            (6, 412, "GET", 'If-Match: "x"'),
        ):
            self.assertEqual(self.ask(self.ann, *fields, method=method).status, status, fields)
            self.there.clock.advance(0)
            text = self.there.meter.text().decode()
            self.assertIn(f"{pulls} {counted}.0\n", text, (status, fields))
        self.assertIn(f"{requests} 1.0\n", text)
        self.assertIn('registry_proxy_hits_total{type="blob"} 6.0\n', text)

    def test_pull_affirmed(self) -> None:
        """Of a content that is not stored, and that the client has, nothing is downloaded."""
        cold = self.there.origin.put_blob(REPOSITORY, b"cold")
        path = f"/v2/{REPOSITORY}/blobs/{cold}"
        reply = self.ask(self.ann, f'If-None-Match: "{cold}"', path=path)
        self.assertEqual((reply.status, self.there.origin.count("GET", path)), (304, 0))
        told = 'contentcache_pulls_total{cache="affirmed",kind="blobs",registry="one.example"} 1.0\n'
        self.assertIn(told, self.there.meter.text().decode())

    def test_last_pull(self) -> None:
        """A pull counts for the blob's age."""
        self.result(self.there.blob_service.flush())
        self.there.later(1000)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assertTrue(self.there.blob_service.in_use(self.digest))
        self.result(self.there.blob_service.flush())
        record = self.there.index.blob(self.digest)
        assert record is not None
        self.assertEqual(record.pulled, self.there.wall())

    # Who may.

    def test_strangers(self) -> None:
        """Another credential, none, or another repository opens nothing."""
        for who in (self.bob, None, self.ann.replace("MQ", "Mg").replace("OjE=", "OjI=")):
            self.assertIn(self.ask(who).status, {401, 403, 404}, who)
        elsewhere = f"/v2/org/other/blobs/{self.digest}"
        self.assertEqual(self.ask(self.ann, path=elsewhere).status, 404)
        self.assertEqual(self.ask(self.ann).status, 200)

    def test_grant_ends(self) -> None:
        """After authttl the origin is asked again; and when it says no, nobody gets a byte."""
        self.there.later(61)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assert_asked("HEAD")
        self.there.later(61)
        self.there.origin.let("ann", "1")
        self.assertIn(self.ask(self.ann).status, {401, 403, 404})
        self.assertIn(self.ask(self.ann).status, {401, 403, 404})

    def test_revoked(self) -> None:
        """A no to something else in the repository ends the grant at once."""
        asking = self.there.asking(self.digest, self.ann)
        now = self.there.authorization.request_time()
        self.there.authorization.record_refusal(asking.subject, 403, asked=now)
        self.forget()
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assert_asked("HEAD")

    def test_link_is_denied(self) -> None:
        """Once the origin has said that the blob is not there any more, nobody gets it."""
        asking = self.there.asking(self.digest, self.ann)
        now = self.there.authorization.request_time()
        self.result(self.there.authorization.record_denied(asking, OriginRefused(404, {}, b""), asked=now))
        self.forget()
        self.ask(self.ann)
        self.assert_asked("HEAD")

    def test_link_is_old(self) -> None:
        """After affirmttl the link is asked for anew."""
        self.build(affirmttl=100.0, authttl=1000.0)
        self.there.later(90)
        self.ask(self.ann)
        self.assert_fast()
        self.there.later(11)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assert_asked("HEAD")

    def test_clock_is_set_back(self) -> None:
        """A link from the future has an age that nobody knows."""
        self.there.adjusted = -7200.0
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assert_asked("HEAD")

    def test_nothing_is_remembered(self) -> None:
        """With ``authttl: 0`` each request is a question."""
        self.build(authttl=0.0)
        for _ in range(2):
            self.forget()
            self.assertEqual(self.ask(self.ann).status, 200)
            self.assert_asked("HEAD")

    def test_index_is_lost(self) -> None:
        """What only the index knew is not believed when it is made anew."""
        asking = self.there.asking(self.digest, self.ann)
        self.there.index.revoke(Link(asking.registry.upstream.origin, REPOSITORY, "blobs", self.digest))
        self.there.blob_service.lost_index()
        self.forget()
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assert_asked("HEAD")

    # What there is.

    def test_file_goes(self) -> None:
        """A blob whose file has gone is fetched again."""
        self.blob_file().unlink()
        self.assertEqual(self.ask(self.ann).body, CONTENT)
        self.assert_asked("GET")

    def test_file_changes(self) -> None:
        """So is one whose file is shorter than it was."""
        os.truncate(self.blob_file(), 999)
        self.assertEqual(self.ask(self.ann).body, CONTENT)
        self.assert_asked("GET")

    def test_nothing_stays_open(self) -> None:
        """A deleted file is let go of with the next batch of last pulls; so is what is evicted, at once."""
        hot_blobs = self.there.blob_service.hot_blobs
        self.assertEqual(len(hot_blobs), int(self.fast))
        self.blob_file().unlink()
        self.result(self.there.blob_service.flush())
        self.assertEqual(len(hot_blobs), 0)
        self.ask(self.ann)
        self.ask(self.ann)
        self.assertEqual(len(hot_blobs), int(self.fast))
        hot_blobs.drop(self.digest)
        self.assertEqual(len(hot_blobs), 0)

    def test_bounded(self) -> None:
        """Of many blobs those served last stay open."""
        self.patch(assembly, "_SMALL_BLOBS", 20)
        self.build()
        for number in range(30):
            digest = self.there.origin.put_blob(REPOSITORY, b"%d" % number)
            for _ in range(2):
                self.ask(self.ann, path=f"/v2/{REPOSITORY}/blobs/{digest}")
        self.assertEqual(len(self.there.blob_service.hot_blobs), 20 if self.fast else 0)

    def test_sizes(self) -> None:
        """Of whatever size a blob is, it comes whole."""
        for size in (0, 1, 4096, 4097, 16_384, 16_385, LARGEST, LARGEST + 1):
            content = os.urandom(size)
            path = f"/v2/{REPOSITORY}/blobs/{self.there.origin.put_blob(REPOSITORY, content)}"
            for _ in range(4):
                self.assertEqual(self.ask(self.ann, path=path).body, content)

    # Ends.

    def test_closing(self) -> None:
        """When the daemon is about to stop, the answer is the last one on its connection."""
        client = Client(self.factory)
        client.send(request(self.path, f"Authorization: {self.ann}")[:-2])
        self.factory.close_idle()
        (reply,) = client.send("\r\n").replies()
        self.assertEqual((reply.body, reply.header("Connection")), (CONTENT, "close"))
        self.assertTrue(client.ended)

    def test_head_too_large(self) -> None:
        """A head of more bytes than the operator allows is refused, simple or not."""
        self.build(limits=Limits(headers=300))
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assertEqual(self.ask(self.ann, "User-Agent: " + "x" * 200).status, 431)

    def test_too_many(self) -> None:
        """A connection too many is turned away, simple or not."""
        self.build(limits=Limits(connections=1))
        first = Client(self.factory)
        self.assertEqual(self.ask(self.ann).status, 503)
        first.channel.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.ask(self.ann).status, 200)

    def test_idle(self) -> None:
        """Requests keep a connection open, silence ends it."""
        client = Client(self.factory)
        for _ in range(3):
            self.there.clock.advance(100)
            client.send(request(self.path, f"Authorization: {self.ann}"))
        self.assertFalse(client.ended)
        self.there.clock.advance(121)
        self.assertTrue(client.ended)

    def test_client_takes_nothing(self) -> None:
        """While the client has yet to take what was sent, nothing more is acted on at once."""
        client = Client(self.factory)
        client.channel.pauseProducing()
        self.assertFalse(client.channel.is_idle)
        client.channel.resumeProducing()
        self.assertTrue(client.channel.is_idle)


class FastPathTests(WithoutFastPathTests):
    """With the fast path."""

    fast = True


class TokenTests(CacheTestCase):
    """Tokens."""

    fast = True

    def test_expired(self) -> None:
        """A grant ends with the token that it was given to."""
        self.there.origin.let("ann", "1")
        token = bearer_until(self.there.wall() + 30)
        asking = self.there.asking(self.digest, token)
        now = self.there.authorization.request_time()
        self.result(self.there.authorization.record_allowed(asking, None, asked=now))
        self.assertEqual(self.ask(token).status, 200)
        self.assert_fast()
        self.there.later(30)
        self.assertNotEqual(self.ask(token).status, 200)
