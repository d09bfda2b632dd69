"""A host that does not answer is probed with a cheap request, separately for each kind of request."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Upstream
from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import CacheError, OriginRefused, UpstreamBroken, UpstreamTimeout
from contentcache.upstream.answers import Answer
from contentcache.upstream.circuit_breaker import CircuitBreaker
from contentcache.upstream.request import Request
from tests.delivery.in_memory import registry_of
from tests.upstream.test_registry import ONE, TWO, RegistryTestCase

KINDS = {
    "manifests": "/v2/org/app/manifests/1",
    "blobs": "/v2/org/app/blobs/sha256:00",
    "tags": "/v2/org/app/tags/list",
    "referrers": "/v2/org/app/referrers/sha256:00",
    "catalog": "/v2/_catalog",
    "other": "/v2/",
}


class CircuitBreakerTests(SynchronousTestCase):
    """
    Who is asked, who waits, and what the waiters get. ``sent`` are the requests that were sent: how to say
    that the host has answered, and how to end them; ``probes`` are the probes.
    """

    def setUp(self) -> None:
        self.probes: list[Deferred[None]] = []
        self.failures: list[tuple[str, str, CacheError]] = []
        self.breaker = CircuitBreaker(
            self.probe, lambda host, kind, error: self.failures.append((host, kind, error))
        )
        self.sent: list[tuple[Any, Deferred[str]]] = []

    async def probe(self, _host: str) -> None:
        """The probe's request."""
        self.probes.append(Deferred())
        await self.probes[-1]

    def ask(self, kind: str = "blobs") -> Deferred[str]:
        """A request to the host."""

        async def asking(heard: Any) -> str:
            ending: Deferred[str] = Deferred()
            self.sent.append((heard, ending))
            return await ending

        return Deferred.fromCoroutine(self.breaker.run("a", kind, asking))

    def end(self, number: int, result: Any = "answer") -> None:
        """A request ends."""
        ending = self.sent[number][1]
        (ending.errback if isinstance(result, Exception) else ending.callback)(result)

    def silent(self, kind: str = "blobs") -> None:
        """A request of this kind got no answer."""
        asking = self.ask(kind)
        self.end(-1, UpstreamTimeout("a did not answer"))
        self.failureResultOf(asking, UpstreamTimeout)
        self.sent.clear()

    def test_closed(self) -> None:
        """Nobody waits for a host that answers."""
        asking = [self.ask() for _ in range(3)]
        for number in range(3):
            self.end(number)
        self.assertEqual([self.successResultOf(each) for each in asking], ["answer"] * 3)
        self.assertEqual(self.probes, [])

    def test_open(self) -> None:
        """One probe for all who wait; where it fails each gets an error of its own, and was not sent."""
        self.silent()
        asking = [self.ask() for _ in range(3)]
        self.assertEqual((len(self.probes), len(self.sent)), (1, 0))
        self.probes[0].errback(UpstreamTimeout("no answer", headers={"X": "y"}))
        errors: list[Any] = [self.failureResultOf(each, UpstreamTimeout).value for each in asking]
        self.assertEqual([(str(error), error.headers) for error in errors], [("no answer", {"X": "y"})] * 3)
        self.assertEqual(len({id(error) for error in errors}), 3)
        self.assertEqual([failure[:2] for failure in self.failures], [("a", "blobs")])
        asking = [self.ask()]
        self.assertEqual((len(self.probes), len(self.sent)), (2, 0))

    def test_half_open(self) -> None:
        """As soon as the probe is answered all are sent, and later ones without a probe."""
        self.silent()
        asking = [self.ask() for _ in range(2)]
        self.probes[0].callback(None)
        asking.append(self.ask())
        for number in range(3):
            self.end(number)
        self.assertEqual([self.successResultOf(each) for each in asking], ["answer"] * 3)
        self.assertEqual(len(self.probes), 1)

    def test_kinds(self) -> None:
        """A kind that gets no answer makes no other kind wait; each has a probe of its own."""
        self.silent("tags")
        waiting = self.ask("tags")
        for kind in KINDS:
            if kind != "tags":
                self.ask(kind)
        self.assertEqual(len(self.sent), len(KINDS) - 1)
        self.silent("blobs")
        self.ask("blobs")
        self.assertEqual(len(self.probes), 2)
        self.probes[0].errback(UpstreamTimeout("no answer"))
        self.failureResultOf(waiting, UpstreamTimeout)
        self.assertEqual(self.sent, [])
        self.probes[1].callback(None)
        self.assertEqual(len(self.sent), 1)

    def test_answered_meanwhile(self) -> None:
        """A host that answered something else since the request was sent is there: nobody waits."""
        slow, other = self.ask("tags"), self.ask("blobs")
        self.sent[1][0]()
        self.end(1)
        self.successResultOf(other)
        self.end(0, UpstreamTimeout("a did not answer"))
        self.failureResultOf(slow, UpstreamTimeout)
        self.ask("tags")
        self.assertEqual((len(self.sent), self.probes), (3, []))

    def test_any_answer_releases(self) -> None:
        """Any answer of the host, to whatever kind of request, releases those who wait for a probe."""
        self.silent("tags")
        self.ask("tags")
        self.breaker.answered("a")
        self.assertEqual(len(self.sent), 1)
        self.probes[0].errback(UpstreamTimeout("too late to matter"))
        self.assertEqual(self.failures, [])

    def test_answer_without_success(self) -> None:
        """A request that fails after the host has sent a response header opens nothing."""
        asking = self.ask()
        self.sent[0][0]()
        self.end(0, UpstreamBroken("storage is down"))
        self.failureResultOf(asking, UpstreamBroken)
        self.assertFalse(self.breaker.is_open("a", "blobs"))

    def test_disconnect(self) -> None:
        """A client that disconnects ends its own waiting only; the probe goes on for the others."""
        self.silent()
        first, second = self.ask(), self.ask()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.probes[0].callback(None)
        self.end(0)
        self.assertEqual(self.successResultOf(second), "answer")

    def test_defect(self) -> None:
        """A defect of ours is logged and leaves nobody waiting."""
        self.silent()
        asking = self.ask()
        self.probes[0].errback(ZeroDivisionError())
        self.failureResultOf(asking, CacheError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class RegistryCircuitTests(RegistryTestCase):
    """The same before real requests, on a clock."""

    def alone(self) -> None:
        """A registry with one host, which answers nothing, and has failed once."""
        self.make()
        self.registry = registry_of(Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9)
        self.one.misbehave("stall", at=-1)
        first = self.ask()
        self.clock.advance(30)
        self.failureResultOf(first, UpstreamTimeout)

    def of_kind(self, kind: str) -> Deferred[Answer]:
        """A request of this kind."""
        request = Request("GET", KINDS[kind], self.registry.subject("org/app", ANONYMOUS))
        return Deferred.fromCoroutine(self.registry.ask(request))

    def test_costs_the_timeout_once(self) -> None:
        """All who come during a probe of a dead host fail with it, whenever they came."""
        self.alone()
        asking = []
        for _ in range(30):
            asking.append(self.ask())
            self.clock.advance(1)
        self.assertEqual(self.one.count(), 2)
        for each in asking:
            self.failureResultOf(each, UpstreamTimeout)
        self.assertEqual(dict(self.registry.health()), {ONE: False})

    def test_probe_is_cheap(self) -> None:
        """What is sent as a probe: the API's root, with no word of any client."""
        self.alone()
        self.ask(credential=ANONYMOUS, accept=("a/b",))
        probe = self.one.requests[-1]
        self.assertEqual((probe.method, probe.path), ("GET", "/v2/"))
        self.assertLessEqual(set(probe.headers), {"accept-encoding", "user-agent"})

    def test_slow_kind(self) -> None:
        """
        Whatever kind of request a registry never answers, all other kinds are answered at once, before and
        after the timeout, and so is the same kind where what is asked for is not slow.
        """
        for slow, path in KINDS.items():
            self.make()
            self.registry = registry_of(Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9)
            self.one.misbehave("stall", path=path, at=-1, times=2)
            for _ in range(2):
                waiting = self.of_kind(slow)
                self.clock.advance(30)
                self.failureResultOf(waiting, UpstreamTimeout)
                for kind in KINDS:
                    if kind != slow:
                        asking = self.of_kind(kind)
                        if kind == "other":
                            self.successResultOf(asking).abandon()
                        else:
                            self.assertTrue(asking.called)
                            asking.addBoth(lambda _result: None)
            last = self.of_kind(slow)
            self.assertTrue(last.called, slow)
            last.addBoth(lambda _result: None)

    def test_stranger_asks_for_something_slow(self) -> None:
        """
        While somebody goes on asking for something that takes for ever, requests of the same kind for
        something else are answered at once.
        """
        self.make()
        self.registry = registry_of(Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9)
        self.one.misbehave("stall", path="/v2/slow/*", at=-1)
        for _ in range(5):
            slow = Deferred.fromCoroutine(
                self.registry.ask(
                    Request("GET", f"/v2/slow/blobs/{self.digest}", self.registry.subject("slow", ANONYMOUS))
                )
            )
            self.clock.advance(29)
            self.answered("HEAD")
            self.clock.advance(1)
            self.failureResultOf(slow, UpstreamTimeout)
            self.answered("HEAD")
            self.assertEqual(dict(self.registry.health()), {ONE: True})

    def test_back_at_once(self) -> None:
        """The first probe of a host that is back releases all requests, ejected or not."""
        self.alone()
        asking = [self.ask() for _ in range(5)]
        self.one.behave()
        self.one.release()
        for each in asking:
            self.successResultOf(each).abandon()
        self.assertEqual(dict(self.registry.health()), {ONE: True})
        self.alone()
        self.one.behave()
        self.answered()

    def test_any_answer_to_the_probe(self) -> None:
        """A host that answers the probe with an error is asked all the same."""
        for status in (500, 503, 404, 401, 302):
            self.alone()
            self.one.behave()
            self.one.misbehave("status", path="/v2/", status=status)
            self.answered()

    def test_slow_storage_is_not_the_registry(self) -> None:
        """A registry that redirects is there, even if its storage answers nothing."""
        self.alone()
        self.one.behave()
        self.one.misbehave("redirect", path="/v2/*", method="GET", to="https://storage.example/x")
        self.storage.misbehave("stall", at=-1)
        fetching = self.ask()
        self.answered("HEAD")
        self.clock.advance(30)
        self.failureResultOf(fetching, UpstreamTimeout)
        self.answered("HEAD")

    def test_nobody_waits_while_others_are_healthy(self) -> None:
        """With another healthy host no request waits for a probe, which is sent in the background."""
        self.one.misbehave("stall", at=-1)
        first = self.ask()
        self.clock.advance(30)
        self.successResultOf(first).abandon()
        self.clock.advance(1)
        for _ in range(4):
            self.assertEqual(self.answered().host, TWO)
        self.assertEqual(self.one.count(), 2)
        self.one.behave()
        self.one.release()
        self.assertEqual({self.answered().host for _ in range(2)}, {ONE, TWO})

    def test_refusals_close_it(self) -> None:
        """A refusal is an answer."""
        self.alone()
        self.one.behave()
        self.one.misbehave("status", status=404)
        self.failureResultOf(self.ask(), OriginRefused)
        self.assertEqual(dict(self.registry.health()), {ONE: True})

    def test_unhealthy_until_it_answers(self) -> None:
        """A host stays unhealthy, since the first failure and with its reason, until a probe finds it back."""
        self.alone()
        (first,) = self.registry.upstream_health.hosts()
        self.assertEqual((first.healthy, first.since, first.last_success), (False, 1e9, None))
        self.assertIn("did not answer in time", first.reason or "")
        self.assertEqual(first.next_try, 1e9 + 1)
        self.clock.advance(600)
        self.assertEqual(self.registry.upstream_health.hosts()[0].healthy, False)
        self.registry.upstream_health.probe_unhealthy()
        self.assertEqual(self.one.count(), 2)
        self.one.behave()
        self.one.release()
        (host,) = self.registry.upstream_health.hosts()
        self.assertEqual((host.healthy, host.reason, host.last_success), (True, None, 1e9))
        self.registry.upstream_health.probe_unhealthy()
        self.assertEqual(self.one.count(), 2)

    def test_stopped(self) -> None:
        """What fails while the daemon stops says nothing of a host."""
        self.registry.close()
        self.registry.failed(ONE, "upstream broke the body off")
        self.assertTrue(all(host.healthy for host in self.registry.upstream_health.hosts()))

    def test_probe_that_is_answered_with_a_fault(self) -> None:
        """A host that answers the probe with 502 is not healthy."""
        self.alone()
        self.one.behave()
        self.one.misbehave("status", path="/v2/", status=502)
        self.clock.advance(1)
        self.registry.upstream_health.probe_unhealthy()
        self.assertEqual(self.one.count(), 2)
        (host,) = self.registry.upstream_health.hosts()
        self.assertEqual((host.healthy, host.reason), (False, f"{ONE} answered 502"))
