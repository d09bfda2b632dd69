"""Tests for :mod:`contentcache.gateway.openapi`: ``schemathesis`` asks what the document allows, and does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.declarations import OPERATIONS
from contentcache.gateway.openapi import document
from tests.gateway.chromium import DeskServer
from tests.gateway.lobby import basic
from tests.real.programs import ROOT

_EXAMPLES = "25"

#: A name can be taken, an id can be nobody's: so a body that fits its schema may be refused by these two.
_CONFIGURATION = """
[[operations]]
include-name = "PATCH /api/v0/accounts/{username}/settings"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "429", "5xx"]

[[operations]]
include-name = "POST /api/v0/content_caches"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "429", "5xx"]
"""


class DocumentTests(SynchronousTestCase):
    """The document by itself."""

    def test_whole(self) -> None:
        """Every declaration is in it, every reference leads somewhere, and it is JSON."""
        text = json.dumps(document())
        self.assertEqual(json.loads(text), document())
        described = document()
        self.assertEqual(described["openapi"], "3.1.0")
        found = {entry["operationId"] for item in described["paths"].values() for entry in item.values()}
        self.assertEqual(found, {operation.name for operation in OPERATIONS})
        for part in text.split('"#/components/schemas/')[1:]:
            self.assertIn(part.partition('"')[0], described["components"]["schemas"])


class SchemathesisTests(SynchronousTestCase):
    """The running API beside its document."""

    def test_conforms(self) -> None:
        """
        With the same seed each time: no answer that is not described, no crash, no valid request refused and
        no invalid one taken.
        """
        server = DeskServer(self)
        place = self.mktemp()
        os.makedirs(place)
        with open(os.path.join(place, "schemathesis.toml"), "w", encoding="utf-8") as file:
            file.write(_CONFIGURATION)
        done = subprocess.run(
            [
                os.path.join(os.path.dirname(sys.executable), "schemathesis"),
                "run",
                f"{server.url}/api/v0/openapi.json",
                "--checks=all",
                "--header",
                f"Authorization: {basic('alice')}",
                f"--max-examples={_EXAMPLES}",
                "--seed=1",
                "--request-timeout=60",
                "--no-color",
                "--generation-database=none",
                "--phases=examples,coverage,fuzzing,stateful",
            ],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])
