"""One origin: its hosts, its word, the cache's account there."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.config.model import Account, Upstream
from contentcache.core.credentials import ANONYMOUS, OWN, Credential
from contentcache.core.errors import (
    LoopDetected,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.account import TokenRefused
from contentcache.upstream.answers import Answer
from contentcache.upstream.client import TargetRefused
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request
from tests.bad_registry import ANYBODY, BadRegistry
from tests.delivery.in_memory import registry_of
from tests.delivery.wire import Wire
from tests.misbehaviour import Asked, Reply

ONE, TWO = "https://one.example", "https://two.example"
ANN = Credential("Basic YW5uOjE=")


class RegistryTestCase(SynchronousTestCase):
    """A registry with two hosts, and storage elsewhere."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.make()

    def make(self, auth: Any = None, **options: Any) -> None:
        """Everything anew."""
        self.one, self.two, self.storage = BadRegistry(auth), BadRegistry(auth), BadRegistry()
        hosts = {urlsplit(url).netloc: registry for url, registry in ((ONE, self.one), (TWO, self.two))}
        self.wire = Wire({**hosts, "storage.example": self.storage}, self.clock)
        upstream = evolve(Upstream(ONE, (ONE, TWO)), **options)
        self.registry: Registry = registry_of(upstream, self.wire, self.clock, lambda: 1e9)
        for registry in (self.one, self.two, self.storage):
            self.digest = registry.put_blob("org/app", b"blob")
            registry.realm = f"{ONE}/token"
        self.path = f"/v2/org/app/blobs/{self.digest}"

    def request(self, method: Any = "GET", credential: Credential = ANONYMOUS, **more: Any) -> Request:
        """A request for the blob."""
        return Request(method, self.path, self.registry.subject("org/app", credential), **more)

    def ask(self, *given: Any, **more: Any) -> Deferred[Answer]:
        """Ask whoever's turn it is."""
        return Deferred.fromCoroutine(self.registry.ask(self.request(*given, **more)))

    def refused(self, *given: Any, **more: Any) -> OriginRefused:
        """The refusal of the origin."""
        error = self.failureResultOf(self.ask(*given, **more), OriginRefused).value
        assert isinstance(error, OriginRefused)
        return error

    def answered(self, *given: Any, **more: Any) -> Answer:
        """An answer, and its body let go."""
        answer = self.successResultOf(self.ask(*given, **more))
        answer.abandon()
        return answer


