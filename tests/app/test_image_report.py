"""Which images the status document shows, and how often the index is asked for them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.history import History, day_of
from contentcache.admin.status import Images
from contentcache.aio.threads import at_once
from contentcache.app.image_report import MOST_IMAGES, ImageReport
from contentcache.storage.index_memory import MemoryIndex
from contentcache.storage.interfaces import Affirmation, IndexDamaged, Link
from tests.storage.suites import numbered, record

_NOW = 1_700_000_000.0


class ImageReportTests(SynchronousTestCase):
    """A report over an index in memory."""

    def setUp(self) -> None:
        self.index = MemoryIndex()
        self.seconds = 0.0
        self.history = History()
        self.report = ImageReport(self.index, at_once, lambda: self.seconds)

    def store(self, number: int, repository: str, size: int) -> None:
        """A blob of a repository is in the store."""
        self.index.record([record(number, 100.0 + number, size=size)])
        self.index.affirm(
            Link("https://a.example", repository, "blobs", numbered(number)), Affirmation(1.0, None)
        )

    def images(self) -> Images:
        """The images now."""
        return self.successResultOf(Deferred.fromCoroutine(self.report.images(self.history, _NOW)))

    def test_largest_and_hottest(self) -> None:
        """By size, and by pulls of the last 30 days, each with what is known of it otherwise."""
        for number in range(MOST_IMAGES + 3):
            self.store(number, f"org/app{number}", 1000 + number)
        self.history.add(day_of(_NOW), [], {("a.example", "org/app0"): 2, ("b.example", "org/gone"): 9})
        self.history.add(day_of(_NOW - 3 * 86_400), [], {("a.example", "org/app0"): 5})
        self.history.add(day_of(_NOW - 40 * 86_400), [], {("a.example", "org/app1"): 50})
        images = self.images()
        self.assertEqual([one.bytes for one in images.largest], [1007, 1006, 1005, 1004, 1003])
        self.assertEqual(
            [(one.registry, one.repository, one.pulls, one.bytes) for one in images.hottest],
            [("b.example", "org/gone", 9, None), ("a.example", "org/app0", 7, 1000)],
        )

    def test_once_a_minute(self) -> None:
        """The index is read again after a minute."""
        self.store(1, "org/app", 10)
        self.images()
        self.store(2, "org/new", 20)
        self.seconds = 59.0
        self.assertEqual([one.repository for one in self.images().largest], ["org/app"])
        self.seconds = 60.0
        self.assertEqual([one.repository for one in self.images().largest], ["org/new", "org/app"])

    def test_broken_index(self) -> None:
        """An index that cannot be read gives no sizes, and the hottest are there all the same."""

        def fail(*_arguments: Any) -> Any:
            raise IndexDamaged("the index is damaged")

        self.patch(self.index, "following", fail)
        self.history.add(day_of(_NOW), [], {("a.example", "org/app"): 2})
        images = self.images()
        self.assertEqual(images.largest, ())
        self.assertEqual([one.pulls for one in images.hottest], [2])
