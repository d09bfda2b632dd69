"""Files that the section ``auth`` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from contentcache.auth import files
from contentcache.auth.files import read_file
from contentcache.auth.htpasswd import PasswordJudge
from contentcache.auth.interfaces import AuthFault
from contentcache.auth.judges import make_judge
from contentcache.config.model import HtpasswdAuth, TokenAuth
from tests.auth.house import SECRET, JudgedCase, Threads


class ReadFileTests(JudgedCase):
    """Files that an operator named."""

    def test_unreadable(self) -> None:
        """A file that cannot be read, is absurdly large or cannot exist is a fault that names it."""
        file = Path(self.mktemp())
        file.write_bytes(b"one")
        self.patch(files, "LARGEST", 2)
        for path in [str(file), str(file) + "x", "a\0b", "/"]:
            self.assertIn(path, self.assertRaises(AuthFault, read_file, path).message)


class MakeJudgeTests(JudgedCase):
    """The judge of a section."""

    def test_kinds(self) -> None:
        """A file of users makes one kind of judge; the other kind reads keys, and says which file is wrong."""
        path = Path(self.mktemp())
        path.write_bytes(b"")
        surroundings: Any = {"run": Threads(), "wall": lambda: 0.0, "timer": Clock(), "secret": SECRET}
        self.assertIsInstance(make_judge(HtpasswdAuth("r", str(path)), **surroundings), PasswordJudge)
        section = TokenAuth("r", "s", "i", rootcertbundle=str(path))
        self.assertIn(str(path), self.assertRaises(AuthFault, make_judge, section, **surroundings).message)
