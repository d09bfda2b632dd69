"""Keys that sign URLs: asked when needed, kept for as long as they may be, looked up again within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from contentcache.config.model import Upstream
from contentcache.core.credentials import Credential, Subject
from contentcache.core.errors import OriginRefused, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.core.via import CachesBehind
from contentcache.delivery.signing_keys import MAX_STALE, PATH, RETRY_PAUSE, NoKeys, OriginSigningKeys
from contentcache.jose.keyset import UnknownKeyError, VerificationKey, encode_key_set
from contentcache.upstream.answers import Answer
from contentcache.upstream.request import Request
from tests.registry.harness import FakeResponse

T = TypeVar("T")
ORIGIN = "https://origin.example"


def key(kid: str) -> VerificationKey:
    """A key of that name."""
    return VerificationKey(kid, "EdDSA", Ed25519PrivateKey.generate().public_key())


class Hop:
    """A registry that answers with ``keys``, or fails with ``fault``, or lets wait while ``held``."""

    def __init__(self, clock: Clock, upstream: Upstream) -> None:
        self.clock = clock
        self.upstream = upstream
        self.keys = [key("one")]
        self.body: bytes | None = None
        self.status = 200
        self.fault: Exception | None = None
        self.headers: dict[str, str] = {"Cache-Control": "max-age=300"}
        self.asked: list[Request] = []
        self.held: list[Deferred[None]] | None = None
        self.behind = CachesBehind()

    def subject(self, repository: str | None, credential: Credential) -> Subject:
        """As the real one."""
        return Subject.of(b"", self.upstream.origin, repository, credential)

    def may_lead_back(self, via: str) -> bool:
        """As the real one."""
        return self.behind.may_lead_back(via, self.upstream.hosts)

    def hold(self) -> list[Deferred[None]]:
        """Let questions wait; the list gets what lets them go on."""
        self.held = held = list[Deferred[None]]()
        return held

    async def ask(self, request: Request, *, only: Callable[[str], bool]) -> Answer:
        """Answer."""
        hosts = [host for host in self.upstream.hosts if only(host)]
        if not hosts:
            raise UpstreamUnavailable("nobody")
        self.asked.append(request)
        if self.held is not None:
            waiting: Deferred[None] = Deferred()
            self.held.append(waiting)
            await waiting
        if self.fault is not None:
            raise self.fault
        body = encode_key_set(self.keys) if self.body is None else self.body
        fields = Headers({name: [value] for name, value in self.headers.items()})
        broadcast = FakeResponse(self.status, fields, (body,), length=len(body))
        return Answer(hosts[0], self.status, False, broadcast, self.clock, 30.0)


class KeysTestCase(SynchronousTestCase):
    """Has :attr:`hop`, and :attr:`keys` that ask it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.build(Upstream(ORIGIN, (ORIGIN,), issuer=ORIGIN))

    def build(self, upstream: Upstream) -> None:
        """Keys of that upstream."""
        self.hop = Hop(self.clock, upstream)
        hop: Any = self.hop
        self.keys = OriginSigningKeys(hop, clock=self.clock, pseudonym="contentcache-me")

    def run_to_end(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        """What a coroutine answers that has nothing to wait for."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def find(self, kid: str) -> VerificationKey:
        """Look a key up."""
        return self.run_to_end(self.keys.find(kid))

    def refuse(self, kid: str, kind: type[Exception]) -> None:
        """Look a key up that is not to be had."""
        self.failureResultOf(Deferred.fromCoroutine(self.keys.find(kid)), kind)


class AskingTests(KeysTestCase):
    """When the next hop is asked, and what."""

    def test_once(self) -> None:
        """A set is asked for when it is first needed, without credentials and no redirect followed."""
        self.assertEqual(self.hop.asked, [])
        self.assertEqual((self.find("one"), self.find("one")), (self.hop.keys[0],) * 2)
        (request,) = self.hop.asked
        self.assertEqual((request.path, request.follow, request.via), (PATH, False, "1.1 contentcache-me"))
        self.assertEqual(request.credential.authorization, None)

    def test_shared(self) -> None:
        """Those who need it at once share one question; one of them that leaves takes nothing from others."""
        held = self.hop.hold()
        first = Deferred.fromCoroutine(self.keys.find("one"))
        second = Deferred.fromCoroutine(self.keys.find("one"))
        first.cancel()
        self.failureResultOf(first)
        held[0].callback(None)
        self.assertEqual(self.successResultOf(second), self.hop.keys[0])
        self.assertEqual(len(self.hop.asked), 1)

    def test_cache_control(self) -> None:
        """The set is asked for again when its max-age is over, the time on the way counted."""
        self.hop.headers = {"Cache-Control": "public, max-age=300", "Age": "100"}
        self.find("one")
        self.clock.advance(199)
        self.find("one")
        self.assertEqual(len(self.hop.asked), 1)
        self.clock.advance(1)
        self.find("one")
        self.assertEqual(len(self.hop.asked), 2)

    def test_must_not_be_kept(self) -> None:
        """A set that must not be kept costs a question a second at most."""
        self.hop.headers = {"Cache-Control": "no-store"}
        for _ in range(10):
            self.find("one")
        self.assertEqual(len(self.hop.asked), 1)
        self.clock.advance(1)
        self.find("one")
        self.assertEqual(len(self.hop.asked), 2)

    def test_withdrawn(self) -> None:
        """A key that is not in the newer set is nobody's any more."""
        self.find("one")
        self.hop.keys = [key("two")]
        self.clock.advance(300)
        self.refuse("one", UnknownKeyError)

    def test_plain_http(self) -> None:
        """The keys of an https origin are not asked for over plain HTTP; those of another origin are."""
        self.build(Upstream(ORIGIN, ("http://hop.example",), issuer=ORIGIN))
        self.refuse("one", UpstreamUnavailable)
        self.assertEqual(self.hop.asked, [])
        self.build(Upstream("http://origin.example", ("http://hop.example",), issuer="http://origin.example"))
        self.find("one")


class UnknownTests(KeysTestCase):
    """Names that are not in the set."""

    def test_rotation(self) -> None:
        """A new key is found at once, however fresh the old set is here or at a cache on the way."""
        self.find("one")
        self.hop.keys.append(key("two"))
        self.clock.advance(1)
        self.assertEqual(self.find("two"), self.hop.keys[1])
        self.assertEqual([request.no_cache for request in self.hop.asked], [False, True])
        self.assertEqual(self.find("one"), self.hop.keys[0])

    def test_made_up(self) -> None:
        """Made-up names cost one question in ten seconds, all together."""
        self.find("one")
        for number in range(50):
            self.refuse(f"made up {number}", UnknownKeyError)
        self.assertEqual(len(self.hop.asked), 2)
        self.clock.advance(RETRY_PAUSE)
        for number in range(50):
            self.refuse(f"made up {number}", UnknownKeyError)
        self.assertEqual(len(self.hop.asked), 3)

    def test_doubled(self) -> None:
        """A name that two keys have is no reason to ask."""
        self.hop.keys += [key("two"), key("two")]
        self.find("one")
        self.refuse("two", UnknownKeyError)
        self.assertEqual(len(self.hop.asked), 1)

    def test_while_away(self) -> None:
        """While upstream is away an unknown name is refused, and known ones are found."""
        self.find("one")
        self.hop.fault = UpstreamUnavailable("away")
        self.refuse("two", UnknownKeyError)
        self.find("one")


class AwayTests(KeysTestCase):
    """While upstream cannot be asked."""

    def test_never_seen(self) -> None:
        """Without any set the error is upstream's; it is tried again after a pause, and not before."""
        self.hop.fault = UpstreamUnavailable("away")
        self.refuse("one", UpstreamUnavailable)
        self.refuse("one", UpstreamUnavailable)
        self.assertEqual(len(self.hop.asked), 1)
        self.hop.fault = None
        self.clock.advance(1)
        self.find("one")

    def test_hangs_from_the_start(self) -> None:
        """Who has no keys waits for ten seconds and no longer."""
        self.hop.hold()
        waiting = Deferred.fromCoroutine(self.keys.find("one"))
        self.clock.advance(9)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        self.failureResultOf(waiting, UpstreamTimeout)

    def test_a_day(self) -> None:
        """Keys are kept for a day while upstream is away, and no longer."""
        self.find("one")
        self.hop.fault = UpstreamUnavailable("away")
        self.clock.advance(MAX_STALE - 1)
        self.find("one")
        self.clock.advance(1)
        self.refuse("one", UpstreamUnavailable)

    def test_slow(self) -> None:
        """A question that hangs delays those who have keys by seconds only, and is not asked twice."""
        self.find("one")
        self.clock.advance(300)
        held = self.hop.hold()
        waiting = Deferred.fromCoroutine(self.keys.find("one"))
        self.assertNoResult(waiting)
        self.clock.advance(2)
        self.assertEqual(self.successResultOf(waiting), self.hop.keys[0])
        self.find("one")  # the next one does not wait for the same question again
        unknown = Deferred.fromCoroutine(self.keys.find("two"))
        self.assertNoResult(unknown)
        self.clock.advance(3)
        self.failureResultOf(unknown, UnknownKeyError)
        self.hop.keys = [key("two")]
        self.hop.held = None
        held[0].callback(None)
        self.refuse("one", UnknownKeyError)
        self.find("two")

    def test_nonsense(self) -> None:
        """Another page in the place of the set changes nothing; without keys it is upstream's fault."""
        self.hop.body = b"<html>Sign in to the hotel's network</html>"
        self.refuse("one", UpstreamBroken)
        self.clock.advance(RETRY_PAUSE)
        self.hop.body = None
        self.find("one")
        self.clock.advance(300)
        self.hop.body = b"[]"
        self.find("one")

    def test_redirect(self) -> None:
        """A redirect is no set."""
        self.hop.status = 302
        self.refuse("one", UpstreamBroken)

    def test_none(self) -> None:
        """An origin that has no set has no keys, and is asked again after a pause."""
        self.hop.fault = OriginRefused(404, {})
        self.refuse("one", NoKeys)
        self.clock.advance(RETRY_PAUSE - 1)
        self.refuse("one", NoKeys)
        self.assertEqual(len(self.hop.asked), 1)

    def test_none_any_more(self) -> None:
        """A set that is missing for a moment takes nothing back; after ten minutes it does."""
        self.find("one")
        self.clock.advance(300)
        self.hop.fault = OriginRefused(404, {})
        self.find("one")
        self.clock.advance(300)
        self.refuse("one", NoKeys)

    def test_back_again(self) -> None:
        """A set that is there again counts for a day again."""
        self.find("one")
        self.clock.advance(300)
        self.hop.fault = OriginRefused(404, {})
        self.find("one")
        self.hop.fault = None
        self.clock.advance(RETRY_PAUSE)
        self.find("one")
        self.hop.fault = UpstreamUnavailable("away")
        self.clock.advance(MAX_STALE - 1)
        self.find("one")

    def test_busy(self) -> None:
        """An origin that asks for patience takes nothing back."""
        self.find("one")
        self.clock.advance(300)
        self.hop.fault = OriginRefused(429, {})
        self.find("one")


class PublishedTests(KeysTestCase):
    """The set for the next cache."""

    def test_handed_on(self) -> None:
        """The keys are handed on with the lifetime and the age of their set."""
        self.hop.headers = {"Cache-Control": "max-age=300", "Age": "20"}
        self.hop.keys.append(key("two"))
        self.find("one")
        self.clock.advance(30)
        published = self.run_to_end(self.keys.published())
        self.assertEqual(published.document, encode_key_set(self.hop.keys))
        self.assertEqual((published.max_age, published.age), (300, 50))

    def test_nothing_else(self) -> None:
        """Of a document only the public parts of good keys are handed on."""
        good = json.loads(encode_key_set(self.hop.keys))["keys"]
        leaked = {**good[0], "kid": "leaked", "d": "c2VjcmV0"}
        symmetric = {"kty": "oct", "kid": "k", "k": "c2VjcmV0"}
        self.hop.body = json.dumps({"keys": [*good, leaked, symmetric], "note": "c2VjcmV0"}).encode()
        self.assertEqual(self.run_to_end(self.keys.published()).document, encode_key_set(self.hop.keys))

    def test_for_who_misses_a_key(self) -> None:
        """A cache that misses a key has the set asked for anew, at most once in ten seconds."""
        self.run_to_end(self.keys.published(no_cache=True))
        self.hop.keys.append(key("two"))
        self.run_to_end(self.keys.published(no_cache=True))
        self.assertEqual(len(self.hop.asked), 2)
        self.clock.advance(RETRY_PAUSE)
        document = self.run_to_end(self.keys.published(no_cache=True)).document
        self.assertEqual(document, encode_key_set(self.hop.keys))

    def test_loop_of_caches(self) -> None:
        """
        A request that may have come in a circle does not wait for the shared question, but is asked on its
        own, with its own ``Via``; one of which it is known that it has not shares it.
        """
        via = "1.1 contentcache-a, 1.1 contentcache-me"
        held = self.hop.hold()
        Deferred.fromCoroutine(self.keys.published())
        alone = Deferred.fromCoroutine(self.keys.published(via=via))
        self.assertEqual([request.via for request in self.hop.asked], ["1.1 contentcache-me", via])
        held[1].callback(None)
        self.assertEqual(self.successResultOf(alone).document, encode_key_set(self.hop.keys))
        self.hop.behind.learn(self.hop.upstream.hosts[0], ["1.1 contentcache-b"])
        shared = Deferred.fromCoroutine(self.keys.published(via=via))
        self.assertEqual(len(self.hop.asked), 2)
        held[0].callback(None)
        self.successResultOf(shared)

    def test_none(self) -> None:
        """Where there is none, nothing is made up."""
        self.hop.fault = OriginRefused(404, {})
        self.failureResultOf(Deferred.fromCoroutine(self.keys.published()), NoKeys)
