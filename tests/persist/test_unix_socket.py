"""Tests for :mod:`contentcache.persist.unix_socket`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contentcache.persist.unix_socket import own_folder, safe_folder


class FolderTests(SynchronousTestCase):
    """Who may replace a socket."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()

    @property
    def mode(self) -> int:
        """The mode of the folder."""
        return self.folder.stat().st_mode & 0o7777

    def test_made(self) -> None:
        """A folder that is not there is made, for this account alone."""
        for make in (own_folder, safe_folder):
            make(str(self.folder / make.__name__))
            self.assertEqual((self.folder / make.__name__).stat().st_mode & 0o7777, 0o700)

    def test_narrowed(self) -> None:
        """Our own folder gets the mode 0700, whatever it had."""
        self.folder.mkdir()
        for mode in (0o777, 0o750, 0o1777, 0o700):
            self.folder.chmod(mode)
            own_folder(str(self.folder))
            self.assertEqual(self.mode, 0o700)

    def test_foreign(self) -> None:
        """A link, and another account's folder, are left as they are, and refused."""
        self.folder.mkdir(mode=0o755)
        link = self.folder / "link"
        link.symlink_to(self.folder)
        error = self.assertRaises(OSError, own_folder, str(link))
        self.assertIn(f"{link} is a symbolic link", error.strerror or "")
        self.patch(os, "geteuid", lambda: self.folder.stat().st_uid + 1)
        error = self.assertRaises(OSError, own_folder, str(self.folder))
        self.assertIn(f"{self.folder} belongs to another account", error.strerror or "")
        self.assertEqual(self.mode, 0o755)

    def test_chosen(self) -> None:
        """A folder that the operator has chosen keeps its mode: it is refused where others may write into it."""
        self.folder.mkdir()
        for mode, is_safe in ((0o755, True), (0o1777, True), (0o777, False), (0o770, False), (0o707, False)):
            self.folder.chmod(mode)
            if is_safe:
                safe_folder(str(self.folder))
            else:
                error = self.assertRaises(OSError, safe_folder, str(self.folder))
                self.assertIn(f"{self.folder} can be written by other accounts", error.strerror or "")
            self.assertEqual(self.mode, mode)