class AskingTests(RegistryTestCase):
    """What is sent upstream, and what becomes of the answer."""

    def test_what_is_sent(self) -> None:
        """The client's credential, the values of Accept as they came, Via and Range, and nothing else."""
        self.answered("GET", ANN, accept=("a/b", "c/d"), via="1.1 us", range="bytes=1-")
        sent = dict(self.one.requests[0].headers)
        sent.pop("accept-encoding", None)  # treq's own, where it is treq that asks
        expected = {
            "authorization": ANN.authorization,
            "accept": "a/b, c/d",
            "via": "1.1 us",
            "range": "bytes=1-",
        }
        self.assertEqual(sent, expected)

    def test_word_of_the_registry(self) -> None:
        """Every 4xx is passed on with its body and its headers, and no other host is asked."""
        for status in (400, 401, 403, 404, 405, 416, 418, 451):
            self.make()
            self.one.misbehave("status", status=status, challenge="Basic x")
            error = self.refused()
            self.assertEqual((error.status, error.headers["WWW-Authenticate"]), (status, "Basic x"))
            self.assertIn(b"on purpose", error.body)
            self.assertEqual(self.two.count(), 0)

    def test_no_answer_is_no_word(self) -> None:
        """Any other failure decides nothing: the next host is asked, the last one's error is raised."""
        for status, kind in (
            (500, UpstreamBroken),
            (502, UpstreamBroken),
            (503, UpstreamUnavailable),
            (504, UpstreamTimeout),
            (304, UpstreamBroken),
            (300, UpstreamBroken),
            (199, UpstreamBroken),
            (600, UpstreamBroken),
        ):
            self.make()
            self.one.misbehave("status", status=status)
            self.assertEqual(self.answered().host, TWO)
            self.two.misbehave("status", status=status)
            self.failureResultOf(self.ask(), kind)

    def test_unreachable(self) -> None:
        """Hosts that cannot be reached, or send no head for thirty seconds."""
        self.wire.down |= {"one.example", "two.example"}
        self.failureResultOf(self.ask(), UpstreamUnavailable)
        self.wire.down.clear()
        for registry in (self.one, self.two):
            registry.misbehave("stall", at=-1)
        asking = self.ask()
        self.clock.advance(30)
        self.assertNoResult(asking)
        self.clock.advance(30)
        self.failureResultOf(asking, UpstreamTimeout)
        self.assertEqual(self.wire.given_up, 2)

    def test_reset_before_the_head(self) -> None:
        """A connection that breaks off without an answer."""
        for registry in (self.one, self.two):
            registry.misbehave("reset", at=-1)
        self.failureResultOf(self.ask(), UpstreamBroken)

    def test_health(self) -> None:
        """A host that failed is asked last until its time is up or it answers."""
        self.wire.down.add("one.example")
        self.answered()
        self.assertEqual(dict(self.registry.health()), {ONE: False, TWO: True})
        self.wire.down.clear()
        self.assertEqual([self.answered().host for _ in range(3)], [TWO] * 3)
        self.clock.advance(1)
        self.assertEqual(self.answered().host, TWO)  # the other one is probed meanwhile
        self.assertEqual({self.answered().host for _ in range(2)}, {ONE, TWO})

    def test_loop(self) -> None:
        """A host that has found a loop is not at fault, and the next one is asked; all of them are a loop."""
        self.one.misbehave("status", status=508)
        self.assertEqual([self.answered().host for _ in range(2)], [TWO, TWO])
        self.two.misbehave("status", status=508)
        for _ in range(2):
            self.failureResultOf(self.ask(), LoopDetected)
        self.assertTrue(all(well for _, well in self.registry.health()))
        self.two.behave()
        self.two.misbehave("status", status=503)
        self.failureResultOf(self.ask(), UpstreamUnavailable)

    def test_caches_behind_are_learned(self) -> None:
        """
        The names in the Via of a host's answers, refusals too, are those of the caches behind it; nothing is
        learned from an answer to a request without Via.
        """
        via = "1.1 contentcache-x, 1.1 contentcache-me"
        for status in (200, 404):
            self.make()
            if status != 200:
                self.one.misbehave("status", status=status)
            honest = self.one.answer

            def answer(asked: Asked, honest: Any = honest) -> Reply:
                reply: Reply = honest(asked)
                via = "1.1 contentcache-b, 1.1 contentcache-x, 1.1 fred"
                return evolve(reply, headers={**reply.headers, "Via": via})

            self.one.answer = answer  # type: ignore[method-assign]  # a cache before it
            asking = self.ask("HEAD")
            asking.addCallbacks(lambda answer: answer.abandon(), lambda _failure: None)
            self.assertTrue(self.registry.may_lead_back(via, ONE))
            self.assertTrue(self.registry.may_lead_back("1.1 contentcache-y, 1.1 contentcache-me", ONE))
            self.registry.order()
            asking = self.ask("HEAD", via="1.1 contentcache-me")
            asking.addCallbacks(lambda answer: answer.abandon(), lambda _failure: None)
            self.assertTrue(self.registry.may_lead_back(via, ONE))
            self.assertFalse(self.registry.may_lead_back("1.1 contentcache-y, 1.1 contentcache-me", ONE))
            self.assertFalse(self.registry.may_lead_back("1.1 fred, 1.1 contentcache-me", ONE))
            self.assertTrue(self.registry.may_lead_back("1.1 contentcache-y, 1.1 contentcache-me"))

    def test_permits_and_loops(self) -> None:
        """A request that may have come in a circle waits for no permit: its holder may wait for the request."""
        self.registry = registry_of(
            Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9, SemaphorePerKey(1)
        )
        self.one.misbehave("stall", at=-1, times=1)
        first = self.ask(via="1.1 contentcache-me")
        self.answered(via="1.1 contentcache-x, 1.1 contentcache-me")
        ordinary = self.ask(via="1.1 contentcache-me")
        self.assertNoResult(ordinary)
        self.one.release()
        self.successResultOf(first).abandon()
        self.successResultOf(ordinary).abandon()

    def test_client_leaves(self) -> None:
        """A client that leaves before the head ends its own question and blames nobody."""
        self.one.misbehave("stall", at=-1)
        asking = self.ask()
        asking.addErrback(lambda _failure: None)
        asking.cancel()
        self.assertEqual(self.wire.given_up, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(all(well for _, well in self.registry.health()))


class RateLimitTests(RegistryTestCase):
    """429."""

    def test_parallel_ranges(self) -> None:
        """
        A 429 to a range beside others is not the client's: its own questions go on, and only what is asked in
        parallel of that host waits.
        """
        self.registry = registry_of(Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9)
        self.one.misbehave("status", status=429, retry_after="20", times=1)
        for _ in range(2):
            self.assertEqual(self.refused(range="bytes=5-9", parallel=True).status, 429)
        self.assertEqual(self.one.count(), 1)
        self.answered()
        self.assertEqual(self.refused("GET", ANN, range="bytes=5-9", parallel=True).status, 429)
        self.clock.advance(20)
        self.answered(range="bytes=5-9", parallel=True)
        self.one.misbehave("status", status=429, retry_after="20", times=1)
        self.refused()
        self.assertEqual(self.refused(range="bytes=5-9", parallel=True).status, 429)

    def test_remaining(self) -> None:
        """How many requests a registry still allows is in the metrics, as it last said."""
        meter = Meter()
        self.registry = registry_of(Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9, meter=meter)
        meter.watch_upstream(ONE, lambda: True, lambda: 0.0)
        name = "contentcache_upstream_ratelimit_remaining"
        for value, expected in (("76;w=21600", 76), ("75;w=21600", 75), ("many", 75)):
            self.one.behave()
            self.one.misbehave("with", header="ratelimit-remaining", value=value)
            self.answered("HEAD")
            self.assertEqual(meter.registry.get_sample_value(name, {"host": ONE}), expected)

    def test_spellings_of_retry_after(self) -> None:
        """Seconds, a date and a moment in seconds since 1970 mean the same, of a 429 and of a 503."""
        for spelling in ("90", "Sun, 09 Sep 2001 01:48:10 GMT", "1000000090", "1000000090000"):
            for status, kind in ((429, OriginRefused), (503, UpstreamUnavailable)):
                self.make()
                self.registry = registry_of(Upstream(ONE, (ONE,)), self.wire, self.clock, lambda: 1e9)
                self.one.misbehave("status", status=status, retry_after=spelling)
                error: Any = self.failureResultOf(self.ask(), kind).value
                self.assertEqual(error.headers["Retry-After"], "90", spelling)

    def test_logged(self) -> None:
        """A rate limit is logged once, a refused password with whose it is and without it."""
        self.one.misbehave("status", status=429, retry_after="7", times=1)
        with capturedLogs() as events:
            self.refused()
            self.refused()
        (event,) = (each for each in events if each["log_format"].startswith("rate limit of upstream"))
        self.assertEqual((event["upstream"], event["retry_in"]), (ONE, "7s"))
        self.make()
        self.one.misbehave("status", status=401, times=1)
        with capturedLogs() as events:
            self.refused("GET", ANN)
            self.two.misbehave("status", status=401)
            self.refused()
        (event,) = (each for each in events if each["log_format"].startswith("password refused"))
        self.assertEqual((event["upstream"], event["account"]), (ONE, "client"))
        self.assertNotIn(str(ANN.authorization), str(event))

    def test_remembered_per_credential(self) -> None:
        """A rate-limited credential gets its 429 here; others, and itself later, are sent upstream."""
        self.one.misbehave("status", status=429, retry_after="7", times=1)
        self.assertEqual(self.refused().headers["Retry-After"], "7")
        for method in ("GET", "HEAD"):
            self.assertEqual(self.refused(method).headers["Retry-After"], "7")
        self.assertEqual(self.one.count() + self.two.count(), 1)
        self.answered("GET", ANN)
        self.clock.advance(3)
        self.assertEqual(self.refused().headers["Retry-After"], "4")
        self.clock.advance(4)
        self.answered()

    def test_bounds(self) -> None:
        """Thirty seconds where upstream does not say, at most ten minutes whatever it says."""
        for said, counted in ((None, "30"), ("soon", "30"), ("86400", "600"), ("0", "1")):
            self.make()
            self.one.misbehave("status", status=429, retry_after=said)
            self.assertEqual(self.refused().headers["Retry-After"], counted)


class OtherRegistryTests(RegistryTestCase):
    """A registry that redirects everything to another registry."""

    def setUp(self) -> None:
        super().setUp()
        moved = Reply(307, {"Location": "https://storage.example/v2/other"}, length=0)
        for registry in (self.one, self.two):
            self.patch(registry, "answer", lambda _asked: moved)

    def of(self, path: str, method: Any = "GET") -> Deferred[Answer]:
        """A request for this."""
        return Deferred.fromCoroutine(
            self.registry.ask(Request(method, path, self.registry.subject("org/app", ANONYMOUS)))
        )

    def test_missing(self) -> None:
        """A 404 there is one for manifests, tags and referrers; it ejects no host and challenges nobody."""
        self.storage.misbehave("status", status=404, challenge="Basic x")
        for path in (
            "/v2/org/app/manifests/none",
            "/v2/org/app/manifests/sha256-00.sig",
            f"/v2/org/app/manifests/{self.digest}",
            f"/v2/org/app/referrers/{self.digest}",
            "/v2/org/app/tags/list?n=2",
        ):
            for method in ("GET", "HEAD"):
                refusal: Any = self.failureResultOf(self.of(path, method), OriginRefused).value
                self.assertEqual(refusal.status, 404)
                self.assertNotIn("WWW-Authenticate", refusal.headers)
                self.assertEqual(b"on purpose" in refusal.body, method == "GET")
        self.assertTrue(all(well for _, well in self.registry.health()))

    def test_no_catalog(self) -> None:
        """A catalogue that is missing behind a redirect, or that is 501, is missing; no host is unhealthy."""
        for status in (404, 405, 501):
            self.storage.behave()
            self.storage.misbehave("status", status=status, challenge="Basic x")
            for method in ("GET", "HEAD"):
                refusal: Any = self.failureResultOf(self.of("/v2/_catalog?n=1", method), OriginRefused).value
                self.assertEqual(refusal.status, status)
                self.assertNotIn("WWW-Authenticate", refusal.headers)
        self.assertTrue(all(well for _, well in self.registry.health()))

    def test_other_refusals(self) -> None:
        """Any other refusal there, and a 404 for a blob, is a failed request and decides nothing."""
        for status in (400, 401, 403, 405, 410, 429):
            self.storage.behave()
            self.storage.misbehave("status", status=status)
            self.failureResultOf(self.of("/v2/org/app/manifests/none"), TargetRefused)
        self.storage.behave()
        self.storage.misbehave("status", status=404)
        for path in (self.path, "/v2/"):
            self.failureResultOf(self.of(path), TargetRefused)
        self.storage.behave()
        self.storage.misbehave("status", status=403)
        self.failureResultOf(self.of("/v2/_catalog"), TargetRefused)


class RedirectTests(RegistryTestCase):
    """Redirects to storage."""

    def setUp(self) -> None:
        super().setUp()
        self.to = f"https://storage.example/storage/{self.digest}"
        self.one.misbehave("redirect", path="/v2/*", to=self.to)

    def test_no_credential_crosses(self) -> None:
        """Storage sees the range, the way (by which our own kind knows a loop), and no credential."""
        answer = self.answered("GET", ANN, range="bytes=1-", via="1.1 us")
        self.assertEqual((answer.status, answer.redirected), (206, True))
        [asked] = self.storage.requests
        self.assertEqual(asked.headers["range"], "bytes=1-")
        self.assertNotIn("authorization", asked.headers)
        self.assertEqual(asked.headers["via"], "1.1 us")

    def test_refusal_of_storage(self) -> None:
        """A 4xx of storage is a failed request; the registry's host stays healthy."""
        for status in (400, 401, 403, 404, 416, 429):
            self.storage.behave()
            self.storage.misbehave("status", status=status)
            deferred = Deferred.fromCoroutine(self.registry.ask_host(ONE, self.request()))
            self.failureResultOf(deferred, TargetRefused)
            self.assertTrue(dict(self.registry.health())[ONE])

    def test_not_followed_to_decide(self) -> None:
        """The redirect itself is the answer where it only decides whether a request is allowed."""
        answer = self.answered("HEAD", follow=False)
        self.assertEqual((answer.status, answer.redirected), (307, True))
        self.assertEqual(self.storage.count(), 0)

    def test_no_place_to_go(self) -> None:
        """From https to plain HTTP nobody follows, to decide neither."""
        self.one.behave()
        self.one.misbehave("redirect", path="/v2/*", to="http://storage.example/x")
        for follow in (True, False):
            deferred = Deferred.fromCoroutine(self.registry.ask_host(ONE, self.request(follow=follow)))
            self.failureResultOf(deferred, UpstreamBroken)


class OwnAccountTests(RegistryTestCase):
    """The cache's own account takes the client's place."""

    def own(self, auth: str, life: int = 300) -> None:
        """A registry that lets the cache in, and nobody else."""
        self.make(auth, public=True, own=True, account=Account("cache", "pw"))
        for registry in (self.one, self.two):
            registry.life = life
            registry.let("cache", "pw", "org/app")

    def test_challenged_and_let_in(self) -> None:
        """The challenge is answered within the request, and its answer is used from then on."""
        for auth, requests in (("basic", 2), ("bearer", 3)):
            self.own(auth)
            self.assertEqual(self.answered("GET", OWN).status, 200)
            self.assertEqual(self.one.count(), requests)

    def test_refused(self) -> None:
        """A no to the account is a 403 to the client, who cannot answer a challenge to somebody else."""
        self.own("basic")
        self.one.let("cache", "changed", "org/app")
        error = self.refused("GET", OWN)
        self.assertEqual(error.status, 403)
        self.assertNotIn("WWW-Authenticate", error.headers)

    def test_no_token(self) -> None:
        """A token server that fails decides nothing, and the registry's host stays healthy."""
        self.own("bearer")
        for registry in (self.one, self.two):
            registry.misbehave("status", path="/token", status=500)
        self.failureResultOf(self.ask("GET", OWN), UpstreamBroken)
        self.assertTrue(all(well for _, well in self.registry.health()))

    def test_token_server_redirects(self) -> None:
        """A redirect of the token server is not followed, with the password or without."""
        self.own("bearer")
        self.one.misbehave("redirect", path="/token", to="https://storage.example/token")
        self.failureResultOf(self.ask_one(), UpstreamBroken)
        self.assertEqual((self.one.count(path="/token"), self.storage.count()), (1, 0))

    def test_token_server_refuses(self) -> None:
        """A 401 of the token server is not answered: it would be with the same password, for ever."""
        self.own("bearer")
        self.one.misbehave("status", path="/token", status=401, challenge=f'Bearer realm="{ONE}/token"')
        self.failureResultOf(self.ask_one(), TokenRefused)
        self.assertEqual((self.one.count(path="/token"), self.one.count()), (1, 2))

    def test_foreign_realm(self) -> None:
        """A realm on a host of somebody else's is not asked at all."""
        self.own("bearer")
        self.one.realm = "https://storage.example/token"
        self.failureResultOf(self.ask_one(), UpstreamBroken)
        self.assertEqual(self.storage.count(), 0)

    def ask_one(self) -> Deferred[Answer]:
        """Ask the first host for the cache itself."""
        return Deferred.fromCoroutine(self.registry.ask_host(ONE, self.request("GET", OWN)))

    def test_large_token(self) -> None:
        """An answer of the token server that is too large is no token."""
        self.own("bearer")
        for registry in (self.one, self.two):
            registry.misbehave("resized", path="/token", by=70_000)
        self.failureResultOf(self.ask("GET", OWN), UpstreamBroken)

    def test_anonymous_tokens(self) -> None:
        """Without an account a public registry that wants tokens is asked for anonymous ones."""
        self.make("bearer", public=True, own=True)
        self.one.let(ANYBODY, "", "org/app")
        answer = self.successResultOf(
            Deferred.fromCoroutine(self.registry.ask_host(ONE, self.request("GET", OWN)))
        )
        self.assertEqual(answer.status, 200)

    def test_clients_are_not_answered_for(self) -> None:
        """A client's own 401 is never answered with the account."""
        self.own("basic")
        self.assertEqual(self.refused("GET", ANN).status, 401)
        self.assertEqual(self.one.count(), 1)
