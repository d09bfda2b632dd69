"""Questions that only the origin can answer."""

from __future__ import annotations

from contentcache.core.credentials import ANONYMOUS, Credential
from contentcache.core.errors import OriginRefused, UpstreamUnavailable
from contentcache.delivery.origin_queries import Pinged, _bounded
from contentcache.upstream.request import Request
from tests.delivery.in_memory import REPOSITORY, InMemoryCache, InMemoryCacheTestCase
from tests.delivery.test_authorization import bearer_until


class PingTests(InMemoryCacheTestCase):
    """``/v2/``."""

    def ping(self, cache: InMemoryCache, credential: Credential = ANONYMOUS) -> Pinged:
        """What a client is told."""
        return self.result(
            cache.origin_queries.ping(cache.registries[0], cache.registries[0].subject(None, credential), "")
        )

    def test_remembered(self) -> None:
        """The answer to a credential, a challenge too, is remembered for authttl."""
        cache = self.make_cache(auth="basic")
        ann = Credential(cache.origin.let("ann", "1"))
        for _ in range(2):
            self.assertEqual(self.ping(cache).status, 401)
            self.assertEqual(self.ping(cache).headers["WWW-Authenticate"], 'Basic realm="tests"')
            self.assertEqual(self.ping(cache, ann).status, 200)
        self.assertEqual(cache.origin.count(), 2)
        cache.later(60)
        self.ping(cache)
        self.assertEqual(cache.origin.count(), 3)

    def test_no_authttl(self) -> None:
        """With authttl 0 it is asked each time."""
        cache = self.make_cache(authttl=0.0)
        self.ping(cache)
        self.ping(cache)
        self.assertEqual(cache.origin.count(), 2)

    def test_token_ends(self) -> None:
        """What was said to a token ends with it."""
        cache = self.make_cache()
        token = Credential(bearer_until(cache.wall() + 10))
        self.ping(cache, token)
        cache.later(10)
        cache.origin.misbehave("status", status=401)
        self.assertEqual(self.ping(cache, token).status, 401)

    def test_stale(self) -> None:
        """With staleiferror the last answer serves, within the bound, while the origin is away."""
        cache = self.make_cache(auth="basic", staleiferror=600.0)
        self.ping(cache)
        cache.later(599)
        cache.wire.down.add("one.example")
        pinged = self.ping(cache)
        self.assertEqual((pinged.status, pinged.stale), (401, True))
        ann = Credential(cache.origin.let("ann", "1"))
        self.error(
            cache.origin_queries.ping(cache.registries[0], cache.registries[0].subject(None, ann), ""),
            UpstreamUnavailable,
        )
        cache.later(1)
        self.error(
            cache.origin_queries.ping(cache.registries[0], cache.registries[0].subject(None, ANONYMOUS), ""),
            UpstreamUnavailable,
        )

    def test_400_is_not_remembered(self) -> None:
        """What is wrong with one client's request is not the answer to others with the same credential."""
        for status in (400, 414, 431):
            cache = self.make_cache()
            cache.origin.misbehave("status", status=status, times=1)
            self.assertEqual(self.ping(cache).status, status)
            self.assertEqual(self.ping(cache).status, 200)

    def test_429_is_not_remembered_as_the_answer(self) -> None:
        """After a 429's time is up the origin is asked again."""
        cache = self.make_cache()
        cache.origin.misbehave("status", status=429, retry_after="5", times=1)
        self.assertEqual(self.ping(cache).status, 429)
        cache.later(5)
        self.assertEqual(self.ping(cache).status, 200)


