"""Tests for :mod:`contentcache.storage.opening`."""

from __future__ import annotations

import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contentcache.storage.opening import read_or_make_secret


class OwnSecretTests(SynchronousTestCase):
    """A secret in a file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp(), "below", "key")

    def test_kept(self) -> None:
        """It is made once, for nobody else to read, and is the same from then on."""
        secret = read_or_make_secret(self.path)
        self.assertEqual((len(secret), read_or_make_secret(self.path)), (32, secret))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual([found.name for found in self.path.parent.iterdir()], ["key"])

    def test_cut_short(self) -> None:
        """One that a full disk has cut short is made anew."""
        read_or_make_secret(self.path)
        self.path.write_bytes(b"short")
        self.assertEqual(read_or_make_secret(self.path), read_or_make_secret(self.path))

    def test_no_file(self) -> None:
        """Where none can be kept, and where something else is in its place, there is one all the same."""
        self.path.parent.mkdir(parents=True)
        self.path.symlink_to("/etc/hostname")
        self.assertNotEqual(read_or_make_secret(self.path), read_or_make_secret(self.path))
        below_a_file = self.path.parent / "file"
        below_a_file.write_bytes(b"")
        self.assertEqual(len(read_or_make_secret(below_a_file / "key")), 32)
