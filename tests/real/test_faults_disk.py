"""Disks that fill, cannot be written, or have been tampered with, under the real daemon."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from contentcache.delivery.possession import SAMPLE
from tests.real.audit import audit
from tests.real.cache import ContentCache, daemon
from tests.real.clients import Curl
from tests.real.images import random_bytes
from tests.real.programs import needs, place, run, settled, until
from tests.real.unruly import Read, Unruly, ask, blob_url

_SIZE = 1 << 20
_HALF = _SIZE // 2
_QUIET = {"level": "info"}


def _is_sample(range_: str) -> bool:
    first, _, last = range_.removeprefix("bytes=").partition("-")
    return bool(last) and int(last) - int(first) + 1 == SAMPLE


class DiskTestCase(SynchronousTestCase):
    """Four blobs at an upstream, and a cache."""

    def setUp(self) -> None:
        """The upstream; a test begins the cache of its own."""
        self.blobs = [random_bytes(_SIZE, f"disk {number}") for number in range(4)]
        self.upstream = Unruly(self, *self.blobs)
        self.digests = self.upstream.digests

    def begin(self, **more: Any) -> None:
        """Start a cache that keeps nothing free."""
        self.cache = ContentCache(self, self.upstream.url, options={"minfree": 0}, log=_QUIET, **more)
        self.curl = Curl(self)

    def pull(self, number: int) -> Read:
        """Pull a blob, which is right and whole whatever the disk does."""
        read = ask(self.cache.port, f"/v2/org/app/blobs/{self.digests[number]}")
        self.assertEqual((read.status, read.end, read.body == self.blobs[number]), (200, "fin", True))
        return read

    def fetched(self, number: int) -> int:
        """How often a blob was asked for; a sample, by which the origin proves that it has it, is no blob."""
        asked = self.upstream.asked(self.digests[number], "GET")
        return sum(not _is_sample(one["headers"].get("range", "")) for one in asked)

    def checks(self) -> dict[str, Any]:
        """What ``/debug/health`` says."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self.cache.debug_port}/debug/health"
        with opener.open(url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def states(self) -> tuple[str, str]:
        """The states of the daemon and of its store there."""
        checks = self.checks()
        return checks["status"], checks["checks"]["store"]["state"]

    def assert_store_warns(self) -> None:
        """Health, metrics and the log tell the operator; clients are served, so health is 200."""
        self.assertEqual(settled(self.states, ("warn", "warn")), ("warn", "warn"))
        until(lambda: self.cache.metric("contentcache_store_write_errors_total") > 0, "the failure counted")
        self.cache.wait_for_log("store not writable, pulls pass through uncached")

    def assert_store_is_well(self) -> None:
        """The operator sees that the disk works again."""
        self.assertEqual(settled(lambda: self.states()[1], "ok"), "ok")
        self.cache.wait_for_log("store writable again")

    def half_way(self, number: int, then: Any) -> None:
        """Pull a blob by two clients; ``then`` happens when half of it has come."""
        digest = self.digests[number]
        self.upstream.misbehave("stall", digest, at=_HALF, times=1)
        running = [self.curl.start(blob_url(self.cache.url, digest)) for _ in range(2)]
        until(lambda: all(one.received() > _HALF // 2 for one in running), "half of it")
        then()
        self.upstream.behave()
        for one in running:
            done = one.result()
            self.assertEqual((done.status, done.ended), (200, 0))
            self.assertEqual(done.body.read_bytes(), self.blobs[number])


@needs("curl", "prlimit")
class FileLimitTests(DiskTestCase):
    """Files that may not grow (``RLIMIT_FSIZE``), as a quota forbids it."""

    def test_in_the_middle(self) -> None:
        """A write that fails in the middle of a blob: clients get it whole, and later it is kept again."""
        self.begin()
        self.half_way(0, lambda: self.limit(str(_HALF + 1000)))
        self.assert_store_warns()
        self.assertFalse(self.cache.stored(self.digests[0]))
        self.limit("unlimited")
        self.pull(0)
        until(lambda: self.cache.stored(self.digests[0]), "it in the store")
        self.assert_store_is_well()
        self.assertEqual(settled(lambda: audit(self.cache.root, set()), []), [])
        self.assertNotIn("Traceback", self.cache.log())

    def limit(self, size: str) -> None:
        """No file of the daemon may grow beyond ``size`` bytes."""
        for pid in self.cache.pids:
            run(["prlimit", "--pid", str(pid), f"--fsize={size}:unlimited"])


@needs("curl", "unshare", "mount", root=True)
class FullDiskTests(DiskTestCase):
    """A root directory on a filesystem of 4 MiB, mounted for the daemon alone: it goes with it."""

    def setUp(self) -> None:
        """A cache on it."""
        super().setUp()
        folder = place(self)
        mount = f'mount -t tmpfs -o size=4m tmpfs "{folder}" && exec "$0" "$@"'
        self.begin(root=folder / "root", wrapper=("unshare", "--mount", "sh", "-c", mount))
        self.seen = Path(f"/proc/{self.cache.pid}/root") / self.cache.root.relative_to("/")
        self.ballast = self.seen.parent / "ballast"

    def fill(self) -> None:
        """Somebody else takes all the room there is."""
        try:
            with self.ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:
            pass

    def has(self, number: int) -> bool:
        """Whether the daemon's own view of the store has a blob."""
        digits = self.digests[number].partition(":")[2]
        return (self.seen / f"docker/registry/v2/blobs/sha256/{digits[:2]}/{digits}/data").exists()

    def until_has(self, number: int) -> None:
        """Wait for a blob to be in the store."""
        until(lambda: self.has(number), "it in the store")

    def test_full_before(self) -> None:
        """No room from the start: what is pulled passes through, and is kept as soon as there is room."""
        self.fill()
        for _ in range(2):
            self.assertIn("uncached", self.pull(0).head)
        self.assert_store_warns()
        self.assertFalse(self.has(0))
        self.ballast.unlink()
        self.pull(0)
        self.until_has(0)
        self.assert_store_is_well()
        fetched = self.fetched(0)
        self.pull(0)
        self.assertEqual(self.fetched(0), fetched)
        self.assertNotIn("Traceback", self.cache.log())

    def test_full_in_the_middle(self) -> None:
        """Full in the middle of a blob: who is attached gets the rest as if nothing were the matter."""
        self.half_way(0, self.fill)
        self.assert_store_warns()
        self.assertFalse(self.has(0))
        self.ballast.unlink()
        self.pull(0)
        self.until_has(0)
        self.assert_store_is_well()
        self.assertNotIn("Traceback", self.cache.log())

    def test_makes_room(self) -> None:
        """What was pulled least recently goes for what comes."""
        for number in range(4):
            self.pull(number)
            self.until_has(number)
        self.assertEqual([self.has(number) for number in range(4)], [False, True, True, True])
        evictions = 'contentcache_evictions_total{reason="space"}'
        self.assertEqual(settled(lambda: self.cache.metrics().get(evictions), 1), 1)
        self.assertEqual(settled(lambda: self.states()[0], "ok"), "ok")


@needs("unshare", "mount", root=True)
class ReadOnlyTests(DiskTestCase):
    """A root directory that cannot be written when the daemon starts."""

    def test_read_only(self) -> None:
        """It starts, serves what is stored and passes the rest through, and says why."""
        folder = place(self)
        first = ContentCache(self, self.upstream.url, options={"minfree": 0}, root=folder / "root")
        self.cache = first
        self.pull(0)
        first.wait_stored(self.digests[0])
        first.stop()
        mount = f'mount --bind "{folder}" "{folder}" && mount -o remount,ro,bind "{folder}" && exec "$0" "$@"'
        self.begin(root=folder / "root", wrapper=("unshare", "--mount", "sh", "-c", mount))
        fetched = self.fetched(0)
        self.pull(0)
        self.assertIn("uncached", self.pull(1).head)
        self.assertIn("uncached", self.pull(1).head)
        self.cache.wait_for_log("the store cannot be written")
        self.assertEqual(settled(lambda: self.states()[1], "warn"), "warn")
        self.assertEqual(self.fetched(0), fetched)
        self.assertNotIn("Traceback", self.cache.log())


class TamperingTests(DiskTestCase):
    """Files that somebody else has changed."""

    def setUp(self) -> None:
        """A cache that has the first blob."""
        super().setUp()
        self.begin()
        self.pull(0)
        until(lambda: self.cache.stored(self.digests[0]), "it in the store")
        self.index = self.cache.root / "contentcache" / "index.sqlite3"

    def test_truncated_or_longer(self) -> None:
        """A stored file of another size is noticed before a byte of it is sent, and fetched again."""
        file = self.cache.blob_file(self.digests[0])
        for number, content in enumerate((self.blobs[0][:-1], b"", self.blobs[0] + b"x"), start=2):
            file.write_bytes(content)
            self.pull(0)
            self.assertEqual(self.fetched(0), number)
            # The client has its last byte before the file is in its place again.
            until(lambda: file.exists() and file.read_bytes() == self.blobs[0], "the blob in the store")
        self.cache.wait_for_log("stored blob changed on disk, deleted")
        self.assertEqual(file.read_bytes(), self.blobs[0])

    def test_deleted(self) -> None:
        """A stored file that is gone is fetched again."""
        self.cache.blob_file(self.digests[0]).unlink()
        self.pull(0)
        self.assertEqual(self.fetched(0), 2)

    def test_index_gone_or_garbage(self) -> None:
        """
        Without its index, or with garbage in its place, it starts, hashes what it finds before its first
        use, and fetches nothing again that is right.
        """
        for spoil in (self.remove_index, lambda: self.index.write_bytes(b"garbage" * 10_000)):
            self.cache.kill9()
            for suffix in ("-wal", "-shm"):
                Path(f"{self.index}{suffix}").unlink(missing_ok=True)
            spoil()
            self.cache.start()
            self.pull(0)
            self.assertEqual(self.fetched(0), 1)

    def test_index_gone_and_blob_changed(self) -> None:
        """Nor is a changed file believed because no index says how long it was: nobody completes it."""
        self.cache.kill9()
        self.remove_index()
        file = self.cache.blob_file(self.digests[0])
        file.write_bytes(bytes(_SIZE))
        self.cache.start()

        def is_served() -> bool:
            body = ask(self.cache.port, f"/v2/org/app/blobs/{self.digests[0]}").body
            self.assertTrue(body == self.blobs[0] or len(body) < _SIZE)
            return len(body) == _SIZE

        until(is_served, "the right bytes", timeout=10)
        until(lambda: self.cache.stored(self.digests[0]), "the right blob")
        self.assertEqual(file.read_bytes(), self.blobs[0])

    def test_index_of_a_newer_version(self) -> None:
        """An index that a newer version wrote is left alone: the daemon says so and does not start."""
        self.cache.stop()
        with sqlite3.connect(self.index) as database:
            database.execute("PRAGMA user_version = 1000")
        database.close()
        refused = daemon(self, self.cache.config)
        self.assertEqual(refused.wait(), 1)
        refused.wait_for_log("newer")
        self.assertNotIn("Traceback", refused.log())

    def test_second_daemon(self) -> None:
        """A second daemon on the same root is refused with a sentence; the first one serves on."""
        config = place(self) / "second.yml"
        sections = self.cache.sections()
        sections["http"] = {"addr": "127.0.0.1:0"}
        config.write_text(json.dumps(sections), "utf-8")
        second = daemon(self, config)
        self.assertEqual(second.wait(), 1)
        second.wait_for_log(f"is in use by process {self.cache.pid}")
        self.assertNotIn("Traceback", second.log())
        self.pull(0)
        self.assertEqual(self.fetched(0), 1)

    def remove_index(self) -> None:
        """Take the index away."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.index}{suffix}").unlink(missing_ok=True)
