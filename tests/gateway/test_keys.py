"""Tests for :mod:`contentcache.gateway.keys`."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway import keys
from contentcache.gateway.keys import MAX_AGE, NOTICE, KeyFiles, SigningKeyError
from contentcache.jose.keyset import parse_key_set

LIFE = 86400.0
URLS = 1200.0
NOW = 1e9


class KeyTests(SynchronousTestCase):
    """Rotation by the clock."""

    def setUp(self) -> None:
        self.now = NOW
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "signing.pem"
        self.key_files = self.another()

    def another(self) -> KeyFiles:
        """Another gateway over the same files."""
        return KeyFiles(str(self.path), lifetime=LIFE, url_lifetime=URLS, wall=lambda: self.now)

    def rotate(self, key_files: KeyFiles | None = None) -> tuple[str, list[str]]:
        """The key that signs, and those that are published."""
        key_files = key_files or self.key_files
        key_files.rotate()
        keys = key_files.keys
        assert keys is not None
        return keys.signing.kid, list(parse_key_set(keys.document()).keys)

    def test_first(self) -> None:
        """The first key is created, unreadable for others, and loaded again."""
        self.assertIsNone(self.key_files.signer())
        self.assertEqual(dict(self.key_files.key_set().keys), {})
        kid, published = self.rotate()
        self.assertEqual(published, [kid])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.rotate(self.another()), (kid, [kid]))

    def test_life(self) -> None:
        """The next key is published long before it signs, and the old one for as long as its URLs are valid."""
        first, _ = self.rotate()
        self.now = NOW + LIFE - 2 * NOTICE - 1
        self.assertEqual(self.rotate(), (first, [first]))
        self.now += 1
        signing, published = self.rotate()
        self.assertEqual((signing, published[0], len(published)), (first, first, 2))
        second = published[1]
        self.now = NOW + LIFE - 1
        self.assertEqual(self.rotate(), (first, [first, second]))
        self.now += 1
        self.assertEqual(self.rotate(), (second, [second, first]))
        self.now += URLS + 120
        self.assertEqual(self.rotate(), (second, [second, first]))
        self.now += 30
        self.assertEqual(self.rotate(), (second, [second]))
        self.assertGreater(NOTICE, MAX_AGE)

    def test_late(self) -> None:
        """After a long pause the next key is still published before it signs."""
        first, _ = self.rotate()
        self.now = NOW + 10 * LIFE
        signing, published = self.rotate()
        self.assertEqual((signing, len(published)), (first, 2))
        self.now += NOTICE - 1
        self.assertEqual(self.rotate()[0], first)
        self.now += 1
        self.assertEqual(self.rotate()[0], published[1])

    def test_shared(self) -> None:
        """Gateways that share the folder sign with one key, whoever of them is first."""
        other = self.another()
        self.rotate()
        for _ in range(400):
            self.now += 600
            one, many = self.rotate(), self.rotate(other)
            self.assertEqual(one, many)
        self.assertTrue(one[0])

    def test_notices_change(self) -> None:
        """``rotate`` returns true when another key signs, and only then."""
        self.assertFalse(self.key_files.rotate())
        changes = 0
        for _ in range(200):
            self.now += 600
            changes += self.key_files.rotate()
        self.assertEqual(changes, 1)

    def test_killed(self) -> None:
        """Where a gateway was killed in the middle of a step, a key still signs, and it was published."""
        first, _ = self.rotate()
        self.now = NOW + LIFE - NOTICE
        _, (_, second) = self.rotate()
        self.path.unlink()
        self.assertEqual(self.rotate(self.another())[0], second)
        self.assertNotEqual(first, second)

    def test_clock_that_was_wrong(self) -> None:
        """A key from the future counts from now."""
        first, _ = self.rotate()
        os.utime(self.path, (NOW + 10 * LIFE, NOW + 10 * LIFE))
        self.now = NOW + 100
        self.assertEqual(self.rotate(), (first, [first]))

    def test_broken(self) -> None:
        """An unusable file is an error with a message, and the loaded keys stay."""
        kid, _ = self.rotate()
        self.path.write_text("nonsense")
        with self.assertRaisesRegex(SigningKeyError, "signing.pem does not hold a private key"):
            self.key_files.rotate()
        self.assertEqual(self.key_files.keys.signing.kid if self.key_files.keys else None, kid)
        nowhere = KeyFiles(
            self.mktemp() + "/none/x.pem", lifetime=LIFE, url_lifetime=URLS, wall=lambda: self.now
        )
        with self.assertRaisesRegex(SigningKeyError, "No such file"):
            nowhere.rotate()

    def test_disk(self) -> None:
        """Where nothing can be written the existing keys sign, after a restart too, and the fault is raised."""
        kid, _ = self.rotate()

        def full(*_args: object, **_more: object) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

        opened = os.open

        def full_for_writers(path: Any, flags: int, *args: Any, **more: Any) -> int:
            return full() if flags & (os.O_WRONLY | os.O_RDWR) else opened(path, flags, *args, **more)

        self.now += LIFE
        for name, module, replacement in (
            ("write_atomically", keys, full),
            ("open", os, full_for_writers),
        ):
            fresh = KeyFiles(str(self.path), lifetime=LIFE, url_lifetime=URLS, wall=lambda: self.now)
            patched = self.patch(module, name, replacement)
            for key_files in (self.key_files, fresh):
                with self.assertRaisesRegex(SigningKeyError, "No space left"):
                    key_files.rotate()
                self.assertEqual(key_files.keys.signing.kid if key_files.keys else None, kid)
            patched.restore()

    def test_no_secret_shown(self) -> None:
        """Neither the set nor a representation has anything of a private key."""
        self.rotate()
        keys = self.key_files.keys
        assert keys is not None
        self.assertNotIn(b'"d"', keys.document())
        self.assertNotIn("PrivateKey", repr(keys))
