"""
Files that change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger

from contentcache.auth import watching
from contentcache.auth.htpasswd import PasswordJudge
from contentcache.auth.interfaces import AuthFault
from contentcache.auth.judges import make_judge
from contentcache.auth.watching import Watched, read_file
from contentcache.config.model import HtpasswdAuth, TokenAuth
from tests.auth.house import SECRET, JudgedCase, Threads


class WatchedTests(JudgedCase):
    """
    Content that follows its file.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_bytes(b"one")
        self.clock = Clock()
        self.threads = Threads()
        self.logged: list[LogEvent] = []
        self.patch(watching, "_log", Logger(observer=self.logged.append))  # type: ignore[arg-type]

    def build(self, **more: Any) -> Watched[bytes]:
        """Watch the file."""
        path = str(self.path)
        return Watched([path], lambda: read_file(path), run=self.threads, timer=self.clock, **more)

    def current(self, watched: Watched[bytes]) -> bytes:
        """What it holds, a second later."""
        self.clock.advance(1.0)
        return self.successResultOf(self.start(watched.current()))

    def levels(self) -> list[str]:
        """How grave the lines of the log are."""
        return [event["log_level"].name for event in self.logged]

    def test_change(self) -> None:
        """
        A new content counts after a second, not before, and is told in the log.
        """
        watched = self.build()
        self.path.write_bytes(b"another")
        self.assertEqual(self.successResultOf(self.start(watched.current())), b"one")
        self.assertEqual(self.current(watched), b"another")
        self.assertEqual(self.levels(), ["info"])

    def test_gone(self) -> None:
        """
        While a file is gone the old content counts, and one line says so; once it is back it is read.
        """
        watched = self.build()
        self.path.unlink()
        self.assertEqual([self.current(watched) for _ in range(3)], [b"one"] * 3)
        self.assertEqual(self.levels(), ["error"])
        self.path.write_bytes(b"two")
        self.assertEqual(self.current(watched), b"two")
        self.assertEqual(self.levels(), ["error", "info"])

    def test_lost(self) -> None:
        """
        With ``lost`` that counts while the file is gone.
        """
        watched = self.build(lost=lambda fault: fault.message.encode())
        self.path.unlink()
        self.assertEqual(
            self.current(watched), f"{self.path} cannot be read: No such file or directory".encode()
        )

    def test_defect(self) -> None:
        """
        A defect in the reading reaches who asks, and the next one tries again.
        """
        faulty = False

        def read() -> bytes:
            if faulty:
                raise ZeroDivisionError
            return self.path.read_bytes()

        watched = Watched([str(self.path)], read, run=self.threads, timer=self.clock)
        faulty = True
        self.path.write_bytes(b"another")
        self.clock.advance(1.0)
        self.failureResultOf(self.start(watched.current()), ZeroDivisionError)
        faulty = False
        self.assertEqual(self.successResultOf(self.start(watched.current())), b"another")

    def test_unreadable(self) -> None:
        """
        A file that cannot be read, is absurdly large or cannot exist is a fault that names it.
        """
        self.patch(watching, "LARGEST", 2)
        for path in [str(self.path), str(self.path) + "x", "a\0b", "/"]:
            self.assertIn(path, self.assertRaises(AuthFault, read_file, path).message)


class MakeJudgeTests(JudgedCase):
    """
    The judge of a section.
    """

    def test_kinds(self) -> None:
        """
        A file of users makes one kind of judge; the other kind reads keys, and says which file is wrong.
        """
        path = Path(self.mktemp())
        path.write_bytes(b"")
        surroundings: Any = {"run": Threads(), "wall": lambda: 0.0, "timer": Clock(), "secret": SECRET}
        self.assertIsInstance(make_judge(HtpasswdAuth("r", str(path)), **surroundings), PasswordJudge)
        section = TokenAuth("r", "s", "i", rootcertbundle=str(path))
        self.assertIn(str(path), self.assertRaises(AuthFault, make_judge, section, **surroundings).message)
