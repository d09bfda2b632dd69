"""
What is loaded, and when: a plain cache has nothing in memory that others need, and who has become another
account need not be able to read the program any more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

import contentcache
from tests.config.writing import MINIMAL

#: For each configuration: what of the names given first is loaded when it is built, and what was loaded late.
_BUILD: Final = """
import json, sys
from twisted.internet import reactor
from contentcache.config.loading import load
from contentcache.app.daemon import Daemon
import contentcache.app.tap
for path in sys.argv[2:]:
    daemon = Daemon(load(path, {}), {}, reactor)
    daemon.privilegedStartService()
    early = set(sys.modules)
    daemon.build()
    loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
    print(json.dumps({"loaded": loaded, "late": sorted(set(sys.modules) - early)}))
"""

#: Each of them is megabytes, or leads to what is.
_FOR_OTHERS: Final = (
    "contentcache.acme",
    "contentcache.auth.htpasswd",
    "contentcache.auth.tokens",
    "contentcache.commands",
    "contentcache.gateway",
    "contentcache.app.issuance",
    "contentcache.workers",
    "acme",
    "click",
    "decimal",
    "h11",
    "jinja2",
    "klein",
    "rich",
    "twisted.spread.pb",
    "twisted.web.resource",
    "twisted.web.server",
    "twisted.web.template",
    "txacme",
    "werkzeug",
)


class LoadingTests(SynchronousTestCase):
    """A process of its own for all of them, in which one follows the other."""

    def build(self, *configurations: str) -> list[dict[str, Any]]:
        """What is told of each."""
        paths = []
        for text in configurations:
            path = Path(self.mktemp()).absolute()
            path.write_text(text.replace(":5000", "127.0.0.1:0"), "ascii")
            paths.append(str(path))
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, ",".join(_FOR_OTHERS), *paths],
            env={**os.environ, "PYTHONPATH": str(Path(contentcache.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_loaded(self) -> None:
        """A plain cache loads none of them; who needs more has it before the daemon becomes another account."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        users = folder / "users"
        users.write_text("somebody:$2y$05$" + "a" * 53 + "\n", "ascii")
        memory = MINIMAL.replace(
            "{filesystem: {rootdirectory: /r}, delete: {enabled: true}}", "{inmemory: {}}"
        )
        debug = ', debug: {addr: "127.0.0.1:0", prometheus: {enabled: true}}}'
        plain = memory.replace('addr: ":5000"}', f'addr: ":5000"{debug}')
        local = f"{memory}auth: {{htpasswd: {{realm: here, path: {users}}}}}\n"
        first, second = self.build(plain, local)
        self.assertEqual(first, {"loaded": [], "late": []})
        packages = ["contentcache.auth.htpasswd", "contentcache.auth.tokens"]
        self.assertEqual(second, {"loaded": packages, "late": []})
