"""The history's file: what is added, when it is written, and what happens when it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.history_recorder import HistoryRecorder
from contentcache.admin.status import Sample
from contentcache.aio.threads import at_once
from contentcache.core.ports import Run
from contentcache.telemetry.repository_pulls import RepositoryPulls

_DAY = 86_400.0
_TODAY = "2023-11-14"


class HistoryRecorderTests(SynchronousTestCase):
    """A recorder over counters that grow."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.now = 1_700_000_000.0
        self.sent, self.received = 0, 0
        self.pulls = RepositoryPulls()
        self.waiting: list[Deferred[None]] = []

    async def samples(self) -> Iterable[Sample]:
        """The counters of the daemon."""
        labels = {"registry": "a.example", "kind": "blobs"}
        found = [
            ("contentcache_sent_bytes_total", labels, float(self.sent)),
            ("contentcache_received_bytes_total", labels, float(self.received)),
            ("contentcache_sent_bytes_total", {"registry": "-", "kind": "other"}, 99.0),
        ]
        for waiting in self.waiting:
            await waiting
        return found

    def recorder(self, run: Run = at_once) -> HistoryRecorder:
        """As one that starts now."""
        return HistoryRecorder(self.path, self.samples, self.pulls, run=run, wall=lambda: self.now)

    def result(self, coroutine: Any) -> Any:
        """What a coroutine answers that has nothing to wait for."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def days(self) -> Any:
        """The days in the file."""
        return json.loads(self.path.read_text())["days"]

    def test_restart(self) -> None:
        """What was recorded before a restart stays, and the counters that began anew are added to it."""
        self.sent, self.received = 300, 100
        self.pulls.add("a.example", "org/app")
        recorder = self.recorder()
        self.result(recorder.record())
        self.sent = 400
        self.result(recorder.record())
        self.assertEqual(self.days()[_TODAY]["registries"], {"a.example": [400, 100, 0, 0]})
        self.sent, self.received = 50, 0
        self.result(self.recorder().record())
        self.assertEqual(self.days()[_TODAY]["registries"], {"a.example": [450, 100, 0, 0]})
        self.assertEqual(self.days()[_TODAY]["repositories"], [["a.example", "org/app", 1]])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_midnight(self) -> None:
        """What is counted after midnight belongs to the next day."""
        recorder = self.recorder()
        self.sent = 5
        self.result(recorder.record())
        self.now += _DAY
        self.sent = 12
        self.result(recorder.record())
        self.assertEqual(
            {name: day["registries"]["a.example"][0] for name, day in self.days().items()},
            {_TODAY: 5, "2023-11-15": 7},
        )

    def test_not_written_without_traffic(self) -> None:
        """Where nothing was served nothing is written."""
        recorder = self.recorder()
        self.result(recorder.record())
        self.assertFalse(self.path.exists())
        self.sent = 1
        self.result(recorder.record())
        self.path.unlink()
        self.result(recorder.record())
        self.assertFalse(self.path.exists())

    def test_read_by_the_page(self) -> None:
        """What a page has read meanwhile is written all the same."""
        recorder = self.recorder()
        self.sent = 9
        self.result(recorder.update())
        self.assertFalse(self.path.exists())
        self.result(recorder.record())
        self.assertEqual(self.days()[_TODAY]["registries"]["a.example"][0], 9)

    def test_one_after_the_other(self) -> None:
        """Two readers whose samples come at different times count nothing twice."""
        recorder = self.recorder()
        self.sent = 9
        self.waiting = [Deferred()]
        first = Deferred.fromCoroutine(recorder.update())
        self.sent = 10
        second = Deferred.fromCoroutine(recorder.record())
        self.waiting[0].callback(None)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.days()[_TODAY]["registries"]["a.example"][0], 10)

    def test_damaged(self) -> None:
        """A damaged file is kept aside, with one line in the log."""
        for content in (b"", b"{", b"\xff\x00", b'{"version":9,"days":{}}'):
            self.path.write_bytes(content)
            with capturedLogs() as logs:
                recorder = self.recorder()
            self.assertEqual([event["log_format"] for event in logs], ["history damaged, begun anew"])
            self.assertEqual(self.path.with_name(f"{self.path.name}.damaged").read_bytes(), content)
            self.sent += 3
            self.result(recorder.record())
            self.assertEqual(self.days()[_TODAY]["registries"]["a.example"][0], self.sent)
            self.path.unlink()

    def test_link(self) -> None:
        """A symbolic link is not followed: what it points to is not changed."""
        other = Path(self.mktemp())
        other.write_text("precious")
        self.path.symlink_to(other.absolute())
        with capturedLogs():
            recorder = self.recorder()
        self.sent = 1
        self.result(recorder.record())
        self.assertEqual(other.read_text(), "precious")
        self.assertFalse(self.path.is_symlink())

    def test_full_disk(self) -> None:
        """What cannot be written is said once, and written when the disk has room."""
        full = True

        async def run(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            if full:
                raise OSError(28, "No space left on device")
            return call(*arguments, **options)

        recorder = self.recorder(cast("Run", run))
        self.sent = 7
        with capturedLogs() as logs:
            self.result(recorder.record())
            self.result(recorder.record())
        self.assertEqual([event["log_format"] for event in logs], ["history not written"])
        full = False
        self.result(recorder.record())
        self.assertEqual(self.days()[_TODAY]["registries"]["a.example"][0], 7)
