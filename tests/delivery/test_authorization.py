"""Who may have what: grants, links, and the origin's word."""

from __future__ import annotations

import base64
import json
from typing import Any

from contentcache.config.model import Account, Upstream
from contentcache.core.credentials import LOCALLY_AUTHORIZED, OWN, Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused, UpstreamUnavailable
from tests.delivery.in_memory import LARGE, REPOSITORY, Client, InMemoryCache, InMemoryCacheTestCase

SMALL = b"a small layer"


def bearer_until(moment: float) -> str:
    """A token that says when it ends."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": moment}).encode()).decode().rstrip("=")
    return f"Bearer e30.{claims}.c2ln"


class WarmTestCase(InMemoryCacheTestCase):
    """Begins with a blob in the store, pulled by Ann."""

    def hot_blobs(self, *upstreams: Upstream, content: bytes = SMALL, **options: Any) -> InMemoryCache:
        """A cache in which Ann has just pulled, and nothing was asked since. Bob may read elsewhere only."""
        cache = self.make_cache(*upstreams, auth="basic", **options)
        for origin in cache.origins.values():
            self.ann = origin.let("ann", "1", REPOSITORY, "org/other")
            self.bob = origin.let("bob", "2", "org/other")
            self.digest = origin.put_blob(REPOSITORY, content)
        self.assertWhole(cache.pull(self.digest, self.ann), content)
        for origin in cache.origins.values():
            origin.requests.clear()
        return cache

    def assertAsked(self, cache: InMemoryCache, *methods: str) -> None:
        """What upstream was asked since."""
        self.assertEqual([asked.method for asked in cache.origin.requests], list(methods))
        cache.origin.requests.clear()


class GrantAndLinkTests(WarmTestCase):
    """A grant and a link together open a content; nothing less does."""

    def test_both(self) -> None:
        """Within authttl and affirmttl the origin is not asked again."""
        cache = self.hot_blobs()
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache)

    def test_another_credential(self) -> None:
        """Others are asked for with their own credential, and get the origin's answer, warm or cold."""
        cache = self.hot_blobs()
        for authorization in (self.bob, None, "Basic eHh4", "Bearer rubbish"):
            self.assertRefused(cache.pull(self.digest, authorization), 401)
            described = self.error(
                cache.blob_service.describe(cache.asking(self.digest, authorization)), OriginRefused
            )
            self.assertEqual(described.status, 401)
            sent = {asked.headers.get("authorization") for asked in cache.origin.requests}
            self.assertEqual(sent, {authorization})
            cache.origin.requests.clear()
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)

    def test_challenge_passes(self) -> None:
        """A refusal carries the origin's challenge."""
        cache = self.hot_blobs()
        outcome = cache.pull(self.digest).outcome
        assert isinstance(outcome, OriginRefused)
        self.assertEqual(outcome.headers["WWW-Authenticate"], 'Basic realm="tests"')

    def test_another_repository(self) -> None:
        """A digest that is known from one repository opens nothing in another, though both are granted."""
        cache = self.hot_blobs()
        self.assertRefused(cache.pull(self.digest, self.ann, repository="org/other"), 404)
        cache.origin.requests.clear()
        cache.origin.put_blob("org/other", SMALL)
        self.assertWhole(cache.pull(self.digest, self.ann, repository="org/other"), SMALL)
        self.assertAsked(cache, "HEAD")

    def test_another_origin(self) -> None:
        """A grant and a link at one origin are none at another one."""
        cache = self.hot_blobs(
            Upstream("https://one.example", ("https://one.example",)),
            Upstream("https://two.example", ("https://two.example",)),
        )
        cache.origins["two.example"].take_away(REPOSITORY)
        self.assertRefused(cache.pull(self.digest, self.ann, origin=1), 404)

    def test_another_kind(self) -> None:
        """A yes to a blob is no yes to a manifest of the same digest."""
        cache = self.hot_blobs()
        self.assertRefused(cache.pull(self.digest, self.ann, kind="manifests"), 404)

    def test_grant_without_link(self) -> None:
        """A yes to one content grants the repository, and a second content is still asked for."""
        cache = self.hot_blobs()
        other = cache.origin.put_blob("org/other", b"hidden")
        cache.pull(other, self.bob, repository="org/other")
        cache.origin.requests.clear()
        self.assertRefused(cache.pull(other, self.ann), 404)

    def test_link_without_grant(self) -> None:
        """After authttl one HEAD makes a new grant for all contents of the repository."""
        cache = self.hot_blobs()
        second = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.pull(second, self.ann)
        cache.later(60)
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertWhole(cache.pull(second, self.ann), LARGE)
        self.assertAsked(cache, "HEAD")

    def test_old_link(self) -> None:
        """A link older than affirmttl is asked for again, whatever the grant."""
        cache = self.hot_blobs(affirmttl=30.0)
        cache.later(31)
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache, "HEAD")
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache)

    def test_link_from_the_future(self) -> None:
        """A clock that was set back makes no link last for ever."""
        cache = self.hot_blobs()
        cache.adjusted = -7200.0
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache, "HEAD")

    def test_no_authttl(self) -> None:
        """With authttl 0 the origin is asked each time, and a no is a no at once."""
        cache = self.hot_blobs(authttl=0.0)
        for _ in range(3):
            self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache, "HEAD", "HEAD", "HEAD")
        cache.origin.let("ann", "1")
        self.assertRefused(cache.pull(self.digest, self.ann), 401)

    def test_token_ends(self) -> None:
        """A grant ends with the bearer token that it was given to."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, SMALL)
        token = bearer_until(cache.wall() + 20)
        cache.pull(digest, token)
        cache.later(19)
        self.assertWhole(cache.pull(digest, token), SMALL)
        self.assertEqual(cache.origin.count(), 1)
        cache.later(1)
        cache.origin.misbehave("status", status=401)
        self.assertRefused(cache.pull(digest, token), 401)

    def test_running_fetch(self) -> None:
        """Bytes in flight are sent to nobody whom the origin refuses."""
        cache = self.hot_blobs()
        cold = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.misbehave("stall", method="GET", at=len(LARGE) // 2)
        first = cache.pull(cold, self.ann)
        for who in (self.bob, None):
            self.assertRefused(cache.pull(cold, who), 401)
        cache.origin.release()
        self.assertWhole(first, LARGE)


class RevokingTests(WarmTestCase):
    """The origin's no."""

    def test_401_takes_the_grant(self) -> None:
        """A no to one content ends the grant in its repository."""
        cache = self.hot_blobs()
        other = cache.origin.put_blob(REPOSITORY, b"other")
        cache.origin.let("ann", "1")
        self.assertRefused(cache.pull(other, self.ann), 401)
        self.assertRefused(cache.pull(self.digest, self.ann), 401)

    def test_404_takes_the_link_for_a_granted_client(self) -> None:
        """What the origin has no more is gone for all: the link goes, and each is asked for anew."""
        cache = self.hot_blobs(affirmttl=30.0)
        cache.later(31)
        cache.origin.take_away(REPOSITORY)
        self.assertRefused(cache.pull(self.digest, self.ann), 404)
        self.assertRefused(cache.pull(self.digest, self.ann), 404)

    def test_404_of_a_stranger(self) -> None:
        """A 404 ends the link, for what is gone must not be served: it costs the others one question."""
        cache = self.hot_blobs()
        cache.origin.misbehave("status", status=404, times=2)
        self.assertRefused(cache.pull(self.digest, self.bob), 404)
        cache.origin.requests.clear()
        for _ in range(2):
            self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache, "HEAD")

    def test_keepdeleted(self) -> None:
        """With keepdeleted a granted client gets what the origin has no more, and nobody else does."""
        cache = self.hot_blobs(keepdeleted=True, affirmttl=30.0)
        cache.later(31)
        cache.origin.misbehave("status", status=404, path="*/blobs/*")
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertRefused(cache.pull(self.digest, self.bob), 404)
        cache.later(60)
        self.assertRefused(cache.pull(self.digest, self.ann), 404)

    def test_429_is_passed_on_and_remembered(self) -> None:
        """A 429 to a warm blob reaches the client with its Retry-After, the second one without upstream."""
        cache = self.hot_blobs(authttl=0.0)
        cache.origin.misbehave("status", status=429, retry_after="17")
        for _ in range(5):
            client = cache.pull(self.digest, self.ann)
            self.assertRefused(client, 429)
            assert isinstance(client.outcome, OriginRefused)
            self.assertEqual(client.outcome.headers["Retry-After"], "17")
        self.assertAsked(cache, "HEAD")


