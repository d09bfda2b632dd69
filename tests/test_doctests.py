"""The examples in the documentation of every module."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from twisted.trial.unittest import SynchronousTestCase

import contentcache


def modules() -> Iterator[ModuleType]:
    """The package and every module below it."""
    yield contentcache
    # Not walk_packages(): that passes over a package that cannot be imported.
    waiting = [contentcache]
    while waiting:
        package = waiting.pop()
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if found.name.endswith(".__main__"):
                continue  # to import that is to run it
            module = importlib.import_module(found.name)
            yield module
            if found.ispkg:
                waiting.append(module)


class DoctestTests(SynchronousTestCase):
    """What the examples say is what happens."""

    def test_all(self) -> None:
        """Every example of every module gives what stands below it."""
        attempted = 0
        for module in modules():
            with self.subTest(module=module.__name__):
                report: list[str] = []
                runner = doctest.DocTestRunner(verbose=False)
                for test in doctest.DocTestFinder(exclude_empty=True).find(module):
                    runner.run(test, out=report.append)
                attempted += runner.tries
                self.assertEqual(runner.failures, 0, "\n" + "".join(report))
        self.assertGreater(attempted, 50)
