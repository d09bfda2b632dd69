"""Tests for :mod:`contentcache.config.faults`."""

from __future__ import annotations

import doctest

from twisted.trial.unittest import SynchronousTestCase

from contentcache.config import faults
from contentcache.config.faults import ConfigurationError, Fault, Origin, Position, Report


class FaultTests(SynchronousTestCase):
    """How faults are collected and told."""

    def test_told(self) -> None:
        """Each fault is one line: with the file and the line, or with the variable it came from."""
        error = ConfigurationError(
            "c.yml",
            [
                Fault("a.b", 3, "wrong"),
                Fault("", None, "cannot be read"),
                Fault("a", None, "bad", "REGISTRY_A"),
            ],
        )
        self.assertEqual(str(error), "c.yml:3: a.b: wrong\nc.yml: cannot be read\nREGISTRY_A: a: bad")

    def test_order(self) -> None:
        """Faults come in the order of the file, each once, those of the environment last."""
        report = Report()
        places = [
            Position("v", Origin(None, "REGISTRY_V")),
            Position("b", Origin(7)),
            Position("a", Origin(2)),
            Position("c"),
        ]
        for place in places + places:
            report.fault(place, "wrong")
        self.assertEqual([fault.path for fault in report.faults()], ["c", "a", "b", "v"])

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(faults).failed, 0)