class StaleTests(WarmTestCase):
    """``staleiferror``: what may be served while the origin is away."""

    def away(self, cache: InMemoryCache, manner: str) -> None:
        """Take the origin away."""
        if manner == "down":
            cache.wire.down.add("one.example")
        else:
            cache.origin.misbehave("status", status=int(manner))

    def test_served(self) -> None:
        """An identity that lasts is served within the bound, marked, when the origin is down, 5xx or 429."""
        for manner in ("down", "500", "503", "429"):
            cache = self.hot_blobs(staleiferror=600.0, affirmttl=100.0)
            cache.later(599)
            self.away(cache, manner)
            client = cache.pull(self.digest, self.ann)
            self.assertWhole(client, SMALL)
            assert client.served is not None
            self.assertTrue(client.served.stale)

    def test_not_served(self) -> None:
        """Not beyond the bound, not to others, not on a no, and not where it is off."""

        def status(cache: InMemoryCache, who: str | None, manner: str) -> int:
            self.away(cache, manner)
            client: Client = cache.pull(self.digest, who)
            self.assertEqual(bytes(client.got), b"")
            return client.status

        cache = self.hot_blobs(staleiferror=600.0)
        cache.later(601)
        self.assertEqual(status(cache, self.ann, "down"), 503)
        cache = self.hot_blobs(staleiferror=600.0)
        cache.later(61)
        self.assertEqual(status(cache, self.bob, "down"), 503)
        self.assertEqual(status(cache, None, "down"), 503)
        for no in (401, 403, 404):
            cache = self.hot_blobs(staleiferror=600.0)
            cache.later(61)
            self.assertEqual(status(cache, self.ann, str(no)), no)
        cache = self.hot_blobs()
        cache.later(61)
        self.assertEqual(status(cache, self.ann, "down"), 503)

    def test_tokens_do_not_last(self) -> None:
        """A bearer token is no identity that outlives its time."""
        cache = self.make_cache(staleiferror=600.0)
        digest = cache.origin.put_blob(REPOSITORY, SMALL)
        cache.pull(digest, bearer_until(cache.wall() + 1000))
        cache.later(61)
        cache.wire.down.add("one.example")
        client = cache.pull(digest, bearer_until(cache.wall() + 939))
        self.assertIsInstance(client.outcome, UpstreamUnavailable)
        self.assertEqual(digest, Digest.of(SMALL))


