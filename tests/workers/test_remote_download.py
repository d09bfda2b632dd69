"""
Tests for :mod:`contentcache.workers.remote_download` and :mod:`contentcache.workers.owner_connection`: what is
true for the clients of a download is true for clients of another worker too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from attrs import evolve
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
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.shared_download import DownloadKey, OwnerUnreachableError, UndecidedError
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.blob_file import DiskFile
from contentcache.workers import messages
from contentcache.workers.remote_download import RemoteDownload
from contentcache.workers.rpc import ConnectionClosedError, RPCConnection
from tests.delivery import (
    test_authorization,
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
from tests.delivery.in_memory import LARGE, MANIFEST, REPOSITORY, BytesOnly, InMemoryCacheTestCase
from tests.registry import test_request_ids
from tests.workers.harness import Delivery, FakeRegistry, TwoWorkers, connect_in_memory

CONTENT = LARGE
DIGEST = Digest.of(CONTENT)
HALF = len(CONTENT) // 2


class TwoWorkersTestCase(InMemoryCacheTestCase):
    """The clients are at one worker, the downloads at another."""

    def make_cache(self, *upstreams: Upstream, **options: Any) -> TwoWorkers:
        """Two workers that are checked after the test."""
        folder = Path(self.mktemp())
        cache = TwoWorkers(*upstreams, folder=folder, **options)
        self.addCleanup(self._look_around, cache)
        return cache


class RemoteGrantAndLinkTests(TwoWorkersTestCase, test_authorization.GrantAndLinkTests):
    """The same for subscribers in another worker."""


class RemoteRevokingTests(TwoWorkersTestCase, test_authorization.RevokingTests):
    """The same for subscribers in another worker."""


class RemoteStaleTests(TwoWorkersTestCase, test_authorization.StaleTests):
    """The same for subscribers in another worker."""


class RemoteSignedTests(TwoWorkersTestCase, test_authorization.SignedTests):
    """The same for subscribers in another worker."""


class RemoteVouchedTests(TwoWorkersTestCase, test_authorization.VouchedTests):
    """The same for subscribers in another worker."""


class RemoteFailingTests(TwoWorkersTestCase, test_disk.FailingTests):
    """The same for subscribers in another worker."""


class RemoteEvictionTests(TwoWorkersTestCase, test_disk.EvictionTests):
    """The same for subscribers in another worker."""


class RemoteStoredTests(TwoWorkersTestCase, test_doubtful.StoredTests):
    """The same for subscribers in another worker."""


class RemoteColdTests(TwoWorkersTestCase, test_doubtful.ColdTests):
    """The same for subscribers in another worker."""


class RemoteNoRangesTests(TwoWorkersTestCase, test_doubtful.NoRangesTests):
    """The same for subscribers in another worker."""


class RemoteDoubtfulManifestTests(TwoWorkersTestCase, test_doubtful.ManifestTests):
    """The same for subscribers in another worker."""


class RemotePingTests(TwoWorkersTestCase, test_doubtful.PingTests):
    """The same for subscribers in another worker."""


class RemoteRequestIdTests(TwoWorkersTestCase, test_request_ids.RequestIdTests):
    """The same for subscribers in another worker."""


class RemoteManyReadersTests(TwoWorkersTestCase, test_download.ManyReadersTests):
    """The same for subscribers in another worker."""


class RemoteLeavingTests(TwoWorkersTestCase, test_download.LeavingTests):
    """The same for subscribers in another worker."""


class RemoteTailTests(TwoWorkersTestCase, test_download.TailTests):
    """The same for subscribers in another worker."""


class RemoteFailoverTests(TwoWorkersTestCase, test_failover.FailoverTests):
    """The same for subscribers in another worker."""


class RemoteTurnsOfHostsTests(TwoWorkersTestCase, test_failover.TurnsOfHostsTests):
    """The same for subscribers in another worker."""


class RemoteLateAllowedTests(TwoWorkersTestCase, test_order.LateAllowedTests):
    """The same for subscribers in another worker."""


class RemoteTagOrderTests(TwoWorkersTestCase, test_order.TagOrderTests):
    """The same for subscribers in another worker."""


class RemoteProofTests(TwoWorkersTestCase, test_possession.ProofTests):
    """The same for subscribers in another worker."""


class RemoteSharedTests(TwoWorkersTestCase, test_possession.SharedTests):
    """The same for subscribers in another worker."""


class RemoteCompressibleTests(TwoWorkersTestCase, test_possession.CompressibleTests):
    """The same for subscribers in another worker."""


class RemoteSmallTests(TwoWorkersTestCase, test_possession.SmallTests):
    """The same for subscribers in another worker."""


class RemotePossessionManifestTests(TwoWorkersTestCase, test_possession.ManifestTests):
    """The same for subscribers in another worker."""


class RemoteUnknownOriginTests(TwoWorkersTestCase, test_possession.UnknownOriginTests):
    """The same for subscribers in another worker."""


class RemoteSegmentTests(TwoWorkersTestCase, test_segments.SegmentTests):
    """The same for subscribers in another worker."""


class RemoteCredentialTests(TwoWorkersTestCase, test_sharing.CredentialTests):
    """The same for subscribers in another worker."""


class RemoteLyingHeadTests(TwoWorkersTestCase, test_sharing.LyingHeadTests):
    """The same for subscribers in another worker."""


class RemoteTurnTests(TwoWorkersTestCase, test_sharing.TurnTests):
    """The same for subscribers in another worker."""


class RemoteHeadersTests(TwoWorkersTestCase, test_sharing.HeadersTests):
    """The same for subscribers in another worker."""


class RemoteMarkTests(TwoWorkersTestCase, test_stale.MarkTests):
    """The same for subscribers in another worker."""


class RemoteBoundTests(TwoWorkersTestCase, test_stale.BoundTests):
    """The same for subscribers in another worker."""


class RemotePullTests(TwoWorkersTestCase, test_tags.PullTests):
    """The same for subscribers in another worker."""


class RemoteDescribeTests(TwoWorkersTestCase, test_tags.DescribeTests):
    """The same for subscribers in another worker."""


class RemoteRememberedTests(TwoWorkersTestCase, test_tags.RememberedTests):
    """The same for subscribers in another worker."""


class RemoteSignedManifestTests(TwoWorkersTestCase, test_tags.SignedManifestTests):
    """The same for subscribers in another worker."""


class RemoteFoundTests(TwoWorkersTestCase, test_disk.FoundTests):
    """What lies in the store already, which is on a disk here."""

    def test_short_while_read(self) -> None:
        """A stored file that is cut under its reader ends the response short."""
        cache = self.found(LARGE, known=True)
        client = cache.pull(self.digest, takes=False)
        file = cache.store.open(self.digest)
        assert file.descriptor is not None
        os.truncate(f"/proc/self/fd/{file.descriptor}", test_disk.HALF)
        file.close()
        client.take()
        self.assertEqual((client.outcome, len(client.got)), ("short", test_disk.HALF))


class UnreachableOwnerTests(TwoWorkersTestCase):
    """The worker that owns a download hangs, or is not started again."""

    def test_cold(self) -> None:
        """Blobs, parts of them and manifests pass through uncached: none is refused."""
        cache = self.make_cache()
        cache.owners.unreachable = True
        digest = cache.origin.put_blob(REPOSITORY, CONTENT)
        content = b'{"schemaVersion": 2}'
        manifest = cache.origin.put_manifest(REPOSITORY, content, MANIFEST)
        client = cache.pull(digest)
        self.assertWhole(client, CONTENT)
        assert client.served is not None
        self.assertEqual(client.served.outcome.cache_status, "fwd=miss; detail=uncached")
        self.assertWhole(
            cache.pull(digest, part=(1000, 2000), whole=False, small_part=True), CONTENT[1000:2000]
        )
        self.assertWhole(cache.pull(manifest, kind="manifests"), content)
        self.assertIsNone(cache.index.blob(digest))
        cache.owners.unreachable = False
        self.assertWhole(cache.pull(digest), CONTENT)
        self.assertIsNotNone(cache.index.blob(digest))
        self.assertEqual((cache.blob_service.health.fault, self.flushLoggedErrors()), (None, []))

    def test_not_allowed(self) -> None:
        """What passes through is what the origin lets this client have, and nothing else."""
        cache = self.make_cache(auth="basic")
        ann = cache.origin.let("ann", "1", REPOSITORY)
        cache.owners.unreachable = True
        digest = cache.origin.put_blob(REPOSITORY, CONTENT)
        self.assertWhole(cache.pull(digest, ann), CONTENT)
        self.assertRefused(cache.pull(digest), 401)

    def test_in_the_middle(self) -> None:
        """Its subscribers get the rest from the origin, in the same response."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, CONTENT)
        cache.origin.misbehave("stall", at=HALF, times=1)
        client = cache.pull(digest)
        cache.later(1)
        self.assertGreater(len(client.got), 0)
        cache.owners.unreachable = True
        for connection in cache.owners.connections:
            connection.cut()
        cache.later(1)
        self.assertWhole(client, CONTENT)
        cache.later(60)


