"""A worker that is stopped (``SIGSTOP``) in the middle of a download that clients of the other worker wait for."""

from __future__ import annotations

import os
import signal

from tests.real.images import digest_of
from tests.real.programs import until
from tests.real.test_workers import Puller, WorkersTestCase, blob_of
from tests.real.worker_processes import connect

_HALF = 3 << 20


class StoppedWorkerTests(WorkersTestCase):
    """Two workers."""

    def test_download(self) -> None:
        """
        Clients of the other worker do not wait for ever: they get the rest from the origin, and what they ask
        for then passes through uncached. When the worker goes on, so does the download. The daemon ends on
        ``SIGTERM`` while a worker is stopped.
        """
        digest, content = blob_of(1, "stopped")
        cache = self.begin(content)
        self.upstream.misbehave("stall", digest, at=_HALF, times=1)
        puller, spare = self.pull(2, digest), connect(cache, 2)
        until(lambda: puller.received > 1 << 20, "a part of it")
        os.kill(self.pids[1], signal.SIGSTOP)
        try:
            read = puller.result()
            self.assertEqual((read.status, read.end, read.body == content), (200, "fin", True))
            read = Puller(spare, digest).result()
            self.assertEqual((read.status, read.body == content), (200, True))
            self.assertIn("detail=uncached", read.head)
        finally:
            os.kill(self.pids[1], signal.SIGCONT)
        self.line.cut()

        def whole() -> bool:
            again = self.pull(2, digest).result()
            return again.status == 200 and digest_of(again.body) == digest

        until(whole, "the whole blob")
        os.kill(self.pids[1], signal.SIGSTOP)
        self.assertIn(cache.stop(40), {0, -signal.SIGTERM})
        self.assertNotIn("Traceback", cache.log())
