"""Tests for :mod:`contentcache.storage.opening`: store and index as the settings say."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import StorageSettings
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import StoreLocked
from contentcache.storage.memory import MemoryStore
from contentcache.storage.opening import Storage, open_storage, own_file
from tests.storage.suites import record


class OpeningTests(SynchronousTestCase):
    """One function opens both."""

    def open(self, settings: StorageSettings) -> Storage:
        storage = open_storage(settings, lambda: None)
        self.addCleanup(storage.index.close)
        if storage.lock is not None:
            self.addCleanup(storage.lock.close)
        return storage

    def test_in_memory(self) -> None:
        """The driver ``inmemory`` touches no disk and needs no lock."""
        folder = self.mktemp()
        storage = self.open(StorageSettings(driver="inmemory", rootdirectory=folder))
        self.assertIsInstance(storage.store, MemoryStore)
        self.assertIsInstance(storage.index, MemoryIndex)
        self.assertIsNone(storage.lock)
        self.assertFalse(os.path.exists(folder))

    def test_on_disk(self) -> None:
        """The driver ``filesystem`` has its index below the root directory, and it lasts."""
        settings = StorageSettings(rootdirectory=os.path.abspath(self.mktemp()))
        storage = open_storage(settings, lambda: None)
        self.assertIsInstance(storage.store, FilesystemStore)
        self.assertIsNone(storage.fault)
        storage.index.record([record(1, 1.0)])
        storage.index.close()
        assert storage.lock is not None
        storage.lock.close()
        self.assertTrue(own_file(settings, "index.sqlite3").is_file())
        self.assertEqual(list(self.open(settings).index.least_recent(10)), [record(1, 1.0)])

    def test_locked(self) -> None:
        """A root directory serves one daemon at a time."""
        settings = StorageSettings(rootdirectory=os.path.abspath(self.mktemp()))
        self.open(settings)
        with self.assertRaises(StoreLocked):
            open_storage(settings, lambda: None)
