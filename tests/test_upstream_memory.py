"""What hundreds of upstreams cost: memory for each, and TLS contexts that are shared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.real.programs import ROOT, place, run
from tests.tls.certificates import make

_UPSTREAMS = 400
#: Builds what serves, of a file with one upstream and then of one with many; writes the difference in KiB,
#: and how many contexts there are.
_PROGRAM = """
import gc, sys
from twisted.internet import reactor
from contentcache.app.cache_role import CacheRole
from contentcache.config.loading import load
from contentcache.core.live import Live
from contentcache.aio.threads import Threads
from contentcache.telemetry.metrics import Meter

def resident():
    gc.collect()
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

def built(path):
    return CacheRole(Live(load(path, {}).configuration), {}, reactor, Threads(reactor, 1, "x"), Meter())

few = built(sys.argv[1])
before = resident()
many = built(sys.argv[2])
print(resident() - before, len(many.services.upstreams.trusts))
"""


class UpstreamMemoryTests(SynchronousTestCase):
    """A process of its own for each measure."""

    def measure(self, *, certificates: bool) -> tuple[int, int]:
        """KiB that 400 upstreams take, and how many contexts they have."""
        folder = place(self)
        cas, _ = make("authority", authority=True).write(str(folder), "cas")
        paths = [self.write(folder, number, cas, certificates) for number in (1, _UPSTREAMS)]
        size, contexts = run([sys.executable, "-c", _PROGRAM, *paths], cwd=ROOT).stdout.split()
        return int(size), int(contexts)

    def write(self, folder: Path, number: int, cas: str, certificates: bool) -> Path:
        """A configuration with so many upstreams."""
        upstreams: list[dict[str, object]] = []
        for each in range(number):
            upstream: dict[str, object] = {"originhost": f"https://r{each}.example.com"}
            if certificates:
                certificate, key = make(f"c{each}", client=True).write(str(folder), f"c{each}")
                upstream |= {"certificate": certificate, "key": key}
            upstreams.append(upstream)
        options = {"upstreams": upstreams, "cas": [cas]}
        path = folder / f"{number}.yml"
        path.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "storage": {"inmemory": {}},
                    "http": {"addr": "127.0.0.1:5000"},
                    "middleware": {"registry": [{"name": "downstream", "options": options}]},
                }
            ),
            "utf-8",
        )
        return path

    def test_equal_options(self) -> None:
        """Upstreams with equal options share one TLS context, and each takes at most 50 KiB."""
        size, contexts = self.measure(certificates=False)
        self.assertEqual(contexts, 1)
        self.assertLess(size, 50 * _UPSTREAMS)

    def test_different_certificates(self) -> None:
        """
        Each client certificate has a context of its own, over the same store of roots: at most 70 KiB for
        each upstream.
        """
        size, contexts = self.measure(certificates=True)
        self.assertEqual(contexts, _UPSTREAMS + 1)
        self.assertLess(size, 70 * _UPSTREAMS)
