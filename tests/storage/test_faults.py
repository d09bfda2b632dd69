"""The faulty store is a store: what it does to a test is the fault, nothing else."""

from __future__ import annotations

import errno

from contentcache.storage.interfaces import Store
from contentcache.storage.memory import MemoryStore
from contentcache.storage.partial_files import origin_tag
from tests.storage import suites
from tests.storage.faults import FaultyStore
from tests.storage.suites import CONTENT, DIGEST, ORIGIN


class FaultyStoreTests(suites.StoreSuite):
    """The whole suite while nothing is broken, and then the faults."""

    def make_store(self) -> Store:
        self.faulty = FaultyStore(MemoryStore())
        return self.faulty

    def test_write_fails_at_a_byte(self) -> None:
        """Bytes before the fault are written, and after mending the rest is."""
        partial = self.faulty.resume(DIGEST, ORIGIN)
        self.faulty.break_down(errno.ENOSPC, "write", at=100)
        partial.write(0, CONTENT[:60])
        error = self.assertRaises(OSError, partial.write, 60, CONTENT[60:])
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual(partial.read(0, 1000), CONTENT[:100])
        self.faulty.mend()
        partial.write(100, CONTENT[100:])
        partial.commit()
        self.assertEqual(self.faulty.open(DIGEST).size, len(CONTENT))

    def test_each_operation(self) -> None:
        """Only what was named fails."""
        partial = self.faulty.resume(DIGEST, ORIGIN)
        self.faulty.break_down(errno.EIO, "commit", "delete")
        partial.write(0, CONTENT)
        self.assertRaises(OSError, partial.commit)
        self.assertRaises(OSError, self.faulty.delete, DIGEST)
        self.faulty.delete_partial(DIGEST, origin_tag(ORIGIN))
