"""How responses ended, as the log and the metrics of the real daemon tell it, for real clients."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl, RunningCurl
from tests.real.images import random_bytes
from tests.real.programs import needs, run, settled, until
from tests.real.unruly import Unruly, ask, blob_url

_MIB = 1 << 20
_SIZE = 16 * _MIB
_HALF = _SIZE // 2


class ResponseEndTestCase(SynchronousTestCase):
    """A cache before an upstream with one large blob."""

    def setUp(self) -> None:
        """The upstream; a test begins the cache of its own."""
        self.blob = random_bytes(_SIZE, "response ends")
        self.upstream = Unruly(self, self.blob)
        (self.digest,) = self.upstream.digests

    def begin(self, *, stored: bool = False, **more: Any) -> None:
        """Start a cache, which has the blob if it is ``stored``."""
        self.cache = ContentCache(self, self.upstream.url, log={"level": "info"}, **more)
        self.curl = Curl(self)
        if stored:
            self.assertEqual(len(ask(self.cache.port, f"/v2/org/app/blobs/{self.digest}").body), _SIZE)
            self.cache.wait_stored(self.digest)
            self.cache.wait_for_log('cache="fwd=miss; stored"')

    def half_way(self, *more: str) -> RunningCurl:
        """A client that has half of the blob, of which the other half does not come."""
        self.upstream.misbehave("stall", self.digest, at=_HALF)
        running = self.curl.start(blob_url(self.cache.url, self.digest), *more)
        until(lambda: running.received() > _HALF // 2, "half of it")
        return running

    def slowly(self) -> RunningCurl:
        """A client that takes the stored blob slowly, and has some of it."""
        running = self.curl.start(blob_url(self.cache.url, self.digest), "--limit-rate", "500k")
        until(lambda: running.received() > 0, "the first bytes")
        return running

    def assert_ended(self, kind: str, *, cache: str, counted: bool = True) -> int:
        """The access line, the line that says why, and the metric; returns the bytes that were sent."""
        line = re.compile(
            rf'/blobs/{self.digest} HTTP/1.1" 200 (?P<sent>\d+) .* cache="{cache}" .* '
            rf"sent=(?P=sent) of={_SIZE} end={kind}\b"
        )
        sent = int(self.found(line)["sent"])
        self.assertLess(sent, _SIZE)
        level = "info" if kind == "client" else "warn"
        fields = rf"by={kind} client=127\.0\.0\.1 repository=org/app digest={self.digest} upstream=\S+"
        why = re.compile(rf" {level}  ?response incomplete {fields} .*offset={sent} .*reason=\S")
        self.found(why)
        if counted:
            self.assertEqual(
                settled(self.incomplete, {kind: 1.0}), {kind: 1.0}, "the responses that ended short"
            )
        return sent

    def found(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """What is found in the log, once it is there."""
        match = pattern.search(self.cache.wait_for_log(pattern))
        assert match is not None
        return match

    def incomplete(self) -> dict[str, float]:
        """How many responses ended short, by who ended them."""
        name = "contentcache_responses_incomplete_total"
        found = {key: value for key, value in self.cache.metrics().items() if key.startswith(name)}
        self.assertEqual(len(found), 4, "every series is there from the start")
        return {key.split('"')[1]: value for key, value in found.items() if value}

    def count(self, name: str) -> float:
        """Bytes of blobs that a metric has."""
        samples = self.cache.metrics().items()
        return sum(value for key, value in samples if key.startswith(name) and 'kind="blobs"' in key)


@needs("curl", "prlimit")
class SharedDownloadTests(ResponseEndTestCase):
    """Cold blobs on their way."""

    def test_upstream_dies(self) -> None:
        """An origin that is gone for good in the middle of a cold blob."""
        self.begin(options={"retryfor": "0s"})
        running = self.half_way()
        self.upstream.process.kill9()
        self.assertNotEqual(running.result().ended, 0)
        self.assert_ended("upstream", cache="fwd=miss")

    def test_client_leaves(self) -> None:
        """A client that is killed while a cold blob is on its way; the bytes so far are counted before that."""
        self.begin()
        running = self.half_way()
        until(lambda: self.count("contentcache_sent_bytes_total") >= running.received() > 0, "them counted")
        self.assertGreaterEqual(
            self.count("contentcache_received_bytes_total"), self.count("contentcache_sent_bytes_total")
        )
        running.process.kill9()
        sent = self.assert_ended("client", cache="fwd=miss")
        self.assertEqual(settled(lambda: self.count("contentcache_sent_bytes_total"), sent), sent)

    def test_disk_full(self) -> None:
        """A disk that takes no more in the middle: the client gets all, and nobody says that it was stored."""
        self.begin(options={"minfree": 0})
        running = self.half_way()
        for pid in self.cache.pids:
            run(["prlimit", "--pid", str(pid), f"--fsize={_HALF + 1000}:unlimited"])
        self.upstream.behave()
        done = running.result()
        self.assertEqual((done.status, done.ended, done.size), (200, 0, _SIZE))
        self.found(re.compile(rf' 200 {_SIZE} .* cache="fwd=miss" .* sent={_SIZE} of={_SIZE} end=complete'))
        self.assertEqual(self.incomplete(), {})


class SharedDownloadWorkersTests(SharedDownloadTests):
    """The same with two workers, of which one downloads what the other one sends."""

    workers = 2


@needs("curl")
class ResponseEndTests(ResponseEndTestCase):
    """Stored blobs, and whatever else ends a response."""

    def test_client_leaves_a_stored_blob(self) -> None:
        """A slow client of a stored blob, which is sent straight from its file."""
        self.begin(stored=True)
        running = self.slowly()
        until(lambda: self.count("contentcache_sent_bytes_total") > _SIZE, "more than the first pull")
        running.process.kill9()
        sent = self.assert_ended("client", cache="hit.*")
        self.assertGreaterEqual(sent, running.received())
        total = _SIZE + sent
        self.assertEqual(settled(lambda: self.count("contentcache_sent_bytes_total"), total), total)

    def test_client_stalls(self) -> None:
        """A client that reads nothing for ``limits.clientstall``."""
        self.begin(stored=True, options={"limits": {"clientstall": "1s"}})
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", self.cache.port))
            path = f"/v2/org/app/blobs/{self.digest}"
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: {self.cache.host}\r\n\r\n".encode())
            self.assert_ended("client", cache="hit.*")
        self.cache.wait_for_log('reason="nothing read for 1 s"')

    def test_stored_file_is_short(self) -> None:
        """A file of the store that becomes shorter while it is sent."""
        self.begin(stored=True)
        running = self.slowly()
        os.truncate(self.cache.blob_file(self.digest), _MIB)
        self.assertNotEqual(running.result().ended, 0)
        self.assert_ended("disk", cache="hit.*")

    def test_upstream_dies_uncached(self) -> None:
        """The same where the blob is larger than the store."""
        self.begin(options={"retryfor": "0s", "maxsize": _MIB})
        running = self.half_way()
        self.upstream.process.kill9()
        self.assertNotEqual(running.result().ended, 0)
        self.assert_ended("upstream", cache="fwd=miss; detail=uncached")

    def test_upstream_sends_wrong_bytes(self) -> None:
        """The digest mismatch is found at the end; the client has nearly all by then."""
        self.begin(options={"retryfor": "0s"})
        self.upstream.misbehave("wrong", self.digest, at=10)
        running = self.curl.start(blob_url(self.cache.url, self.digest))
        self.assertNotEqual(running.result().ended, 0)
        self.assert_ended("upstream", cache="fwd=miss")

    def test_shutdown(self) -> None:
        """``SIGTERM``, and a client that is not done by the end of ``http.draintimeout``."""
        self.begin(http={"draintimeout": "200ms"})
        running = self.half_way()
        self.cache.process.send(signal.SIGTERM)
        self.assertNotEqual(running.result().ended, 0)
        self.assertIn(self.cache.process.wait(), {0, -signal.SIGTERM})
        self.assert_ended("drain", cache="fwd=miss", counted=False)