class SignedTests(WarmTestCase):
    """A client whose URL is signed, and has been verified."""

    signed = Credential(signed="head.claims.signature")

    def test_warm(self) -> None:
        """A blob that is stored costs the origin nothing, for a whole pull and for a look at it."""
        cache = self.hot_blobs()
        self.assertWhole(cache.pull(self.digest, credential=self.signed), SMALL)
        described = self.result(
            cache.blob_service.describe(cache.asking(self.digest, credential=self.signed))
        )
        self.assertEqual(described.size, len(SMALL))
        self.assertAsked(cache)

    def test_cold(self) -> None:
        """A miss is asked for with the same token, and with no other credential."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        self.assertWhole(cache.pull(digest, credential=self.signed), LARGE)
        (asked,) = cache.origin.requests
        self.assertEqual((asked.method, asked.query), ("GET", "token=head.claims.signature"))
        self.assertNotIn("authorization", asked.headers)

    def test_cold_head(self) -> None:
        """What is not here is asked for with the token too."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        described = self.result(cache.blob_service.describe(cache.asking(digest, credential=self.signed)))
        self.assertEqual(described.size, len(LARGE))
        self.assertEqual([asked.query for asked in cache.origin.requests], ["token=head.claims.signature"])

    def test_opens_nothing_else(self) -> None:
        """A signed URL makes no grant and no link: the next client is the origin's to judge."""
        cache = self.make_cache(auth="basic")
        account = cache.origin.let("cache", "pw", REPOSITORY)
        bob = cache.origin.let("bob", "2", "org/other")
        digest = cache.origin.put_blob(REPOSITORY, SMALL)
        self.assertWhole(cache.pull(digest, account), SMALL)
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(digest, credential=self.signed), SMALL)
        self.assertRefused(cache.pull(digest, bob), 401)
        self.assertRefused(cache.pull(digest), 401)

    def test_refused_upstream(self) -> None:
        """An origin that does not take the token is no reason to log in here: 403 without a challenge."""
        cache = self.make_cache(auth="basic")
        digest = cache.origin.put_blob(REPOSITORY, SMALL)
        client = cache.pull(digest, credential=self.signed)
        self.assertRefused(client, 403)
        assert isinstance(client.outcome, OriginRefused)
        self.assertNotIn("WWW-Authenticate", client.outcome.headers)
        self.assertNotIn(b"claims", client.outcome.body)

    def test_refusal_takes_nothing_from_others(self) -> None:
        """A refusal of a signed URL says nothing of the repository to those who may have it."""
        cache = self.hot_blobs()
        other = cache.origin.put_blob(REPOSITORY, LARGE)
        self.assertRefused(cache.pull(other, credential=self.signed), 403)
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        cache.origin.requests.clear()
        self.assertWhole(cache.pull(self.digest, self.ann), SMALL)
        self.assertAsked(cache)

    def test_own_account(self) -> None:
        """An origin that knows no signed URLs may know the cache's own account: both are shown."""
        upstream = Upstream(
            "https://one.example", ("https://one.example",), account=Account("cache", "pw"), own=True
        )
        cache = self.make_cache(upstream, auth="basic")
        cache.origin.let("cache", "pw", REPOSITORY)
        digest = cache.origin.put_blob(REPOSITORY, SMALL)
        self.assertWhole(cache.pull(digest, credential=self.signed), SMALL)

    def test_shared_fetch(self) -> None:
        """Who joins a fetch that a signed URL began is authorized for itself."""
        cache = self.make_cache(auth="basic")
        ann = cache.origin.let("ann", "1", REPOSITORY)
        bob = cache.origin.let("bob", "2", "org/other")
        digest = cache.origin.put_blob(REPOSITORY, LARGE)
        cache.origin.auth = None
        cache.origin.misbehave("stall", path="*/blobs/*", at=100_000, times=1)
        first = cache.pull(digest, credential=self.signed)
        cache.origin.auth = "basic"
        refused, coalesced = cache.pull(digest, bob), cache.pull(digest, ann)
        self.assertRefused(refused, 401)
        cache.origin.release()
        self.assertWhole(coalesced, LARGE)
        self.assertWhole(first, LARGE)


