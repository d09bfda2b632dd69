"""The daemon at a Unix socket, with one worker and two: it ends when told to, and starts again after anything."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache, daemon
from tests.real.programs import Case, Process, short_place, until
from tests.real.worker_processes import all_serve, lives, workers_of


class UnixCache(ContentCache):
    """A cache at a path."""

    def __init__(self, case: Case) -> None:
        self.path = short_place(case) / "cache.sock"
        super().__init__(case, "http://127.0.0.1:1", http={"net": "unix", "addr": str(self.path)})

    def _begin(self, port: int) -> Process:
        self.port = port
        self._write()
        process = daemon(self._case, self.config, log_path=self._folder / "contentcache.log")
        process.wait_until(self.answers, "an answer at its path")
        return process

    def answers(self) -> bool:
        """Whether somebody answers in HTTP at the path."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(self.path))
                client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                return client.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


class UnixSocketTests(SynchronousTestCase):
    """One worker."""

    workers = 1

    def cache(self) -> UnixCache:
        """A cache, all of whose workers serve and have served."""
        cache = UnixCache(self)
        self.serves(cache)
        return cache

    def serves(self, cache: UnixCache) -> None:
        """Wait for all workers, and have them answer."""
        if self.workers > 1:
            all_serve(cache)
        for _ in range(4 * self.workers):
            self.assertTrue(cache.answers())

    def ends(self, cache: UnixCache) -> None:
        """It ends on ``SIGTERM``, with its workers, without errors, and its path is gone."""
        pids = cache.pids
        self.assertIn(cache.stop(30), {0, -signal.SIGTERM})
        self.assertFalse(cache.path.exists())
        until(lambda: not any(lives(pid) for pid in pids), "all processes have ended")
        for word in ("Traceback", "critical", " error "):
            self.assertNotIn(word, cache.log())

    def test_sigterm(self) -> None:
        """After some requests the daemon ends on ``SIGTERM``, and its path is gone."""
        self.ends(self.cache())

    def test_restart(self) -> None:
        """A daemon that was stopped starts again at its path."""
        cache = self.cache()
        for _ in range(2):
            cache.restart()
            self.serves(cache)
        self.ends(cache)

    def test_killed(self) -> None:
        """A daemon that was killed leaves its path; the next one takes it over at once."""
        cache = self.cache()
        cache.kill9()
        self.assertTrue(stat.S_ISSOCK(Path(cache.path).stat().st_mode))
        cache.start()
        self.serves(cache)
        self.ends(cache)

    def test_path_taken_away(self) -> None:
        """Where somebody has removed the path, the daemon ends all the same; what is there by then stays."""
        cache = self.cache()
        cache.path.unlink()
        cache.path.write_text("of somebody else", "utf-8")
        self.assertIn(cache.stop(30), {0, -signal.SIGTERM})
        self.assertEqual(cache.path.read_text("utf-8"), "of somebody else")
        self.assertNotIn("Traceback", cache.log())


class UnixSocketWorkersTests(UnixSocketTests):
    """The same of two workers."""

    workers = 2

    def test_worker_killed(self) -> None:
        """A worker that was killed has a successor at the same path; the daemon ends as any does."""
        cache = self.cache()
        first = workers_of(cache)[1]
        os.kill(first, signal.SIGKILL)
        until(lambda: workers_of(cache).get(1, first) != first, "it is started again")
        self.serves(cache)
        self.assertIn(cache.stop(30), {0, -signal.SIGTERM})
        self.assertFalse(cache.path.exists())
        self.assertNotIn("Traceback", cache.log())
