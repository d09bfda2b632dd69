"""Tests for :mod:`contentcache.persist.watched_file`."""

from __future__ import annotations

import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase

from contentcache.persist import watched_file
from contentcache.persist.atomic_file import UnusableFileError, read_configured
from contentcache.persist.watched_file import CHECK_INTERVAL, WatchedFiles
from contentcache.telemetry.logging import event_text


class WatchedFilesTests(SynchronousTestCase):
    """Content that follows its file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(b"one")
        self.clock = Clock()
        self.calls: list[str] = []
        self.logged: list[LogEvent] = []
        self.patch(watched_file, "_log", Logger("contentcache", observer=self.logged.append))  # type: ignore[arg-type]

    def run_now(self, function: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """A ``Run`` without threads, which notes what it runs."""
        self.calls.append(function.__name__)
        return execute(function, *args, **kwargs)

    def read(self) -> bytes:
        """The content."""
        return read_configured(str(self.path), 100)

    def build(self, **more: Any) -> WatchedFiles[bytes]:
        """Watch the file."""
        return WatchedFiles([str(self.path)], self.read, run=self.run_now, timer=self.clock, **more)

    def ask(self, watched: WatchedFiles[bytes]) -> Deferred[bytes]:
        """Ask for the content."""
        return Deferred.fromCoroutine(watched.current())

    def current(self, watched: WatchedFiles[bytes]) -> bytes:
        """The content, when a check is due."""
        self.clock.advance(CHECK_INTERVAL)
        return self.successResultOf(self.ask(watched))

    def levels(self) -> list[str]:
        """The levels of the lines in the log."""
        return [event["log_level"].name for event in self.logged]

    def test_change(self) -> None:
        """A new content counts after a second, not before, and the log says so."""
        watched = self.build()
        self.path.write_bytes(b"another")
        self.assertEqual(self.successResultOf(self.ask(watched)), b"one")
        self.assertEqual(self.current(watched), b"another")
        self.assertEqual(self.levels(), ["info"])
        self.assertEqual(event_text(self.logged[0]), f"file changed, read again paths={self.path}")

    def test_unchanged(self) -> None:
        """A file that stays as it is is not read again, and not checked more than once in a second."""
        watched = self.build()
        self.assertEqual([self.current(watched), self.successResultOf(self.ask(watched))], [b"one"] * 2)
        self.assertEqual(self.calls, ["_fingerprints"])

    def test_same_size_and_time(self) -> None:
        """A content that was renamed into place is seen, even with the size and time of the one before."""
        watched = self.build()
        status = self.path.stat()
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(b"two")
        os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
        fresh.replace(self.path)
        self.assertEqual(self.current(watched), b"two")

    def test_overwritten(self) -> None:
        """A content written over the old one is seen, even with its size and time of modification."""
        watched = self.build()
        before = self.path.stat()
        self.path.write_bytes(b"two")
        while self.path.stat().st_ctime_ns == before.st_ctime_ns:
            os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual(self.current(watched), b"two")

    def test_tried_again(self) -> None:
        """What could not be read is read at the next check, though the file looks as it did at first."""
        is_broken = False
        shown = [(1, 1, 1, 1, 1)]
        self.patch(watched_file, "_fingerprint", lambda _path: shown[0])

        def read() -> bytes:
            if is_broken:
                raise UnusableFileError("x", "x cannot be read: Input/output error")
            return self.path.read_bytes()

        watched = WatchedFiles([str(self.path)], read, run=self.run_now, timer=self.clock)
        self.path.write_bytes(b"another")
        is_broken, shown = True, [(2, 2, 2, 2, 2)]
        self.assertEqual([self.current(watched), self.current(watched)], [b"one"] * 2)
        is_broken, shown = False, [(1, 1, 1, 1, 1)]
        self.assertEqual(self.current(watched), b"another")

    def test_at_hand(self) -> None:
        """Without waiting there is the content until the next check is due."""
        watched = self.build()
        self.assertEqual(watched.at_hand(), b"one")
        self.clock.advance(CHECK_INTERVAL)
        self.assertIsNone(watched.at_hand())

    def test_one_check(self) -> None:
        """Callers that come while a check runs are waiters for the same one."""
        running: list[Deferred[Any]] = []

        def run(*_: Any) -> Deferred[Any]:
            running.append(Deferred())
            return running[-1]

        watched = WatchedFiles([str(self.path)], self.read, run=run, timer=self.clock)  # type: ignore[arg-type]
        self.clock.advance(CHECK_INTERVAL)
        waiters = [self.ask(watched) for _ in range(3)]
        self.assertEqual(len(running), 1)
        running[0].callback(watched_file._fingerprints([str(self.path)]))
        self.assertEqual([self.successResultOf(waiter) for waiter in waiters], [b"one"] * 3)

    def test_deleted(self) -> None:
        """While a file is missing the old content counts, with one line in the log; then it is read."""
        watched = self.build()
        self.path.unlink()
        self.assertEqual([self.current(watched) for _ in range(3)], [b"one"] * 3)
        self.assertEqual(self.levels(), ["error"])
        self.assertEqual(
            event_text(self.logged[0]),
            f'changed file unusable paths={self.path} reason="{self.path} cannot be read: No such file or'
            ' directory" effect="old content stays in use"',
        )
        self.path.write_bytes(b"two")
        self.assertEqual(self.current(watched), b"two")
        self.assertEqual(self.levels(), ["error", "info"])

    def test_fallback(self) -> None:
        """With a fallback that is the content while the file is missing."""
        watched = self.build(fallback=lambda error: error.message.encode(), meanwhile="nobody is let in")
        self.path.unlink()
        self.assertEqual(
            self.current(watched), f"{self.path} cannot be read: No such file or directory".encode()
        )
        self.assertIn('effect="nobody is let in"', event_text(self.logged[0]))

    def test_defect(self) -> None:
        """A defect in the reading reaches the caller, and the next one tries again."""
        is_faulty = False

        def read() -> bytes:
            if is_faulty:
                raise ZeroDivisionError
            return self.path.read_bytes()

        watched = WatchedFiles([str(self.path)], read, run=self.run_now, timer=self.clock)
        is_faulty = True
        self.path.write_bytes(b"another")
        self.clock.advance(CHECK_INTERVAL)
        self.failureResultOf(self.ask(watched), ZeroDivisionError)
        is_faulty = False
        self.assertEqual(self.successResultOf(self.ask(watched)), b"another")
