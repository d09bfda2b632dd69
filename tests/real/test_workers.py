"""Several workers over one store: one fetch for the machine, and whatever dies."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Sequence

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.workers.owners import owner_of
from tests.real import test_faults_disk, test_rights
from tests.real.audit import audit
from tests.real.cache import ContentCache
from tests.real.certificates import Authority
from tests.real.images import digest_of, random_bytes
from tests.real.line import CountingProxy
from tests.real.programs import place, settled, until
from tests.real.unruly import Read, Unruly, ask, read_to_end
from tests.real.worker_processes import all_serve, connect, lives, workers_of

_MIB = 1 << 20
_SIZE = 6 * _MIB
_HALF = _SIZE // 2
_BLOBS = 'contentcache_http_requests_total{code="200",kind="blobs",method="GET"}'


def blob_of(worker: int, name: str, size: int = _SIZE) -> tuple[str, bytes]:
    """A blob, its digest first, that belongs to one of two workers."""
    for number in range(64):
        content = random_bytes(size, f"{name} {number}")
        digest = digest_of(content)
        if owner_of(Digest.parse(digest), 2) == worker:
            return digest, content
    raise AssertionError("one of two is never drawn in 64 lots")


class Puller(threading.Thread):
    """A client that has asked for a blob on a connection of its own, and reads to the end."""

    def __init__(self, client: socket.socket, digest: str) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.read: Read | None = None
        self.received = 0
        lines = (f"GET /v2/org/app/blobs/{digest} HTTP/1.1", "Host: here", "Connection: close", "", "")
        client.sendall("\r\n".join(lines).encode())
        self.start()

    def run(self) -> None:
        with self._client:
            self.read = read_to_end(_Counted(self._client, self))  # type: ignore[arg-type]

    def result(self) -> Read:
        """What it got in the end."""
        self.join(60)
        assert self.read is not None, "it still waits"
        return self.read


class _Counted:
    def __init__(self, client: socket.socket, puller: Puller) -> None:
        self._client = client
        self._puller = puller

    def recv(self, size: int) -> bytes:
        piece = self._client.recv(size)
        self._puller.received += len(piece)
        return piece


class WorkersTestCase(SynchronousTestCase):
    """Two workers, and an upstream at the end of a line that counts."""

    def begin(self, *blobs: bytes, rate: float | None = None, **more: object) -> ContentCache:
        """Start all, and wait until both workers serve."""
        self.upstream = Unruly(self, *blobs)
        self.line = CountingProxy(self, self.upstream.port, rate=rate)
        self.cache = ContentCache(self, self.line.url, workers=2, **more)  # type: ignore[arg-type]
        self.pids = all_serve(self.cache)
        return self.cache

    def pull(self, worker: int, digest: str) -> Puller:
        """A client of this worker."""
        return Puller(connect(self.cache, worker), digest)

    def half_way(self, digest: str, pullers: int) -> tuple[Sequence[Puller], Sequence[Puller]]:
        """
        Clients of both workers who have a part of a blob, whose other half does not come before the line is
        cut.
        """
        self.upstream.misbehave("stall", digest, at=_HALF, times=1)
        both = [[self.pull(worker, digest) for _ in range(pullers)] for worker in (1, 2)]
        self.until_all([*both[0], *both[1]], lambda puller: puller.received > _MIB, "a part of it")
        return both[0], both[1]

    def until_all(self, pullers: Sequence[Puller], condition: Callable[[Puller], bool], what: str) -> None:
        """Wait until something is true of all of them."""
        until(lambda: all(condition(puller) for puller in pullers), what)


class StampedeTests(WorkersTestCase):
    """One fetch, whoever is asked."""

    def test_one_fetch(self) -> None:
        """
        64 clients at both workers, two cold blobs, one of each: each crosses the line once, all get all
        of it; the metrics have all that happened, and each line of the log says whose it is.
        """
        blobs = dict(blob_of(worker, "stampede") for worker in (1, 2))
        cache = self.begin(*blobs.values(), rate=16e6)
        pullers = [(digest, self.pull(1 + number % 2, digest)) for number in range(32) for digest in blobs]
        for digest, puller in pullers:
            read = puller.result()
            self.assertEqual((read.status, read.end), (200, "fin"))
            self.assertEqual(digest_of(read.body), digest)
        for digest in blobs:
            self.assertEqual(len(self.line.asked(digest, "GET")), 1)
            cache.wait_stored(digest)
        until(lambda: cache.metrics().get(_BLOBS, 0) >= 64, "all of them counted")
        counted = cache.metrics()
        self.assertEqual(counted[_BLOBS], 64)
        self.assertEqual(cache.metric("contentcache_received_bytes_total"), 2 * _SIZE)
        self.assertEqual(cache.metric("contentcache_sent_bytes_total"), 64 * _SIZE)
        self.assertEqual(settled(lambda: cache.metric("contentcache_downloads"), 0), 0)
        lines = until(lambda: self.lines(64), "a line for each")
        numbers = [line.rpartition(" ")[2] for line in lines]
        self.assertEqual((numbers.count("worker=1"), numbers.count("worker=2")), (32, 32))
        stored = [line for line in lines if "stored" in line]
        self.assertEqual(len(stored), 2)
        warm = ask(cache.port, f"/v2/org/app/blobs/{next(iter(blobs))}")
        self.assertIn("contentcache; hit", warm.head)

    def lines(self, number: int) -> list[str]:
        """The lines of the access log about blobs, if there are so many."""
        lines = [line for line in self.cache.access_lines() if "/blobs/" in line]
        return lines if len(lines) == number else []

    def test_stop(self) -> None:
        """
        SIGTERM in the middle: clients at the owner and at the other one get everything, new ones are refused,
        and all processes end, the supervisor as it should. The lines of a log in JSON have the number, too.
        """
        digest, content = blob_of(1, "stop")
        cache = self.begin(content, http={"draintimeout": "60s"}, log={"formatter": "json", "level": "info"})
        one, other = self.half_way(digest, 1)
        pullers = [*one, *other]
        cache.process.send(signal.SIGTERM)
        until(lambda: not _accepts(cache.port), "no new connections")
        self.assertTrue(all(puller.read is None for puller in pullers), "they still read")
        self.line.cut()
        for puller in pullers:
            self.assertEqual(digest_of(puller.result().body), digest)
        self.assertIn(cache.process.wait(), {0, -signal.SIGTERM})
        self.assertFalse([pid for pid in self.pids.values() if lives(pid)])
        cache.wait_for_log('"worker": 1')
        self.assertNotIn("Traceback", cache.log())

    def test_what_a_stop_cuts(self) -> None:
        """
        The log says why the daemon stopped, and what of all workers that has cut: each response, and the download
        that both shared, with the bytes of its partial file.
        """
        digest, content = blob_of(1, "cut")
        cache = self.begin(content, http={"draintimeout": "200ms"})
        self.half_way(digest, 2)
        cache.process.send(signal.SIGTERM)
        self.assertIn(cache.process.wait(), {0, -signal.SIGTERM})
        cache.wait_for_log(re.compile(r"daemon stopping reason=SIGTERM uptime=\d+s"))
        cut = f"responses_cut=4 downloads_suspended=1 bytes_suspended={_HALF}"
        cache.wait_for_log(re.compile(rf"daemon stopped reason=SIGTERM uptime=\d+s {cut}"))
        ids = set(re.findall(r" end=drain served_by=\S+ request_id=\S+ download=(\S+)", cache.log()))
        self.assertEqual((len(ids), "-" in ids), (1, False))

    def test_one_line_in_both(self) -> None:
        """Clients of both workers share a download: their lines have its id and its host, and ids of their own."""
        digest, content = blob_of(1, "ids")
        self.begin(content)
        pullers = [puller for of_worker in self.half_way(digest, 2) for puller in of_worker]
        self.line.cut()
        for puller in pullers:
            self.assertEqual(digest_of(puller.result().body), digest)
        lines = until(lambda: self.lines(4), "a line for each")
        found = [re.search(r" served_by=(\S+) request_id=(\S+) download=(\S+)", line) for line in lines]
        hosts, ids, downloads = zip(*[match.groups() for match in found if match], strict=True)
        self.assertEqual((set(hosts), len(set(ids)), len(set(downloads))), ({self.line.url}, 4, 1))


class DeathTests(WorkersTestCase):
    """``kill -9``."""

    def test_worker(self) -> None:
        """
        The worker that fetches is killed in the middle: clients of the other one get everything all the same,
        its own are cut off, nobody gets a wrong byte, and its successor goes on where it stood.
        """
        digest, content = blob_of(1, "worker")
        cache = self.begin(content)
        own, others = self.half_way(digest, 4)
        _kill(self.pids[1])
        for puller in own:
            body = puller.result().body
            self.assertLess(len(body), _SIZE)
            self.assertEqual(body, content[: len(body)])
        for puller in others:
            self.assertEqual(digest_of(puller.result().body), digest)
        ranges = [one.headers.get("range", "all") for one in self.line.asked(digest, "GET")]
        self.assertEqual(ranges, ["all", f"bytes={_HALF}-"])
        self.assertNotEqual(all_serve(cache)[1], self.pids[1])
        for worker in (1, 2):
            self.assertEqual(digest_of(self.pull(worker, digest).result().body), digest)
        self.assertEqual(len(self.line.asked(digest, "GET")), 2)
        self.assertEqual(settled(lambda: audit(cache.root, set()), []), [])
        self.assertEqual(settled(cache.health, 200), 200)
        self.assertNotIn("Traceback", cache.log())

    def test_queue_outlives_it(self) -> None:
        """
        A worker that stands still, and is then killed, leaves the connections that wait for it to its
        successor: none is refused or reset.
        """
        digest, content = blob_of(2, "queue", 50_000)
        cache = self.begin(content)
        _signal(self.pids[1], signal.SIGSTOP)
        clients = [socket.create_connection(("127.0.0.1", cache.port), timeout=60) for _ in range(32)]
        pullers = [Puller(client, digest) for client in clients]
        until(lambda: any(puller.read is not None for puller in pullers), "an answer of the other one")
        _kill(self.pids[1])
        for puller in pullers:
            self.assertEqual(digest_of(puller.result().body), digest)

    def test_supervisor(self) -> None:
        """
        The supervisor is killed in the middle: no worker outlives it, and a new daemon starts at once, over the
        same store, and goes on where that one stood.
        """
        digest, content = blob_of(2, "supervisor")
        cache = self.begin(content)
        one, other = self.half_way(digest, 1)
        cache.kill9()
        cache.start()
        self.assertFalse([pid for pid in self.pids.values() if lives(pid)])
        for puller in (*one, *other):
            body = puller.result().body
            self.assertLess(len(body), _SIZE)
            self.assertEqual(body, content[: len(body)])
        self.line.forget()
        self.assertEqual(digest_of(ask(cache.port, f"/v2/org/app/blobs/{digest}").body), digest)
        (again,) = self.line.asked(digest, "GET")
        self.assertEqual(again.headers["range"], f"bytes={_HALF}-")
        self.assertEqual(settled(lambda: audit(cache.root, set()), []), [])
        self.assertIn(cache.stop(), {0, -signal.SIGTERM})


class RightsOfWorkersTests(test_rights.TokenTests):
    """Who may have what, whichever worker is asked."""

    workers = 2


class DiskOfWorkersTests(test_faults_disk.FileLimitTests):
    """A disk that refuses, whichever worker writes."""

    workers = 2


class CertificateTests(WorkersTestCase):
    """What clients are shown."""

    def test_reload(self) -> None:
        """SIGHUP: both workers show the new certificate, and so does a successor; a broken one changes nothing."""
        authority = Authority(place(self))
        tls = authority.leaf("127.0.0.1", name="cache")
        cache = self.begin(b"x", tls=tls)
        old = self.shown(1)
        self.assertEqual(self.shown(2), old)
        tls.certificate.write_text("rubbish", "utf-8")
        cache.reload()
        until(lambda: "certificates not reloaded" in cache.log(), "says so")
        self.assertEqual({self.shown(1), self.shown(2)}, {old})
        authority.leaf("127.0.0.1", name="cache")
        cache.reload()
        until(lambda: old not in {self.shown(1), self.shown(2)}, "both show the new one")
        self.assertEqual(self.shown(1), self.shown(2))
        tls.key.unlink()
        _kill(self.pids[1])
        until(lambda: workers_of(cache).get(1, self.pids[1]) != self.pids[1], "a successor")
        all_serve(cache)
        self.assertEqual(self.shown(1), self.shown(2))
        self.assertNotIn("Traceback", cache.log())

    def shown(self, worker: int) -> bytes | None:
        """The certificate that a worker shows to a new connection."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(connect(self.cache, worker)) as client:
            return client.getpeercert(binary_form=True)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


def _kill(pid: int) -> None:
    _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    os.kill(pid, number)
