"""Tests of the daemon before registries of bad manners: what they share."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from contentcache.storage.partial_files import NOTE
from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import random_bytes
from tests.real.programs import until
from tests.real.unruly import Read, Unruly, ask

SIZE: Final = 300_000
HALF: Final = SIZE // 2
#: Impatient enough for a test, patient enough for a busy machine.
_OPTIONS: Final = {"stalltimeout": "1s", "connecttimeout": "1s", "retryfor": "5s"}


class FaultsTestCase(SynchronousTestCase):
    """Blobs, registries that have them, and a cache before these."""

    def build(self, hosts: int, blobs: int, size: int = SIZE) -> None:
        """So many registries that all have so many blobs; the cache asks the first one first."""
        self.blobs = [random_bytes(size, f"{self.id()} {number}") for number in range(blobs)]
        self.hosts = [Unruly(self, *self.blobs) for _ in range(hosts)]
        self.upstream = self.hosts[0]
        self.begin(*(host.url for host in self.hosts))

    def begin(self, *urls: str) -> None:
        """A cache whose upstreams these are, ways to one origin if there are several."""
        several = {"originhost": "http://origin.invalid", "upstreamhosts": list(urls)}
        self.cache = ContentCache(self, urls[0] if len(urls) == 1 else several, options=_OPTIONS)
        self.curl = Curl(self)

    def pull(self, number: int) -> Read:
        """Pull a blob on a plain socket."""
        return ask(self.cache.port, f"/v2/org/app/blobs/{self.upstream.digests[number]}")

    def assert_whole(self, read: Read, number: int) -> None:
        """A client has got the right bytes, all of them."""
        self.assertEqual((read.status, read.end, len(read.body)), (200, "fin", len(self.blobs[number])))
        self.assertEqual(read.body, self.blobs[number])

    def assert_short(self, read: Read, number: int) -> None:
        """A client has got a part of the body, and notices by a FIN before its end."""
        self.assertEqual((read.status, read.end), (200, "fin"))
        self.assertLess(len(read.body), len(self.blobs[number]))
        self.assertIn(f"content-length: {len(self.blobs[number])}", read.head.lower())

    def assert_error(self, read: Read, *statuses: int) -> None:
        """A client has got an error in the registry's form."""
        self.assertIn(read.status, statuses)
        self.assertEqual(read.end, "fin")
        (entry,) = json.loads(read.body)["errors"]
        self.assertTrue(entry["message"])

    def assert_nothing_kept(self, number: int) -> None:
        """Neither a blob nor a partial file of it is in the store."""
        digits = self.upstream.digests[number].partition(":")[2]
        until(
            lambda: not [path for path in self.cache.files() if digits in str(path)],
            f"no file of {digits}",
            timeout=10,
        )

    def until_stored(self, number: int) -> None:
        """Wait for a blob to be in the store."""
        self.cache.wait_stored(self.upstream.digests[number])

    def partial_size(self, number: int) -> int:
        """Bytes in a partial file, -1 where there is none."""
        digits = self.upstream.digests[number].partition(":")[2]
        folder = self.cache.root / "contentcache/partial/sha256"
        found = [path for path in folder.glob(f"{digits}.*") if path.suffix != NOTE]
        return max((path.stat().st_size for path in found), default=-1)

    def tearDown(self) -> None:
        """Whatever an upstream did, it is no defect of ours: no log has a traceback."""
        self.assertNotIn("Traceback", self.cache.log())


def deaf(held: ExitStack) -> int:
    """A port whose listener has a full backlog: SYNs to it are dropped."""
    listener = held.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = int(listener.getsockname()[1])
    for _ in range(3):
        caller = held.enter_context(socket.socket())
        caller.setblocking(False)
        caller.connect_ex(("127.0.0.1", port))
    return port
