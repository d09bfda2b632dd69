"""Tests for :mod:`contentcache.config.workers`."""

from __future__ import annotations

import os

import yaml

from contentcache.config.model import Limits
from contentcache.config.show import render
from contentcache.config.workers import worker_share
from tests.config.writing import MINIMAL, ConfigurationTestCase

_GATEWAY = """\
version: 0.1
workers: 2
storage: {filesystem: {rootdirectory: /r}}
http: {addr: ":5000"}
middleware:
  registry:
    - name: redirect
      options: {registry: "https://r.example", issuer: "https://g.example", signingkey: /k, database: /d}
"""

FAULTY = {
    "0": "workers: '0' is not a number of processes; write 1 to 64, or auto for one on each core",
    "65": "workers: '65' is not a number of processes",
    "-1": "workers: '-1' is not a number of processes",
    "2.5": "workers: '2.5' is not a number of processes",
    "many": "workers: 'many' is not a number of processes",
    "'9999999999999999999'": "workers: '9999999999999999999' is not a number of processes",
    "'\u0665'": "workers: '\u0665' is not a number of processes",
    "[2]": "workers: a list stands where a single value belongs",
}


class WorkersTests(ConfigurationTestCase):
    """How many processes."""

    def test_read(self) -> None:
        """One, unless the file or the environment says else; ``auto`` is one on each core."""
        self.assertEqual(self.load(MINIMAL).configuration.workers, 1)
        for written, workers in (("1", 1), ("'3'", 3), ("64", 64)):
            self.assertEqual(self.load(f"{MINIMAL}workers: {written}\n").configuration.workers, workers)
        self.assertEqual(self.load(MINIMAL, {"REGISTRY_WORKERS": "4"}).configuration.workers, 4)
        self.patch(os, "sched_getaffinity", lambda _process: set(range(6)))
        self.assertEqual(self.load(f"{MINIMAL}workers: auto\n").configuration.workers, 6)
        self.patch(os, "sched_getaffinity", lambda _process: set(range(256)))
        self.assertEqual(self.load(f"{MINIMAL}workers: auto\n").configuration.workers, 64)

    def test_shown(self) -> None:
        """``check --show`` tells the number."""
        shown = yaml.safe_load(render(self.load(f"{MINIMAL}workers: 3\n").configuration))
        self.assertEqual(shown["workers"], 3)

    def test_refused(self) -> None:
        """What is no number of processes is refused, with its line."""
        for written, told in FAULTY.items():
            self.assert_told(f"{MINIMAL}workers: {written}\n", told)
        self.assertEqual(self.only_fault(f"{MINIMAL}workers: 0\n").line, len(MINIMAL.splitlines()) + 1)

    def test_not_in_memory(self) -> None:
        """Processes cannot share one's memory."""
        text = MINIMAL.replace("{filesystem: {rootdirectory: /r}, delete: {enabled: true}}", "inmemory")
        self.assert_told(f"{text}workers: 2\n", "workers: 2 processes cannot share what one has in memory")
        self.load(f"{text}workers: 1\n")

    def test_not_at_a_gateway(self) -> None:
        """A gateway is one process."""
        told = [line for line in self.told(_GATEWAY) if line.startswith("workers")]
        self.assertEqual(
            told, ["workers: a gateway is one process and cannot be 2; leave it out, or write 1"]
        )
        others = self.told(_GATEWAY.replace("workers: 2", "workers: 1").replace("/d}", "/d, x: 1}"))
        self.assertFalse([line for line in others if line.startswith("workers")])


class ShareTests(ConfigurationTestCase):
    """What each of several workers is told."""

    def test_limits(self) -> None:
        """Promises for the machine are divided, and nobody's share is nothing; bounds of one thing stay."""
        limits = (
            "limits: {connections: 100, connectionsperaddress: 2, fetches: 8, grants: 10, manifest: 1MiB}"
        )
        text = MINIMAL.replace("upstreams:", f"fetchesperhost: 7\n        {limits}\n        upstreams:")
        whole = self.load(f"{text}workers: 3\n").configuration
        share = worker_share(whole)
        self.assertEqual(share.workers, 3)
        self.assertEqual(
            share.downstream.limits,
            Limits(
                connections=33,
                connectionsperaddress=1,
                headsperaddress=85,
                fetches=2,
                grants=3,
                manifest=whole.downstream.limits.manifest,
            ),
        )
        self.assertEqual(share.downstream.fetchesperhost, 2)
        self.assertEqual(share.storage.maxthreads, 33)
        self.assertIsNone(
            worker_share(self.load(f"{MINIMAL}workers: 2\n").configuration).downstream.fetchesperhost
        )

    def test_only_the_front(self) -> None:
        """The operator's address is the supervisor's."""
        text = MINIMAL.replace('{addr: ":5000"}', '{addr: ":5000", debug: {addr: "127.0.0.1:5001"}}')
        self.assertIsNone(worker_share(self.load(f"{text}workers: 2\n").configuration).http.debug)
