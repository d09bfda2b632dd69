"""Two origins behind one cache: each can let clients have only what it has itself."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.delivery.possession import SAMPLE
from tests.real.cache import ContentCache
from tests.real.images import random_bytes
from tests.real.unruly import REPOSITORY, Read, Unruly, ask

_SIZE = 1 << 20


class PossessionTests(SynchronousTestCase):
    """A blob that the first origin has delivered, and a second one that says yes to ``HEAD`` of it."""

    def setUp(self) -> None:
        """The origins, and the cache, which has the blob."""
        self.blob = random_bytes(_SIZE, "possession")
        self.first, self.second = Unruly(self, self.blob), Unruly(self, self.blob)
        self.cache = ContentCache(
            self,
            [
                {"originhost": self.first.url, "names": ["one.example"]},
                {"originhost": self.second.url, "names": ["two.example"]},
            ],
            options={"minfree": 0, **self.options},
        )
        self.assertEqual(self.pull("one.example").body, self.blob)

    options: dict[str, object] = {}  # noqa: RUF012  # the classes below have others

    def pull(self, name: str) -> Read:
        """Pull the blob from an origin."""
        return ask(self.cache.port, f"/v2/{REPOSITORY}/blobs/{self.first.digests[0]}?ns={name}")

    def ranges(self) -> list[str]:
        """What was asked of the second origin by ``GET``."""
        return [one["headers"].get("range", "all") for one in self.second.asked("", "GET")]

    def test_has_nothing(self) -> None:
        """Its clients get no byte, again and again, and it is asked once; those of the first get the blob."""
        self.second.misbehave("status", method="GET", status=404)
        for _ in range(4):
            read = self.pull("two.example")
            self.assertEqual((read.status, read.body == self.blob), (404, False))
            self.assertEqual(self.pull("one.example").body, self.blob)
        self.assertLessEqual(len(self.ranges()), self.cache.workers)

    def test_proves_it(self) -> None:
        """One that has it proves that by a sample, once, and not again after a restart."""
        for _ in range(4):
            self.assertTrue(self.pull("two.example").body == self.blob)
        self.cache.kill9()
        self.cache.start()
        for _ in range(4):
            self.assertTrue(self.pull("two.example").body == self.blob)
        (wanted,) = self.ranges()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        self.assertEqual(int(last) - int(first) + 1, SAMPLE)


class SlowPathTests(PossessionTests):
    """The same without the fast path."""

    options = {"fastpath": "off"}  # noqa: RUF012


class WorkersTests(PossessionTests):
    """The same with two workers."""

    workers = 2
