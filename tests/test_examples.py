"""The examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

from twisted.trial.unittest import SynchronousTestCase

import contentcache
import tests.real.documents
import tests.real.origin
import tests.run


class ExampleTests(SynchronousTestCase):
    """Whoever reads a docstring may believe it."""

    def test_examples(self) -> None:
        """Every example gives what it says."""
        found = pkgutil.walk_packages(contentcache.__path__, "contentcache.")
        modules = [importlib.import_module(module.name) for module in found]
        attempted = 0
        for module in [*modules, tests.run, tests.real.documents, tests.real.origin]:
            result = doctest.testmod(module)
            self.assertEqual(result.failed, 0, module.__name__)
            attempted += result.attempted
        self.assertGreater(attempted, 0)
