"""``kill -9`` at any moment, again and again."""

from __future__ import annotations

import os
import random
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.real.audit import audit, partials, stored
from tests.real.cache import ContentCache
from tests.real.clients import Curl, RunningCurl
from tests.real.images import digest_of, random_bytes
from tests.real.line import CountingProxy
from tests.real.programs import needs, settled, until
from tests.real.unruly import Unruly, ask, blob_url

#: More by hand: ``CONTENTCACHE_KILLS=200``, and another history by ``CONTENTCACHE_SEED``.
_ROUNDS: Final = int(os.environ.get("CONTENTCACHE_KILLS", "12"))
_SEED: Final = os.environ.get("CONTENTCACHE_SEED", "kill")
_SIZE: Final = 3 << 20
_RATE: Final = 30e6


@needs("curl")
class KillTests(SynchronousTestCase):
    """Blobs over a slow line into a daemon that is killed again and again."""

    def setUp(self) -> None:
        """As many blobs as rounds may finish."""
        self.random = random.Random(_SEED)
        self.blobs = {
            digest_of(blob): blob
            for blob in (random_bytes(_SIZE, f"{_SEED} {number}") for number in range(_ROUNDS // 2 + 2))
        }
        self.upstream = Unruly(self, *self.blobs.values())
        self.line = CountingProxy(self, self.upstream.port, rate=_RATE)
        self.cache = ContentCache(self, self.line.url, log={"level": "info"})
        self.curl = Curl(self)
        self.waiting = list(self.blobs)

    def test_rounds(self) -> None:
        """
        However often it is killed: nothing wrong is completed or stored, what was verified is served without
        being fetched, what was begun goes on where it stood, and no rubbish stays.
        """
        began = 0
        for number in range(_ROUNDS):
            digest = self.waiting[0]
            kept = self.kept(digest)
            self.line.forget()
            running = self.curl.start(blob_url(self.cache.url, digest))
            # Mostly somewhere in the middle, sometimes about the moment when it is stored.
            enough = _SIZE if self.random.random() < 0.3 else kept + self.random.randrange(_SIZE // 2)
            self.wait_for(running, enough)
            self.cache.kill9()
            fetched = running.result()
            body = fetched.body.read_bytes()
            self.assertEqual(body, self.blobs[digest][: len(body)], number)
            self.assertEqual(fetched.ended == 0, len(body) == _SIZE, number)
            questions = self.line.asked(digest, "GET")
            self.assertEqual(len(questions), 1, number)
            if kept:
                began += 1
                self.assertEqual(questions[0].headers["range"], f"bytes={kept}-")
            self.look(digest)
            self.cache.start()
        self.assertGreater(began, _ROUNDS // 10)
        self.finish()

    def wait_for(self, running: RunningCurl, enough: int) -> None:
        """Wait for so many bytes, or for the end."""
        until(lambda: running.received() >= enough or not running.process.alive, "enough of it")

    def kept(self, digest: str) -> int:
        """Bytes of a partial file."""
        path = partials(self.cache.root).get(digest)
        return 0 if path is None else path.stat().st_size

    def look(self, digest: str) -> None:
        """Look at what the killed daemon has left."""
        self.assertEqual(audit(self.cache.root, {digest}), [])
        partial = partials(self.cache.root).get(digest)
        if partial is not None:
            content = partial.read_bytes()
            self.assertEqual(content, self.blobs[digest][: len(content)])
        if digest in stored(self.cache.root):
            self.waiting.pop(0)

    def finish(self) -> None:
        """Everything that was stored is served, and what was begun is finished."""
        done = [digest for digest in self.blobs if digest not in self.waiting]
        self.assertTrue(done)
        self.line.forget()
        for digest in done:
            read = ask(self.cache.port, f"/v2/org/app/blobs/{digest}")
            self.assertEqual((read.status, read.body == self.blobs[digest]), (200, True))
        self.assertEqual(self.line.asked("/blobs/", "GET"), [])
        digest = self.waiting[0]
        kept = self.kept(digest)
        read = ask(self.cache.port, f"/v2/org/app/blobs/{digest}")
        self.assertEqual(read.body, self.blobs[digest])
        self.assertLess(self.line.received, _SIZE - kept + (64 << 10) + 1000 * len(done))
        self.assertEqual(settled(lambda: audit(self.cache.root, set()), []), [])
        self.assertNotIn("Traceback", self.cache.log())
