"""Tests for ``docs/security.rst``: what it promises is shown by tests that there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

DOCUMENT = (Path(__file__).parents[1] / "docs" / "security.rst").read_text("utf-8")
NAMED = re.compile(r"``(tests\.[a-z0-9_.]+)\.([A-Za-z0-9]+)\.(test_[a-z0-9_]+)``")


class SecurityDocumentTests(SynchronousTestCase):
    """The threat model."""

    def test_every_test_exists(self) -> None:
        """Each test that is named is there, in its class, under that name."""
        named = NAMED.findall(DOCUMENT)
        self.assertGreater(len(named), 50)
        for module, case, test in named:
            there = getattr(importlib.import_module(module), case, None)
            self.assertTrue(callable(getattr(there, test, None)), f"{module}.{case}.{test} is no test")

    def test_every_name_is_whole(self) -> None:
        """Nothing that looks like a name of a test is written in another way."""
        self.assertEqual(len(re.findall(r"tests\.[a-z]", DOCUMENT)), len(NAMED.findall(DOCUMENT)))

    def test_every_promise_has_a_test(self) -> None:
        """Every item of every list ends with a test."""
        items = re.findall(r"^\* (?:.+\n)(?:  .+\n)*", DOCUMENT, re.MULTILINE)
        self.assertTrue(items)
        for item in items:
            self.assertTrue(NAMED.search(item.splitlines()[-1]), item)
