"""
Tests for :mod:`contentcache.gateway.keys`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway import keys
from contentcache.gateway.keys import MAX_AGE, NOTICE, KeyFault, KeyRing
from contentcache.jose.keyset import parse_key_set

LIFE = 86400.0
URLS = 1200.0
NOW = 1e9


class KeyTests(SynchronousTestCase):
    """
    Keys by the clock.
    """

    def setUp(self) -> None:
        self.now = NOW
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "signing.pem"
        self.ring = self.another()

    def another(self) -> KeyRing:
        """
        Another gateway over the same files.
        """
        return KeyRing(str(self.path), life=LIFE, url_life=URLS, wall=lambda: self.now)

    def tend(self, ring: KeyRing | None = None) -> tuple[str, list[str]]:
        """
        Which key signs, and which are published.
        """
        ring = ring or self.ring
        ring.tend()
        keys = ring.keys
        assert keys is not None
        return keys.signing.kid, list(parse_key_set(keys.document()).keys)

    def test_first(self) -> None:
        """
        The first key is made, for nobody else to read, and found again.
        """
        self.assertIsNone(self.ring.signer())
        self.assertEqual(dict(self.ring.key_set().keys), {})
        kid, published = self.tend()
        self.assertEqual(published, [kid])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.tend(self.another()), (kid, [kid]))

    def test_life(self) -> None:
        """
        The next key is published long before it signs, and the old one for as long as its URLs live.
        """
        first, _ = self.tend()
        self.now = NOW + LIFE - 2 * NOTICE - 1
        self.assertEqual(self.tend(), (first, [first]))
        self.now += 1
        signing, published = self.tend()
        self.assertEqual((signing, published[0], len(published)), (first, first, 2))
        second = published[1]
        self.now = NOW + LIFE - 1
        self.assertEqual(self.tend(), (first, [first, second]))
        self.now += 1
        self.assertEqual(self.tend(), (second, [second, first]))
        self.now += URLS + 120
        self.assertEqual(self.tend(), (second, [second, first]))
        self.now += 30
        self.assertEqual(self.tend(), (second, [second]))
        self.assertGreater(NOTICE, MAX_AGE)

    def test_late(self) -> None:
        """
        After a long sleep the next key is published first all the same.
        """
        first, _ = self.tend()
        self.now = NOW + 10 * LIFE
        signing, published = self.tend()
        self.assertEqual((signing, len(published)), (first, 2))
        self.now += NOTICE - 1
        self.assertEqual(self.tend()[0], first)
        self.now += 1
        self.assertEqual(self.tend()[0], published[1])

    def test_shared(self) -> None:
        """
        Gateways that share the folder sign with one key, whoever of them is first.
        """
        other = self.another()
        self.tend()
        for _ in range(400):
            self.now += 600
            one, many = self.tend(), self.tend(other)
            self.assertEqual(one, many)
        self.assertTrue(one[0])

    def test_notices_change(self) -> None:
        """
        Tending tells when another key signs, and only then.
        """
        self.assertFalse(self.ring.tend())
        changes = 0
        for _ in range(200):
            self.now += 600
            changes += self.ring.tend()
        self.assertEqual(changes, 1)

    def test_killed(self) -> None:
        """
        Where a gateway was killed in the middle of a step, a key still signs, and it was published.
        """
        first, _ = self.tend()
        self.now = NOW + LIFE - NOTICE
        _, (_, second) = self.tend()
        self.path.unlink()
        self.assertEqual(self.tend(self.another())[0], second)
        self.assertNotEqual(first, second)

    def test_clock_that_was_wrong(self) -> None:
        """
        A key from the future counts from now.
        """
        first, _ = self.tend()
        os.utime(self.path, (NOW + 10 * LIFE, NOW + 10 * LIFE))
        self.now = NOW + 100
        self.assertEqual(self.tend(), (first, [first]))

    def test_broken(self) -> None:
        """
        A file that cannot be used is a sentence, and what was known stays.
        """
        kid, _ = self.tend()
        self.path.write_text("nonsense")
        with self.assertRaisesRegex(KeyFault, "signing.pem does not hold a private key"):
            self.ring.tend()
        self.assertEqual(self.ring.keys.signing.kid if self.ring.keys else None, kid)
        nowhere = KeyRing(self.mktemp() + "/none/x.pem", life=LIFE, url_life=URLS, wall=lambda: self.now)
        with self.assertRaisesRegex(KeyFault, "No such file"):
            nowhere.tend()

    def test_disk(self) -> None:
        """
        Where nothing can be written the keys that are there sign, after a restart too, and the fault is told.
        """
        kid, _ = self.tend()

        def full(*_args: object, **_more: object) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.now += LIFE
        for name, module in (("_write", keys), ("open", os)):
            fresh = KeyRing(str(self.path), life=LIFE, url_life=URLS, wall=lambda: self.now)
            patched = self.patch(module, name, full)
            for ring in (self.ring, fresh):
                with self.assertRaisesRegex(KeyFault, "No space left"):
                    ring.tend()
                self.assertEqual(ring.keys.signing.kid if ring.keys else None, kid)
            patched.restore()

    def test_no_secret_shown(self) -> None:
        """
        Neither the set nor a representation has anything of a private key.
        """
        self.tend()
        keys = self.ring.keys
        assert keys is not None
        self.assertNotIn(b'"d"', keys.document())
        self.assertNotIn("PrivateKey", repr(keys))
