"""
Tests for :mod:`contentcache.workers.borrowing` and :mod:`contentcache.workers.lending`: what is promised of
a fetch is true for clients of another worker too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.threads import at_once
from contentcache.config.model import Upstream
from contentcache.core.credentials import Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused
from contentcache.core.routes import Content
from contentcache.delivery.bodies import ClientSink, GrowingBody, Remainder, ShortError
from contentcache.delivery.shared_download import DownloadKey, OwnerUnreachableError, UndecidedError
from contentcache.delivery.subscribers import ContentRequest, Subscriber
from contentcache.storage.blob_file import DiskFile
from contentcache.workers.borrowing import Borrowed
from contentcache.workers.conversation import Conversation, GoneError, Values
from contentcache.workers.words import error_in_words
from tests.delivery import (
    test_access,
    test_disk,
    test_doubtful,
    test_download,
    test_failover,
    test_order,
    test_possession,
    test_segments,
    test_sharing,
    test_stale,
    test_tags,
)
from tests.delivery.house import LARGE, MANIFEST, REPOSITORY, BytesOnly, HouseTestCase
from tests.workers.house import Post, TwoWorkers, join

CONTENT = LARGE
DIGEST = Digest.of(CONTENT)
HALF = len(CONTENT) // 2


class TwoWorkersTestCase(HouseTestCase):
    """Clients are at one worker, the fetches at another."""

    def house(self, *upstreams: Upstream, **options: Any) -> TwoWorkers:
        """Two workers, that are looked at when the test is over."""
        folder = Path(self.mktemp())
        house = TwoWorkers(*upstreams, folder=folder, **options)
        self.addCleanup(self._look_around, house)
        return house


_SUITES = (
    test_access,
    test_disk,
    test_doubtful,
    test_failover,
    test_download,
    test_order,
    test_possession,
    test_segments,
    test_sharing,
    test_stale,
    test_tags,
)
for _suite in _SUITES:
    for _name, _class in list(vars(_suite).items()):
        if isinstance(_class, type) and issubclass(_class, HouseTestCase) and _class is not HouseTestCase:
            globals()[f"Borrowed{_name}"] = type(
                f"Borrowed{_name}", (TwoWorkersTestCase, _class), {"__module__": __name__}
            )


class BorrowedFoundTests(TwoWorkersTestCase, test_disk.FoundTests):
    """What lies in the store already, which is on a disk here."""

    def test_short_while_read(self) -> None:
        """A stored file that is cut under its reader ends the response short."""
        house = self.found(LARGE, known=True)
        client = house.pull(self.digest, takes=False)
        file = house.store.open(self.digest)
        assert file.descriptor is not None
        os.truncate(f"/proc/self/fd/{file.descriptor}", test_disk.HALF)
        file.close()
        client.take()
        self.assertEqual((client.outcome, len(client.got)), ("short", test_disk.HALF))


class UnreachableOwnerTests(TwoWorkersTestCase):
    """The worker that owns a download hangs, or does not come back."""

    def test_cold(self) -> None:
        """Blobs, parts of them and manifests pass through uncached: none is refused."""
        house = self.house()
        house.neighbour.away = True
        digest = house.origin.put_blob(REPOSITORY, CONTENT)
        content = b'{"schemaVersion": 2}'
        manifest = house.origin.put_manifest(REPOSITORY, content, MANIFEST)
        client = house.pull(digest)
        self.assertWhole(client, CONTENT)
        assert client.served is not None
        self.assertEqual(client.served.status, "fwd=miss; detail=uncached")
        self.assertWhole(
            house.pull(digest, part=(1000, 2000), whole=False, small_part=True), CONTENT[1000:2000]
        )
        self.assertWhole(house.pull(manifest, kind="manifests"), content)
        self.assertIsNone(house.index.blob(digest))
        house.neighbour.away = False
        self.assertWhole(house.pull(digest), CONTENT)
        self.assertIsNotNone(house.index.blob(digest))
        self.assertEqual((house.blob_service.disk_fault, self.flushLoggedErrors()), (None, []))

    def test_not_allowed(self) -> None:
        """What passes through is what the origin lets this client have, and nothing else."""
        house = self.house(auth="basic")
        ann = house.origin.let("ann", "1", REPOSITORY)
        house.neighbour.away = True
        digest = house.origin.put_blob(REPOSITORY, CONTENT)
        self.assertWhole(house.pull(digest, ann), CONTENT)
        self.assertRefused(house.pull(digest), 401)

    def test_in_the_middle(self) -> None:
        """Who reads from its download gets the rest from the origin, in the same response."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, CONTENT)
        house.origin.misbehave("stall", at=HALF, times=1)
        client = house.pull(digest)
        house.later(1)
        self.assertGreater(len(client.got), 0)
        house.neighbour.away = True
        for line in house.neighbour.lines:
            line.cut()
        house.later(1)
        self.assertWhole(client, CONTENT)
        house.later(60)


