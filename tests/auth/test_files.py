"""Files that the section ``auth`` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from contentcache.app.assembly import local_authenticator
from contentcache.auth import interfaces
from contentcache.auth.htpasswd import HtpasswdAuthenticator
from contentcache.auth.interfaces import AuthFault, read_file
from contentcache.config.model import HtpasswdAuth, TokenAuth
from tests.auth.authenticators import SECRET, AuthenticatorTestCase, Threads


class ReadFileTests(AuthenticatorTestCase):
    """Files that an operator named."""

    def test_unreadable(self) -> None:
        """A file that cannot be read, is absurdly large or cannot exist is a fault that names it."""
        file = Path(self.mktemp())
        file.write_bytes(b"one")
        self.patch(interfaces, "LARGEST", 2)
        for path in [str(file), str(file) + "x", "a\0b", "/"]:
            self.assertIn(path, self.assertRaises(AuthFault, read_file, path).message)


class LocalAuthenticatorTests(AuthenticatorTestCase):
    """The authenticator of the section ``auth``."""

    def test_kinds(self) -> None:
        """A file of users makes one kind; the other kind reads keys, and says which file is wrong."""
        path = Path(self.mktemp())
        path.write_bytes(b"")
        surroundings: Any = {"run": Threads(), "wall": lambda: 0.0, "timer": Clock(), "secret": SECRET}
        self.assertIsInstance(
            local_authenticator(HtpasswdAuth("r", str(path)), **surroundings), HtpasswdAuthenticator
        )
        section = TokenAuth("r", "s", "i", rootcertbundle=str(path))
        self.assertIn(
            str(path), self.assertRaises(AuthFault, local_authenticator, section, **surroundings).message
        )
