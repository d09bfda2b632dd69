"""Tests for :mod:`contentcache.gateway.admin.openapi`."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.admin.openapi import OPERATIONS, document


class DocumentTests(SynchronousTestCase):
    """The OpenAPI document."""

    def test_whole(self) -> None:
        """Every operation is in it, every reference has a target, and it is JSON."""
        text = json.dumps(document())
        self.assertEqual(json.loads(text), document())
        described = document()
        self.assertEqual(described["openapi"], "3.1.0")
        found = {entry["operationId"] for item in described["paths"].values() for entry in item.values()}
        self.assertEqual(found, {operation.name for operation in OPERATIONS})
        for part in text.split('"#/components/schemas/')[1:]:
            self.assertIn(part.partition('"')[0], described["components"]["schemas"])