class VouchedTests(WarmTestCase):
    """A client that was authorized here, by a token that allows just this."""

    def own(self, **options: Any) -> InMemoryCache:
        """A cache with an account of its own, and a blob pulled by it."""
        upstream = Upstream(
            "https://one.example", ("https://one.example",), account=Account("cache", "pw"), own=True
        )
        cache = self.make_cache(upstream, auth="basic", **options)
        cache.origin.let("cache", "pw", REPOSITORY, "org/other")
        self.digest = cache.origin.put_blob(REPOSITORY, SMALL)
        self.assertWhole(cache.pull(self.digest, credential=LOCALLY_AUTHORIZED), SMALL)
        cache.origin.requests.clear()
        return cache

    def test_grant_until_its_end(self) -> None:
        """The token is the grant: however long ago the origin was asked, it is not asked again."""
        cache = self.own()
        cache.later(3600)
        self.assertWhole(cache.pull(self.digest, credential=LOCALLY_AUTHORIZED), SMALL)
        self.assertAsked(cache)

    def test_account_alone(self) -> None:
        """Without a token of its own, the account's grant is as old as the origin's word."""
        cache = self.own()
        cache.later(3600)
        self.assertWhole(cache.pull(self.digest, credential=OWN), SMALL)
        self.assertAsked(cache, "HEAD")

    def test_link_is_needed(self) -> None:
        """A digest of one repository opens nothing in another one to which the token is a grant too."""
        cache = self.own()
        self.assertRefused(
            cache.pull(self.digest, credential=LOCALLY_AUTHORIZED, repository="org/other"), 404
        )

    def test_stale(self) -> None:
        """While the origin is away the token's bearer is served within the bound."""
        cache = self.own(staleiferror=7200.0, affirmttl=60.0)
        cache.later(3600)
        cache.wire.down.add("one.example")
        self.assertWhole(cache.pull(self.digest, credential=LOCALLY_AUTHORIZED), SMALL)
        cache.later(7200)
        self.assertRefused(cache.pull(self.digest, credential=LOCALLY_AUTHORIZED), 503)