class KeptPingsTests(InMemoryCacheTestCase):
    """How much of the answers to ``/v2/`` is kept."""

    def test_bounded(self) -> None:
        """Status, challenges and a body of at most 1 KiB are kept, whatever the origin adds."""
        challenge = 'Basic realm="x"'
        large = Pinged(401, {"WWW-Authenticate": challenge, "Warning": "w" * 12000}, b"n" * 1025)
        self.assertEqual(_bounded(large), Pinged(401, {"WWW-Authenticate": challenge}, b""))
        small = Pinged(401, {"WWW-Authenticate": (challenge, challenge)}, b"n" * 1024)
        self.assertEqual(_bounded(small), small)
        self.assertIsNone(_bounded(Pinged(401, {"WWW-Authenticate": ("x" * 1500, "y" * 1500)}, b"")))

    def test_number(self) -> None:
        """Answers to made-up credentials take the place of the least recent ones."""
        cache = self.make_cache(auth="basic")
        cache.origin_queries._pings.capacity = 10
        for number in range(30):
            self.result(
                cache.origin_queries.ping(
                    cache.registries[0], cache.registries[0].subject(None, Credential(f"Bearer {number}")), ""
                )
            )
        self.assertEqual(len(cache.origin_queries._pings), 10)


class PassedOnTests(InMemoryCacheTestCase):
    """Lists."""

    def listed(self, cache: InMemoryCache, kind: str, credential: Credential) -> Request:
        """A question for a list."""
        return Request("GET", f"/v2/{REPOSITORY}/{kind}", cache.registries[0].subject(REPOSITORY, credential))

    def test_no_grant(self) -> None:
        """Neither tags nor referrers nor ``/v2/`` open what is stored to somebody who may only list."""
        cache = self.make_cache(auth="basic")
        digest = cache.origin.put_blob(REPOSITORY, b"x")
        ann = cache.origin.let("ann", "1", REPOSITORY)
        self.assertWhole(cache.pull(digest, ann), b"x")
        lister = cache.origin.let("lister", "2", REPOSITORY)
        cache.origin.misbehave("status", path="*/blobs/*", status=403)
        cache.origin.misbehave("portal", path="*/referrers/*")  # any body with 200
        credential = Credential(lister)
        for kind in ("tags/list", f"referrers/{digest}"):
            answer = self.result(
                cache.origin_queries.ask(cache.registries[0], self.listed(cache, kind, credential))
            )
            answer.abandon()
            self.assertEqual(answer.status, 200)
            self.assertRefused(cache.pull(digest, lister), 403)
        self.result(
            cache.origin_queries.ping(cache.registries[0], cache.registries[0].subject(None, credential), "")
        )
        self.assertRefused(cache.pull(digest, lister), 403)

    def test_403_ends_nothing(self) -> None:
        """Who may pull and not list keeps the grant."""
        cache = self.make_cache(auth="basic")
        digest = cache.origin.put_blob(REPOSITORY, b"x")
        ann = cache.origin.let("ann", "1", REPOSITORY)
        self.assertWhole(cache.pull(digest, ann), b"x")
        cache.origin.misbehave("status", path="*/tags/list", status=403)
        request = self.listed(cache, "tags/list", Credential(ann))
        self.error(cache.origin_queries.ask(cache.registries[0], request), OriginRefused)
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(digest, ann), b"x")
        self.assertEqual(cache.origin.count(), 0)

    def test_401_ends_all_grants_of_the_credential(self) -> None:
        """A credential that the origin rejects, by whichever question, has no grants there any more."""
        for path in (f"/v2/{REPOSITORY}/tags/list", "/v2/"):
            cache = self.make_cache(auth="basic")
            digest = cache.origin.put_blob("org/other", b"x")
            ann = cache.origin.let("ann", "1", REPOSITORY, "org/other")
            self.assertWhole(cache.pull(digest, ann, repository="org/other"), b"x")
            cache.origin.let("ann", "another password", REPOSITORY, "org/other")
            registry, credential = cache.registries[0], Credential(ann)
            if path == "/v2/":
                self.assertEqual(
                    self.result(
                        cache.origin_queries.ping(registry, registry.subject(None, credential), "")
                    ).status,
                    401,
                )
            else:
                request = Request("GET", path, registry.subject(REPOSITORY, credential))
                self.error(cache.origin_queries.ask(registry, request), OriginRefused)
            self.assertFalse(cache.authorization.is_granted(registry.subject("org/other", credential)))
            self.assertRefused(cache.pull(digest, ann, repository="org/other"), 401)
