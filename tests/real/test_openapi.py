"""The gateway's API beside its description: ``schemathesis`` asks what that allows, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.gateway.admin.admin_case import basic
from tests.real.chromium import AdminServer
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


class SchemathesisTests(SynchronousTestCase):
    """The running API beside its document."""

    def test_conforms(self) -> None:
        """
        With the same seed each time: no answer that is not described, no crash, no valid request refused and
        no invalid one taken.
        """
        server = AdminServer(self)
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