class OwnerTests(SynchronousTestCase):
    """Owners that crash, as their subscribers in another worker see it. The test sends what the owner sends."""

    def setUp(self) -> None:
        """A subscriber in this worker, before the owner has sent anything."""
        self.clock = Clock()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.delivery = Delivery()
        self.owners: list[RPCConnection] = []
        self.received: list[Any] = []
        self.decisions: list[tuple[str, object, float]] = []
        self.unreachable = False
        self.carried_on: list[int] = []
        self.download = RemoteDownload(
            DownloadKey("https://one.example", DIGEST),
            self,
            in_place=False,
            total=None,
            connect_owner=self.connect,
            open_file=lambda descriptor: DiskFile(descriptor, os.close),
            clock=self.clock,
        )
        registry: Any = FakeRegistry()
        subject = registry.subject("org/app", Credential("Basic x"))
        asking = ContentRequest(registry, subject, Content("org/app", "blobs", DIGEST))
        self.subscriber = Subscriber(asking, b"key", authorized=False)
        self.download.subscribe(self.subscriber)
        self.body = GrowingBody(
            self.download, at_once, self.carry_on, lambda: self.download.unsubscribe(self.subscriber)
        )

    async def connect(self, _digest: Digest, rpc: RPCConnection) -> None:
        """Connect to the next owner."""
        if self.unreachable:
            raise ConnectionClosedError("there is no owner")
        owner = RPCConnection(self.received.append)
        self.connection = connect_in_memory(self.delivery, rpc, owner)
        self.owners.append(owner)

    def record_allowed(self, subscriber: Subscriber, media_type: str | None, asked: float) -> None:
        """Record that the origin allowed it (``DecisionRecorder``)."""
        self.decisions.append(("allowed", media_type, asked))

    def record_denied(self, subscriber: Subscriber, refusal: OriginRefused, asked: float) -> None:
        """Record that the origin denied it (``DecisionRecorder``)."""
        self.decisions.append(("denied", refusal.status, asked))

    async def carry_on(self, flow: ClientSink, rest: Remainder, _release: object) -> None:
        """The download is of no use to this client any more."""
        self.carried_on.append(rest.start)

    def begin(self) -> None:
        """Follow the first owner, which has half of the content."""
        self.running = Deferred.fromCoroutine(self.download.run())
        self.send_file("one", CONTENT[:HALF])
        self.report(held=[[0, HALF]])
        self.owners[0].send(messages.Opened(1, "a/b", coalesced=True, asked=7.0))
        self.client = TakingClient()
        self.reading = Deferred.fromCoroutine(self.body.send(self.client, 0, len(CONTENT)))

    def send_file(self, name: str, content: bytes) -> None:
        """The last owner sends a file."""
        path = self.folder / name
        path.write_bytes(content)
        descriptor = os.open(path, os.O_RDONLY)
        self.owners[-1].attach_descriptor(descriptor)
        self.owners[-1].send(messages.AttachedFile())
        os.close(descriptor)

    def report(self, held: list[list[int]], **more: Any) -> None:
        """The last owner reports its state."""
        state = messages.DownloadState(
            generation=0,
            total=len(CONTENT),
            media_type="a/b",
            readable=max((stop for start, stop in held if start == 0), default=0),
            verified=False,
            is_stored=False,
            awaits_decision=False,
            withholds_all=False,
            held=held,
        )
        self.owners[-1].send(evolve(state, **more))

    def finish(self) -> None:
        """The last owner has everything."""
        (self.folder / "one").write_bytes(CONTENT)
        self.report(held=[[0, len(CONTENT)]], verified=True)
        self.owners[-1].send(messages.DownloadEnded(None, None))

    def test_one_owner(self) -> None:
        """The subscriber reads from the owner's file; the origin's decision is recorded here, once."""
        self.begin()
        self.assertEqual(bytes(self.client.got), CONTENT[:HALF])
        self.finish()
        self.successResultOf(self.reading)
        self.assertEqual(bytes(self.client.got), CONTENT)
        self.assertEqual(self.decisions, [("allowed", "a/b", 7.0)])
        self.assertTrue(self.subscriber.coalesced)
        self.successResultOf(self.running)
        self.body.close()

    def test_successor_goes_on(self) -> None:
        """The owner crashes, and its successor has the same file and the same bytes: the response goes on."""
        self.begin()
        self.connection.cut()
        self.assertEqual([type(message) for message in self.received], [messages.Subscribe] * 2)
        self.assertTrue(self.received[1].authorized)
        self.send_file("one", CONTENT[:HALF])
        self.report(held=[[0, HALF]])
        self.assertNoResult(self.reading)
        self.finish()
        self.successResultOf(self.reading)
        self.assertEqual(bytes(self.client.got), CONTENT)
        self.assertEqual(self.decisions, [("allowed", "a/b", 7.0)], "not recorded twice")
        self.body.close()

    def test_successor_has_less(self) -> None:
        """The successor does not trust bytes that were read: the response can only end short."""
        self.begin()
        self.connection.cut()
        self.send_file("one", CONTENT[:HALF])
        self.report(held=[[0, HALF - 4096]])
        self.finish()
        self.failureResultOf(self.reading, ShortError)
        self.assertEqual(bytes(self.client.got), CONTENT[:HALF])
        self.body.close()

    def test_successor_has_another_file(self) -> None:
        """The same for another file, though it has all of them."""
        self.begin()
        self.connection.cut()
        self.send_file("two", CONTENT)
        self.report(held=[[0, len(CONTENT)]])
        self.report(held=[], verified=True, readable=len(CONTENT))
        self.failureResultOf(self.reading, ShortError)
        self.body.close()

    def test_nothing_sent_before_the_crash(self) -> None:
        """A subscriber that has sent nothing yet gets the new file, from its first byte."""
        self.begin()
        late = Subscriber(self.subscriber.request, b"key", authorized=True)
        self.download.subscribe(late)
        body = GrowingBody(self.download, at_once, self.carry_on, lambda: self.download.unsubscribe(late))
        self.connection.cut()
        self.send_file("two", CONTENT)
        self.report(held=[[0, len(CONTENT)]])
        self.failureResultOf(self.reading, ShortError)
        client = TakingClient()
        reading = Deferred.fromCoroutine(body.send(client, 0, len(CONTENT)))
        self.assertEqual(bytes(client.got), b"", "not before it is verified")
        self.report(held=[], verified=True, readable=len(CONTENT))
        self.successResultOf(reading)
        self.assertEqual(bytes(client.got), CONTENT)
        self.body.close()
        body.close()

    def test_nothing_between_two_owners(self) -> None:
        """Nobody reads further than the crashed owner has reported, until its successor reports more."""
        self.begin()
        self.connection.cut()
        (self.folder / "one").write_bytes(CONTENT)
        self.download.progress.notify_all(HALF)
        self.assertEqual(bytes(self.client.got), CONTENT[:HALF])
        self.send_file("one", CONTENT)
        self.assertEqual(self.download.readable_until(HALF), HALF)
        self.body.close()
        self.reading.addErrback(lambda _failure: None)
        self.reading.cancel()

    def test_no_successor(self) -> None:
        """The owner has no successor: its clients are passed the rest from where they are."""
        self.begin()
        self.unreachable = True
        self.connection.cut()
        self.successResultOf(self.reading)
        self.assertEqual(self.carried_on, [HALF])
        self.successResultOf(self.running)
        self.assertIsInstance(self.download.failure, OwnerUnreachableError)
        self.body.close()

    def test_successors_that_crash(self) -> None:
        """It does not go on for ever where one owner crashes after the other."""
        self.begin()
        for _ in range(20):
            if self.running.called:
                break
            self.connection.cut()
        self.successResultOf(self.reading)
        self.assertEqual(self.carried_on, [HALF])
        self.assertLess(len(self.owners), 10)
        self.body.close()

    def test_successor_that_refuses(self) -> None:
        """
        The successor finds the content stored: responses that have begun end short, and the next client finds
        it.
        """
        self.begin()
        self.connection.cut()
        error = UndecidedError("it is in the store by now")
        self.owners[-1].send(messages.Refused(1, error))
        self.failureResultOf(self.reading, ShortError)
        self.body.close()

    def test_it_starts_again(self) -> None:
        """The owner restarts the download: a response with bytes that were wrong ends short."""
        self.begin()
        self.report(held=[], generation=1, readable=0)
        self.report(held=[[0, len(CONTENT)]], generation=1, verified=True)
        self.failureResultOf(self.reading, ShortError)
        self.body.close()

    def test_refused(self) -> None:
        """The origin's denial reaches its client, and is recorded here."""
        self.running = Deferred.fromCoroutine(self.download.run())
        refusal = OriginRefused(403, {"A": "b"}, b"no")
        self.owners[0].send(messages.OriginDenied(1, refusal, 8.0))
        self.owners[0].send(messages.Refused(1, refusal))
        failure = self.failureResultOf(self.subscriber.ready, OriginRefused)
        self.assertEqual((failure.value.status, failure.value.body), (403, b"no"))
        self.assertEqual(self.decisions, [("denied", 403, 8.0)])
        self.body.close()
        self.successResultOf(self.running)

    def test_subscribed_too_late(self) -> None:
        """
        A client that is not answered when the download ends has to look again, and does not subscribe to it
        again.
        """
        self.begin()
        late = Subscriber(self.subscriber.request, b"key", authorized=True)
        self.download.subscribe(late)
        seen: list[bool] = []

        def told(failure: Failure) -> None:
            failure.trap(UndecidedError)
            seen.append(self.download.is_ending)

        late.ready.addErrback(told)
        self.finish()
        self.assertEqual(seen, [True])
        self.download.unsubscribe(late)
        self.body.close()

    def test_nothing_to_share(self) -> None:
        """The owner has it in the store by now: the next subscribers wait until this download is removed."""
        self.running = Deferred.fromCoroutine(self.download.run())
        other = Subscriber(self.subscriber.request, b"key", authorized=False)
        self.download.subscribe(other)
        error = UndecidedError("it is in the store by now")
        self.owners[0].send(messages.Refused(1, error))
        self.failureResultOf(self.subscriber.ready, UndecidedError)
        self.assertTrue(self.download.is_ending)
        self.body.close()
        self.report(held=[])
        self.assertFalse(self.download.is_ending)
        self.download.unsubscribe(other)
        self.successResultOf(self.running)

    def test_last_subscriber_leaves(self) -> None:
        """When the last subscriber here leaves, the owner is notified, and the file is closed."""
        self.begin()
        file = self.download.file
        self.body.close()
        self.assertEqual(self.received[-1], messages.Unsubscribe(1))
        self.successResultOf(self.running)
        self.assertIsNone(file.descriptor)
        self.reading.addErrback(lambda _failure: None)
        self.reading.cancel()


class TakingClient(BytesOnly):
    """A client that takes all at once (``ClientSink``)."""

    async def ready(self) -> None:
        """At once."""
