"""Tests for :mod:`tests.gateway.memory_directory`."""

from __future__ import annotations

from contentcache.gateway.directory import DirectoryStore
from tests.gateway import directory_suite
from tests.gateway.memory_directory import MemoryDirectory


class MemoryDirectoryTests(directory_suite.DirectorySuite):
    """The suite alone."""

    def make_directory(self) -> DirectoryStore:
        return MemoryDirectory()
