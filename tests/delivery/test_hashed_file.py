"""Written spans and the hash of the prefix, behind one lock."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.delivery.download_file import PIECE, HashedFile
from contentcache.storage.memory import MemoryPartial, MemoryStore
from tests.delivery.in_memory import ORIGIN


class HashedFileTests(SynchronousTestCase):
    """One content, written in some order."""

    def begin(self, content: bytes) -> tuple[HashedFile, MemoryPartial]:
        """An empty file for a content."""
        file = MemoryStore().resume(Digest.of(content), ORIGIN)
        return HashedFile(file, Digest.of(content), ()), file

    def test_hash_stops_at_a_hole(self) -> None:
        """What lies behind a hole is not hashed, however often it is asked for, until the hole is closed."""
        content = os.urandom(3000)
        hashed, _file = self.begin(content)
        hashed.write(2000, content[2000:])
        hashed.write(0, content[:1000])
        for _ in range(3):
            hashed.hash_more()
        self.assertEqual((hashed.prefix, hashed.hashed), (1000, 1000))
        hashed.write(1000, content[1000:2000])
        self.assertEqual((hashed.prefix, hashed.hashed), (3000, 2000))
        hashed.hash_more()
        self.assertTrue(hashed.matches_digest(3000))

    def test_each_byte_is_written_once(self) -> None:
        """A byte that is there stays, hashed or not: somebody may have read it."""
        content = bytes(range(250)) * 4
        hashed, file = self.begin(content)
        hashed.write(500, content[500:600])
        hashed.write(0, content[:100])
        hashed.write(0, bytes(1000))
        self.assertEqual(file.read(500, 100), content[500:600])
        self.assertEqual(file.read(0, 100), content[:100])
        self.assertEqual(file.read(100, 400), bytes(400))

    def test_spans_of_an_earlier_run(self) -> None:
        """What was there at the beginning is hashed by pieces, and not beyond its first run."""
        content = os.urandom(PIECE + 1000)
        file = MemoryStore().resume(Digest.of(content), ORIGIN)
        file.write(0, content)
        hashed = HashedFile(file, Digest.of(content), ((0, PIECE + 10), (PIECE + 20, PIECE + 1000)))
        hashed.hash_more()
        self.assertEqual(hashed.hashed, PIECE)
        hashed.hash_more()
        hashed.hash_more()
        self.assertEqual(hashed.hashed, PIECE + 10)
        hashed.write(PIECE + 10, content[PIECE + 10 :][:10])
        hashed.hash_more()
        self.assertTrue(hashed.matches_digest(len(content)))

    def test_a_defect_blames_nobody(self) -> None:
        """A digest is not compared while bytes are missing: an upstream would be blamed for our defect."""
        content = os.urandom(1000)
        hashed, _file = self.begin(content)
        hashed.write(0, content[:500])
        self.assertRaises(RuntimeError, hashed.matches_digest, 1000)
        hashed.write(600, content[600:])
        self.assertRaises(RuntimeError, hashed.matches_digest, 500)

    def test_restart(self) -> None:
        """Nothing is left of what was written and hashed before."""
        content = os.urandom(1000)
        hashed, file = self.begin(content)
        hashed.write(0, bytes(1000))
        self.assertFalse(hashed.matches_digest(1000))
        hashed.restart()
        self.assertEqual((hashed.prefix, hashed.hashed, file.read(0, 1000)), (0, 0, b""))
        hashed.write(0, content)
        self.assertTrue(hashed.matches_digest(1000))
