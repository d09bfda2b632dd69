"""Tests for :mod:`contentcache.persist.file_lock`."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from twisted.trial.unittest import SynchronousTestCase

from contentcache.persist.file_lock import FileLock, FileLockedError, is_running

_HOLDER = """
import sys
from contentcache.persist.file_lock import FileLock
FileLock(sys.argv[1], mode=0o600).acquire()
print("acquired", flush=True)
sys.stdin.read()
"""


class FileLockTests(SynchronousTestCase):
    """Locks of this process, which exclude each other, and of another one."""

    def setUp(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.path = folder / "lock"
        self.lock = FileLock(self.path, mode=0o600)
        self.other = FileLock(self.path, mode=0o600)

    def refused(self, lock: FileLock, *arguments: Any, **named: Any) -> FileLockedError:
        """Why a lock is not acquired."""
        error: FileLockedError = self.assertRaises(FileLockedError, lock.acquire, *arguments, **named)
        self.assertFalse(lock.held)
        return error

    def test_round(self) -> None:
        """One holds it, signed; after the release, done twice or not, another one does. The file stays."""
        self.assertFalse(self.path.exists())
        self.lock.acquire()
        self.lock.acquire()
        self.assertEqual(self.path.read_text(), f"{os.getpid()}\n")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        error = self.refused(self.other)
        self.assertEqual(error.holder, os.getpid())
        self.assertEqual(str(error), f"{self.path} is locked by process {os.getpid()}")
        self.lock.release()
        self.lock.release()
        self.assertEqual((self.lock.held, self.lock.descriptor, self.path.read_text()), (False, None, ""))
        self.other.acquire()
        self.refused(self.lock)
        self.other.release()

    def test_killed(self) -> None:
        """The kernel releases the lock of a process that is killed."""
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        with holder:
            self.addCleanup(holder.kill)
            assert holder.stdout is not None
            self.assertEqual(holder.stdout.readline(), b"acquired\n")
            self.assertEqual(self.refused(self.lock).holder, holder.pid)
            self.assertTrue(is_running(holder.pid))
            holder.kill()
        self.assertFalse(is_running(holder.pid))
        self.lock.acquire()
        self.lock.release()

    def test_inherited(self) -> None:
        """A descriptor that another process inherited keeps the lock."""
        self.lock.acquire()
        assert self.lock.descriptor is not None
        inherited = os.dup(self.lock.descriptor)
        self.lock.release()
        self.refused(self.other)
        os.close(inherited)
        self.other.acquire()
        self.other.release()

    def test_wait(self) -> None:
        """With a timeout it is acquired once it is released, without one however long that takes."""
        flock, waiting = fcntl.flock, threading.Event()

        def note(descriptor: int, operation: int) -> None:
            if not operation & fcntl.LOCK_NB:
                waiting.set()
            try:
                flock(descriptor, operation)
            except BlockingIOError:
                waiting.set()
                raise

        for timeout in (60.0, None):
            self.lock.acquire()
            waiting.clear()
            self.patch(fcntl, "flock", note)
            thread = threading.Thread(target=self.other.acquire, args=(timeout,))
            thread.start()
            waiting.wait()
            self.assertFalse(self.other.held)
            self.lock.release()
            thread.join()
            self.patch(fcntl, "flock", flock)
            self.assertTrue(self.other.held)
            self.other.release()

    def test_worth_waiting(self) -> None:
        """The caller sees the holder of each attempt, and ends the wait before its time."""
        holders: list[int | None] = []

        def twice(holder: int | None) -> bool:
            holders.append(holder)
            return len(holders) < 2

        self.lock.acquire()
        self.refused(self.other, 3600.0, worth_waiting=twice)
        self.assertEqual(holders, [os.getpid()] * 2)
        self.lock.release()

    def test_timeout(self) -> None:
        """When the time is over it says who holds it, and no descriptor is left."""
        self.lock.acquire()
        before = os.listdir("/proc/self/fd")
        self.refused(self.other, 0.01)
        self.assertEqual(os.listdir("/proc/self/fd"), before)
        self.lock.release()

    def test_unreadable_signature(self) -> None:
        """A file with anything else in it does not say who holds the lock."""
        self.lock.acquire()
        for content in (b"", b"\xff\xfe", b"9" * 5000):
            self.path.write_bytes(content)
            error = self.refused(self.other)
            self.assertIn("is locked by ", str(error))
        self.lock.release()

    def test_full_disk(self) -> None:
        """A disk without room for the signature does not keep anybody from locking."""
        self.patch(os, "pwrite", _raise(errno.ENOSPC))
        self.lock.acquire()
        self.assertIsNone(self.refused(self.other).holder)
        self.lock.release()

    def test_read_only_disk(self) -> None:
        """Where that is allowed, a file that is there is locked on a read-only disk too."""
        allowed = FileLock(self.path, mode=0o600, allow_read_only=True)
        self.path.write_bytes(b"")
        opened = os.open

        def read_only(path: str, flags: int, *mode: int) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.EROFS, "Read-only file system")
            return opened(path, flags, *mode)

        self.patch(os, "open", read_only)
        self.assertEqual(self.assertRaises(OSError, self.lock.acquire).errno, errno.EROFS)
        allowed.acquire()
        self.assertIsNone(self.refused(FileLock(self.path, mode=0o600, allow_read_only=True)).holder)
        allowed.release()
        self.path.unlink()
        self.assertRaises(FileNotFoundError, allowed.acquire)

    def test_no_locks(self) -> None:
        """A file system without locks is an error, or where that is allowed the lock is everybody's."""
        for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            self.patch(fcntl, "flock", _raise(number))
            before = os.listdir("/proc/self/fd")
            self.assertEqual(self.assertRaises(OSError, self.lock.acquire).errno, number)
            self.assertEqual(os.listdir("/proc/self/fd"), before)
            allowed = FileLock(self.path, mode=0o600, allow_unsupported=True)
            allowed.acquire()
            self.assertTrue(allowed.held)
            allowed.release()
        self.patch(fcntl, "flock", _raise(errno.EIO))
        broken = FileLock(self.path, mode=0o600, allow_unsupported=True)
        self.assertEqual(self.assertRaises(OSError, broken.acquire).errno, errno.EIO)

    def test_link(self) -> None:
        """A link in the place of the file is not followed."""
        target = self.path.with_name("target")
        self.path.symlink_to(target)
        self.assertEqual(self.assertRaises(OSError, self.lock.acquire).errno, errno.ELOOP)
        self.assertFalse(target.exists())

    def test_running(self) -> None:
        """Another account's process runs; a number that no process can have counts as running, for safety."""
        self.assertTrue(is_running(os.getpid()))
        self.patch(os, "kill", _raise(errno.EPERM))
        self.assertTrue(is_running(1))
        self.patch(os, "kill", _overflow)
        self.assertTrue(is_running(10**30))


def _raise(number: int) -> Any:
    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def _overflow(*_: object) -> NoReturn:
    raise OverflowError
