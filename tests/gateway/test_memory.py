"""Tests for :mod:`contentcache.gateway.memory`."""

from __future__ import annotations

from contentcache.gateway.directory import Directory
from contentcache.gateway.memory import MemoryDirectory
from tests.gateway import suites


class MemoryDirectoryTests(suites.DirectorySuite):
    """The suite alone."""

    def make_directory(self) -> Directory:
        return MemoryDirectory()