class OwnerTests(SynchronousTestCase):
    """Owners that die, as their clients at another worker see it. What the owner says the test says."""

    def setUp(self) -> None:
        """A reader at this worker; nobody has answered yet."""
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.post = Post()
        self.owners: list[Conversation] = []
        self.told: list[tuple[str, Values]] = []
        self.verdicts: list[tuple[str, object, float]] = []
        self.away = False
        self.carried_on: list[int] = []
        self.borrowed = Borrowed(
            DownloadKey("https://one.example", DIGEST),
            self,
            in_place=False,
            total=None,
            reach=self.reach,
            opened=lambda descriptor: DiskFile(descriptor, os.close),
            clock=self.clock,
        )
        asking = ContentRequest(
            cast("Any", FakeRegistry()), Content("org/app", "blobs", DIGEST), Credential("Basic x")
        )
        self.subscriber = Subscriber(asking, b"key", authorized=False)
        self.borrowed.subscribe(self.subscriber)
        self.body = GrowingBody(
            self.borrowed, at_once, self.carry_on, lambda: self.borrowed.unsubscribe(self.subscriber)
        )

    async def reach(self, _digest: Digest, conversation: Conversation) -> None:
        """Find the next owner."""
        if self.away:
            raise GoneError("nobody is there")
        owner = Conversation(lambda name, values: self.told.append((name, values)))
        self.line = join(self.post, conversation, owner)
        self.owners.append(owner)

    def record_allowed(self, subscriber: Subscriber, media_type: str | None, asked: float) -> None:
        """The origin has said yes (``DecisionRecorder``)."""
        self.verdicts.append(("yes", media_type, asked))

    def record_denied(self, subscriber: Subscriber, refusal: OriginRefused, asked: float) -> None:
        """The origin has said no (``DecisionRecorder``)."""
        self.verdicts.append(("no", refusal.status, asked))

    async def carry_on(self, flow: ClientSink, rest: Remainder, _release: object) -> None:
        """The download is of no use to this client any more."""
        self.carried_on.append(rest.start)

    def begin(self) -> None:
        """Follow the first owner, which has half of the content."""
        self.running = Deferred.fromCoroutine(self.borrowed.run())
        self.hand("one", CONTENT[:HALF])
        self.news(held=[[0, HALF]])
        self.owners[0].tell("opened", want=1, media_type="a/b", joined=True, asked=7.0)
        self.client = TakingClient()
        self.reading = Deferred.fromCoroutine(self.body.send(self.client, 0, len(CONTENT)))

    def hand(self, name: str, content: bytes) -> None:
        """The last owner hands over a file."""
        path = self.folder / name
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDONLY)
        self.owners[-1].hand(descriptor)
        self.owners[-1].tell("file")
        os.close(descriptor)

    def news(self, held: list[list[int]], **more: object) -> None:
        """The last owner tells how it goes."""
        told = max((stop for start, stop in held if start == 0), default=0)
        words = {
            "generation": 0,
            "total": len(CONTENT),
            "media_type": "a/b",
            "told": told,
            "verified": False,
            "takes_candidates": False,
            "is_closed": False,
            "held": held,
        }
        self.owners[-1].tell("news", **{**words, **more})

    def finish(self) -> None:
        """The last owner has everything."""
        (self.folder / "one").write_bytes(CONTENT)
        self.news(held=[[0, len(CONTENT)]], verified=True)
        self.owners[-1].tell("end", error=None, origins=[], target=None)

    def test_one_owner(self) -> None:
        """What the owner has is read from its file; its verdict is heard here, once, and noted."""
        self.begin()
        self.assertEqual(bytes(self.client.got), CONTENT[:HALF])
        self.finish()
        self.successResultOf(self.reading)
        self.assertEqual(bytes(self.client.got), CONTENT)
        self.assertEqual(self.verdicts, [("yes", "a/b", 7.0)])
        self.assertTrue(self.subscriber.coalesced)
        self.successResultOf(self.running)
        self.body.close()

    def test_successor_goes_on(self) -> None:
        """The owner dies, and its successor has the same file with the same bytes: readers notice nothing."""
        self.begin()
        self.line.cut()
        self.assertEqual([name for name, _ in self.told], ["attach", "attach"])
        self.assertTrue(self.told[1][1]["judged"])
        self.hand("one", CONTENT[:HALF])
        self.news(held=[[0, HALF]])
        self.assertNoResult(self.reading)
        self.finish()
        self.successResultOf(self.reading)
        self.assertEqual(bytes(self.client.got), CONTENT)
        self.assertEqual(self.verdicts, [("yes", "a/b", 7.0)], "not told twice")
        self.body.close()

    def test_successor_has_less(self) -> None:
        """Bytes that were read are not believed by the successor: what is sent can only end short."""
        self.begin()
        self.line.cut()
        self.hand("one", CONTENT[:HALF])
        self.news(held=[[0, HALF - 4096]])
        self.finish()
        self.failureResultOf(self.reading, ShortError)
        self.assertEqual(bytes(self.client.got), CONTENT[:HALF])
        self.body.close()

    def test_successor_has_another_file(self) -> None:
        """The same for another file, though it has all of them."""
        self.begin()
        self.line.cut()
        self.hand("two", CONTENT)
        self.news(held=[[0, len(CONTENT)]])
        self.news(held=[], verified=True, told=len(CONTENT))
        self.failureResultOf(self.reading, ShortError)
        self.body.close()

    def test_who_has_sent_nothing_outlives_it(self) -> None:
        """A reader that has sent nothing yet gets the new file, from its first byte."""
        self.begin()
        late = Subscriber(self.subscriber.request, b"key", authorized=True)
        self.borrowed.subscribe(late)
        body = GrowingBody(self.borrowed, at_once, self.carry_on, lambda: self.borrowed.unsubscribe(late))
        self.line.cut()
        self.hand("two", CONTENT)
        self.news(held=[[0, len(CONTENT)]])
        self.failureResultOf(self.reading, ShortError)
        client = TakingClient()
        reading = Deferred.fromCoroutine(body.send(client, 0, len(CONTENT)))
        self.assertEqual(bytes(client.got), b"", "not before it is verified")
        self.news(held=[], verified=True, told=len(CONTENT))
        self.successResultOf(reading)
        self.assertEqual(bytes(client.got), CONTENT)
        self.body.close()
        body.close()

    def test_nothing_between_two_owners(self) -> None:
        """Nobody goes further than the dead one has told, until its successor tells more."""
        self.begin()
        self.line.cut()
        (self.folder / "one").write_bytes(CONTENT)
        self.borrowed.progress.notify_all(HALF)
        self.assertEqual(bytes(self.client.got), CONTENT[:HALF])
        self.hand("one", CONTENT)
        self.assertEqual(self.borrowed.readable_until(HALF), HALF)
        self.body.close()
        self.reading.addErrback(lambda _failure: None)
        self.reading.cancel()

    def test_no_successor(self) -> None:
        """Nobody comes after the owner: its clients are passed the rest from where they are."""
        self.begin()
        self.away = True
        self.line.cut()
        self.successResultOf(self.reading)
        self.assertEqual(self.carried_on, [HALF])
        self.successResultOf(self.running)
        self.assertIsInstance(self.borrowed.failure, OwnerUnreachableError)
        self.body.close()

    def test_successors_that_die(self) -> None:
        """Nor does it go on for ever where one dies after the other."""
        self.begin()
        for _ in range(20):
            if self.running.called:
                break
            self.line.cut()
        self.successResultOf(self.reading)
        self.assertEqual(self.carried_on, [HALF])
        self.assertLess(len(self.owners), 10)
        self.body.close()

    def test_successor_that_does_not_take_it(self) -> None:
        """The successor finds the content stored: what is under way ends short, and the next one finds it."""
        self.begin()
        self.line.cut()
        error = error_in_words(UndecidedError("it is in the store by now"))
        self.owners[-1].tell("refused", want=1, error=error)
        self.failureResultOf(self.reading, ShortError)
        self.body.close()

    def test_it_starts_again(self) -> None:
        """The owner starts again: who has sent bytes that were wrong ends short."""
        self.begin()
        self.news(held=[], generation=1, told=0)
        self.news(held=[[0, len(CONTENT)]], generation=1, verified=True)
        self.failureResultOf(self.reading, ShortError)
        self.body.close()

    def test_refused(self) -> None:
        """A no of the origin's reaches its client, and what is remembered of it here."""
        self.running = Deferred.fromCoroutine(self.borrowed.run())
        refusal = error_in_words(OriginRefused(403, {"A": "b"}, b"no"))
        self.owners[0].tell("no", want=1, error=refusal, asked=8.0)
        self.owners[0].tell("refused", want=1, error=refusal)
        failure = self.failureResultOf(self.subscriber.ready, OriginRefused)
        self.assertEqual((failure.value.status, failure.value.body), (403, b"no"))
        self.assertEqual(self.verdicts, [("no", 403, 8.0)])
        self.body.close()
        self.successResultOf(self.running)

    def test_late_comer(self) -> None:
        """Who is not answered when it ends is told to look again, and does not come aboard what is over."""
        self.begin()
        late = Subscriber(self.subscriber.request, b"key", authorized=True)
        self.borrowed.subscribe(late)
        seen: list[bool] = []

        def told(failure: Failure) -> None:
            failure.trap(UndecidedError)
            seen.append(self.borrowed.is_ending)

        late.ready.addErrback(told)
        self.finish()
        self.assertEqual(seen, [True])
        self.borrowed.unsubscribe(late)
        self.body.close()

    def test_nothing_to_share(self) -> None:
        """An owner who has it in the store by now: whoever comes next waits until this is gone."""
        self.running = Deferred.fromCoroutine(self.borrowed.run())
        other = Subscriber(self.subscriber.request, b"key", authorized=False)
        self.borrowed.subscribe(other)
        error = error_in_words(UndecidedError("it is in the store by now"))
        self.owners[0].tell("refused", want=1, error=error)
        self.failureResultOf(self.subscriber.ready, UndecidedError)
        self.assertTrue(self.borrowed.is_ending)
        self.body.close()
        self.news(held=[])
        self.assertFalse(self.borrowed.is_ending)
        self.borrowed.unsubscribe(other)
        self.successResultOf(self.running)

    def test_last_one_leaves(self) -> None:
        """When nobody here wants it any more, the owner hears it, and the file is closed."""
        self.begin()
        file = self.borrowed.file
        self.body.close()
        self.assertEqual(self.told[-1][0], "detach")
        self.successResultOf(self.running)
        self.assertIsNone(file.descriptor)
        self.reading.addErrback(lambda _failure: None)
        self.reading.cancel()


class TakingClient(BytesOnly):
    """A client that takes all at once (``ClientSink``)."""

    async def ready(self) -> None:
        """At once."""


class FakeRegistry:
    """As much of a registry as goes into a question."""

    upstream = Upstream("https://one.example", ("https://one.example",))
