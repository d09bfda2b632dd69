"""One daemon to a root directory."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contentcache.storage.interfaces import StoreLocked
from contentcache.storage.opening import RootLock

_HOLDER = """
import sys
from contentcache.storage.opening import RootLock
RootLock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


#: Takes the lock and dies, while a child of it lives until nobody writes to a pipe any more.
_FORKS = """
import os, sys
from contentcache.storage.opening import RootLock
lock = RootLock(sys.argv[1])
lock.acquire()
if os.fork() == 0:
    os.read(int(sys.argv[2]), 1)
os._exit(9)
"""


class RootLockTests(SynchronousTestCase):
    """Held by a real second process, and by this one."""

    def setUp(self) -> None:
        self.root = self.mktemp()

    def test_second_process(self) -> None:
        """Who comes second is told who is first and what to do; when the first is killed the way is free."""
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, self.root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        self.addCleanup(holder.stdin.close)
        self.addCleanup(holder.stdout.close)
        self.assertEqual(holder.stdout.readline(), b"held\n")
        error = self.assertRaises(StoreLocked, RootLock(self.root).acquire)
        self.assertIn(f"process {holder.pid}: stop it", str(error))
        self.assertIn(os.path.abspath(self.root), str(error))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with RootLock(self.root):
            self.assertEqual(self.lock_file().read_text(), f"{os.getpid()}\n")

    def lock_file(self) -> Path:
        return Path(self.root, "contentcache", "lock")

    def test_given_back(self) -> None:
        """A closed lock can be taken again; the file stays, since others may have it open."""
        lock = RootLock(self.root)
        self.assertFalse(os.path.exists(self.root))
        lock.acquire()
        lock.acquire()
        self.assertRaises(StoreLocked, RootLock(self.root).acquire)
        lock.close()
        lock.close()
        self.assertTrue(self.lock_file().exists())
        with RootLock(self.root):
            self.assertRaises(StoreLocked, lock.acquire)

    def test_heirs(self) -> None:
        """
        Who inherits the lock has it too. Where the one who took it is dead, its heirs are waited for: they
        are about to end, or else they have it.
        """
        reading, writing = os.pipe()
        first = subprocess.run(
            [sys.executable, "-c", _FORKS, self.root, str(reading)],
            pass_fds=[reading],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
        os.close(reading)
        self.assertEqual(first.returncode, 9)
        lock = RootLock(self.root)
        error = self.assertRaises(StoreLocked, lock.acquire, timeout=0.0)
        self.assertIn("in use by process ", str(error))
        os.close(writing)
        lock.acquire(timeout=30.0)
        lock.close()

    def test_holder_unknown(self) -> None:
        """Rubbish in the file, or nothing, does not spoil the sentence."""
        with RootLock(self.root):
            for rubbish in (b"", b"\xff\xfe", b"9" * 5000):
                self.lock_file().write_bytes(rubbish)
                error = self.assertRaises(StoreLocked, RootLock(self.root).acquire)
                self.assertIn("in use by ", str(error))

    def test_full_disk(self) -> None:
        """A disk that cannot even take the number of the process is no reason to refuse."""

        def full(*arguments: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(os, "pwrite", full)
        with RootLock(self.root):
            error = self.assertRaises(StoreLocked, RootLock(self.root).acquire)
        self.assertIn("another process", str(error))

    def test_mode(self) -> None:
        """Others may not open the file, for whoever can open it can hold it."""
        with RootLock(self.root):
            self.assertEqual(self.lock_file().stat().st_mode & 0o777 & ~0o640, 0)
