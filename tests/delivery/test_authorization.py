"""Who may have what: grants, links, and the origin's word."""

from __future__ import annotations

import base64
import json
from typing import Any

from contentcache.config.model import Account, Upstream
from contentcache.core.credentials import LOCALLY_AUTHORIZED, OWN, Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused, UpstreamUnavailable
from tests.delivery.house import LARGE, REPOSITORY, Client, House, HouseTestCase

SMALL = b"a small layer"


def bearer_until(moment: float) -> str:
    """A token that says when it ends."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": moment}).encode()).decode().rstrip("=")
    return f"Bearer e30.{claims}.c2ln"


class WarmTestCase(HouseTestCase):
    """Begins with a blob in the store, pulled by Ann."""

    def hot_blobs(self, *upstreams: Upstream, content: bytes = SMALL, **options: Any) -> House:
        """A house in which Ann has just pulled, and nothing was asked since. Bob may read elsewhere only."""
        house = self.house(*upstreams, auth="basic", **options)
        for origin in house.origins.values():
            self.ann = origin.let("ann", "1", REPOSITORY, "org/other")
            self.bob = origin.let("bob", "2", "org/other")
            self.digest = origin.put_blob(REPOSITORY, content)
        self.assertWhole(house.pull(self.digest, self.ann), content)
        for origin in house.origins.values():
            origin.requests.clear()
        return house

    def assertAsked(self, house: House, *methods: str) -> None:
        """What upstream was asked since."""
        self.assertEqual([asked.method for asked in house.origin.requests], list(methods))
        house.origin.requests.clear()


class GrantAndLinkTests(WarmTestCase):
    """A grant and a link together open a content; nothing less does."""

    def test_both(self) -> None:
        """Within authttl and affirmttl the origin is not asked again."""
        house = self.hot_blobs()
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house)

    def test_another_credential(self) -> None:
        """Others are asked for with their own credential, and get the origin's answer, warm or cold."""
        house = self.hot_blobs()
        for authorization in (self.bob, None, "Basic eHh4", "Bearer rubbish"):
            self.assertRefused(house.pull(self.digest, authorization), 401)
            described = self.error(
                house.blob_service.describe(house.asking(self.digest, authorization)), OriginRefused
            )
            self.assertEqual(described.status, 401)
            sent = {asked.headers.get("authorization") for asked in house.origin.requests}
            self.assertEqual(sent, {authorization})
            house.origin.requests.clear()
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)

    def test_challenge_passes(self) -> None:
        """A refusal carries the origin's challenge."""
        house = self.hot_blobs()
        outcome = house.pull(self.digest).outcome
        assert isinstance(outcome, OriginRefused)
        self.assertEqual(outcome.headers["WWW-Authenticate"], 'Basic realm="tests"')

    def test_another_repository(self) -> None:
        """A digest that is known from one repository opens nothing in another, though both are granted."""
        house = self.hot_blobs()
        self.assertRefused(house.pull(self.digest, self.ann, repository="org/other"), 404)
        house.origin.requests.clear()
        house.origin.put_blob("org/other", SMALL)
        self.assertWhole(house.pull(self.digest, self.ann, repository="org/other"), SMALL)
        self.assertAsked(house, "HEAD")

    def test_another_origin(self) -> None:
        """A grant and a link at one origin are none at another one."""
        house = self.hot_blobs(
            Upstream("https://one.example", ("https://one.example",)),
            Upstream("https://two.example", ("https://two.example",)),
        )
        house.origins["two.example"].take_away(REPOSITORY)
        self.assertRefused(house.pull(self.digest, self.ann, origin=1), 404)

    def test_another_kind(self) -> None:
        """A yes to a blob is no yes to a manifest of the same digest."""
        house = self.hot_blobs()
        self.assertRefused(house.pull(self.digest, self.ann, kind="manifests"), 404)

    def test_grant_without_link(self) -> None:
        """A yes to one content grants the repository, and a second content is still asked for."""
        house = self.hot_blobs()
        other = house.origin.put_blob("org/other", b"hidden")
        house.pull(other, self.bob, repository="org/other")
        house.origin.requests.clear()
        self.assertRefused(house.pull(other, self.ann), 404)

    def test_link_without_grant(self) -> None:
        """After authttl one HEAD makes a new grant for all contents of the repository."""
        house = self.hot_blobs()
        second = house.origin.put_blob(REPOSITORY, LARGE)
        house.pull(second, self.ann)
        house.later(60)
        house.origin.requests.clear()
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertWhole(house.pull(second, self.ann), LARGE)
        self.assertAsked(house, "HEAD")

    def test_old_link(self) -> None:
        """A link older than affirmttl is asked for again, whatever the grant."""
        house = self.hot_blobs(affirmttl=30.0)
        house.later(31)
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house, "HEAD")
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house)

    def test_link_from_the_future(self) -> None:
        """A clock that was set back makes no link last for ever."""
        house = self.hot_blobs()
        house.adjusted = -7200.0
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house, "HEAD")

    def test_no_authttl(self) -> None:
        """With authttl 0 the origin is asked each time, and a no is a no at once."""
        house = self.hot_blobs(authttl=0.0)
        for _ in range(3):
            self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house, "HEAD", "HEAD", "HEAD")
        house.origin.let("ann", "1")
        self.assertRefused(house.pull(self.digest, self.ann), 401)

    def test_token_ends(self) -> None:
        """A grant ends with the bearer token that it was given to."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, SMALL)
        token = bearer_until(house.wall() + 20)
        house.pull(digest, token)
        house.later(19)
        self.assertWhole(house.pull(digest, token), SMALL)
        self.assertEqual(house.origin.count(), 1)
        house.later(1)
        house.origin.misbehave("status", status=401)
        self.assertRefused(house.pull(digest, token), 401)

    def test_running_fetch(self) -> None:
        """Bytes in flight are sent to nobody whom the origin refuses."""
        house = self.hot_blobs()
        cold = house.origin.put_blob(REPOSITORY, LARGE)
        house.origin.misbehave("stall", method="GET", at=len(LARGE) // 2)
        first = house.pull(cold, self.ann)
        for who in (self.bob, None):
            self.assertRefused(house.pull(cold, who), 401)
        house.origin.release()
        self.assertWhole(first, LARGE)


class RevokingTests(WarmTestCase):
    """The origin's no."""

    def test_401_takes_the_grant(self) -> None:
        """A no to one content ends the grant in its repository."""
        house = self.hot_blobs()
        other = house.origin.put_blob(REPOSITORY, b"other")
        house.origin.let("ann", "1")
        self.assertRefused(house.pull(other, self.ann), 401)
        self.assertRefused(house.pull(self.digest, self.ann), 401)

    def test_404_takes_the_link_for_a_granted_client(self) -> None:
        """What the origin has no more is gone for all: the link goes, and each is asked for anew."""
        house = self.hot_blobs(affirmttl=30.0)
        house.later(31)
        house.origin.take_away(REPOSITORY)
        self.assertRefused(house.pull(self.digest, self.ann), 404)
        self.assertRefused(house.pull(self.digest, self.ann), 404)

    def test_404_of_a_stranger(self) -> None:
        """A 404 ends the link, for what is gone must not be served: it costs the others one question."""
        house = self.hot_blobs()
        house.origin.misbehave("status", status=404, times=2)
        self.assertRefused(house.pull(self.digest, self.bob), 404)
        house.origin.requests.clear()
        for _ in range(2):
            self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house, "HEAD")

    def test_keepdeleted(self) -> None:
        """With keepdeleted a granted client gets what the origin has no more, and nobody else does."""
        house = self.hot_blobs(keepdeleted=True, affirmttl=30.0)
        house.later(31)
        house.origin.misbehave("status", status=404, path="*/blobs/*")
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertRefused(house.pull(self.digest, self.bob), 404)
        house.later(60)
        self.assertRefused(house.pull(self.digest, self.ann), 404)

    def test_429_is_passed_on_and_remembered(self) -> None:
        """A 429 to a warm blob reaches the client with its Retry-After, the second one without upstream."""
        house = self.hot_blobs(authttl=0.0)
        house.origin.misbehave("status", status=429, retry_after="17")
        for _ in range(5):
            client = house.pull(self.digest, self.ann)
            self.assertRefused(client, 429)
            assert isinstance(client.outcome, OriginRefused)
            self.assertEqual(client.outcome.headers["Retry-After"], "17")
        self.assertAsked(house, "HEAD")


class StaleTests(WarmTestCase):
    """``staleiferror``: what may be served while the origin is away."""

    def away(self, house: House, manner: str) -> None:
        """Take the origin away."""
        if manner == "down":
            house.wire.down.add("one.example")
        else:
            house.origin.misbehave("status", status=int(manner))

    def test_served(self) -> None:
        """An identity that lasts is served within the bound, marked, when the origin is down, 5xx or 429."""
        for manner in ("down", "500", "503", "429"):
            house = self.hot_blobs(staleiferror=600.0, affirmttl=100.0)
            house.later(599)
            self.away(house, manner)
            client = house.pull(self.digest, self.ann)
            self.assertWhole(client, SMALL)
            assert client.served is not None
            self.assertTrue(client.served.stale)

    def test_not_served(self) -> None:
        """Not beyond the bound, not to others, not on a no, and not where it is off."""

        def status(house: House, who: str | None, manner: str) -> int:
            self.away(house, manner)
            client: Client = house.pull(self.digest, who)
            self.assertEqual(bytes(client.got), b"")
            return client.status

        house = self.hot_blobs(staleiferror=600.0)
        house.later(601)
        self.assertEqual(status(house, self.ann, "down"), 503)
        house = self.hot_blobs(staleiferror=600.0)
        house.later(61)
        self.assertEqual(status(house, self.bob, "down"), 503)
        self.assertEqual(status(house, None, "down"), 503)
        for no in (401, 403, 404):
            house = self.hot_blobs(staleiferror=600.0)
            house.later(61)
            self.assertEqual(status(house, self.ann, str(no)), no)
        house = self.hot_blobs()
        house.later(61)
        self.assertEqual(status(house, self.ann, "down"), 503)

    def test_tokens_do_not_last(self) -> None:
        """A bearer token is no identity that outlives its time."""
        house = self.house(staleiferror=600.0)
        digest = house.origin.put_blob(REPOSITORY, SMALL)
        house.pull(digest, bearer_until(house.wall() + 1000))
        house.later(61)
        house.wire.down.add("one.example")
        client = house.pull(digest, bearer_until(house.wall() + 939))
        self.assertIsInstance(client.outcome, UpstreamUnavailable)
        self.assertEqual(digest, Digest.of(SMALL))


class SignedTests(WarmTestCase):
    """A client whose URL is signed, and has been verified."""

    signed = Credential(signed="head.claims.signature")

    def test_warm(self) -> None:
        """A blob that is stored costs the origin nothing, for a whole pull and for a look at it."""
        house = self.hot_blobs()
        self.assertWhole(house.pull(self.digest, credential=self.signed), SMALL)
        described = self.result(
            house.blob_service.describe(house.asking(self.digest, credential=self.signed))
        )
        self.assertEqual(described.size, len(SMALL))
        self.assertAsked(house)

    def test_cold(self) -> None:
        """A miss is asked for with the same token, and with no other credential."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        self.assertWhole(house.pull(digest, credential=self.signed), LARGE)
        (asked,) = house.origin.requests
        self.assertEqual((asked.method, asked.query), ("GET", "token=head.claims.signature"))
        self.assertNotIn("authorization", asked.headers)

    def test_cold_head(self) -> None:
        """What is not here is asked for with the token too."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        described = self.result(house.blob_service.describe(house.asking(digest, credential=self.signed)))
        self.assertEqual(described.size, len(LARGE))
        self.assertEqual([asked.query for asked in house.origin.requests], ["token=head.claims.signature"])

    def test_opens_nothing_else(self) -> None:
        """A signed URL makes no grant and no link: the next client is the origin's to judge."""
        house = self.house(auth="basic")
        account = house.origin.let("cache", "pw", REPOSITORY)
        bob = house.origin.let("bob", "2", "org/other")
        digest = house.origin.put_blob(REPOSITORY, SMALL)
        self.assertWhole(house.pull(digest, account), SMALL)
        house.origin.requests.clear()
        self.assertWhole(house.pull(digest, credential=self.signed), SMALL)
        self.assertRefused(house.pull(digest, bob), 401)
        self.assertRefused(house.pull(digest), 401)

    def test_refused_upstream(self) -> None:
        """An origin that does not take the token is no reason to log in here: 403 without a challenge."""
        house = self.house(auth="basic")
        digest = house.origin.put_blob(REPOSITORY, SMALL)
        client = house.pull(digest, credential=self.signed)
        self.assertRefused(client, 403)
        assert isinstance(client.outcome, OriginRefused)
        self.assertNotIn("WWW-Authenticate", client.outcome.headers)
        self.assertNotIn(b"claims", client.outcome.body)

    def test_refusal_takes_nothing_from_others(self) -> None:
        """A refusal of a signed URL says nothing of the repository to those who may have it."""
        house = self.hot_blobs()
        other = house.origin.put_blob(REPOSITORY, LARGE)
        self.assertRefused(house.pull(other, credential=self.signed), 403)
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        house.origin.requests.clear()
        self.assertWhole(house.pull(self.digest, self.ann), SMALL)
        self.assertAsked(house)

    def test_own_account(self) -> None:
        """An origin that knows no signed URLs may know the cache's own account: both are shown."""
        upstream = Upstream(
            "https://one.example", ("https://one.example",), account=Account("cache", "pw"), own=True
        )
        house = self.house(upstream, auth="basic")
        house.origin.let("cache", "pw", REPOSITORY)
        digest = house.origin.put_blob(REPOSITORY, SMALL)
        self.assertWhole(house.pull(digest, credential=self.signed), SMALL)

    def test_shared_fetch(self) -> None:
        """Who joins a fetch that a signed URL began is judged for itself."""
        house = self.house(auth="basic")
        ann = house.origin.let("ann", "1", REPOSITORY)
        bob = house.origin.let("bob", "2", "org/other")
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        house.origin.auth = None
        house.origin.misbehave("stall", path="*/blobs/*", at=100_000, times=1)
        first = house.pull(digest, credential=self.signed)
        house.origin.auth = "basic"
        refused, coalesced = house.pull(digest, bob), house.pull(digest, ann)
        self.assertRefused(refused, 401)
        house.origin.release()
        self.assertWhole(coalesced, LARGE)
        self.assertWhole(first, LARGE)


class VouchedTests(WarmTestCase):
    """A client that was judged here, by a token that allows just this."""

    def own(self, **options: Any) -> House:
        """A house with an account of its own, and a blob pulled by it."""
        upstream = Upstream(
            "https://one.example", ("https://one.example",), account=Account("cache", "pw"), own=True
        )
        house = self.house(upstream, auth="basic", **options)
        house.origin.let("cache", "pw", REPOSITORY, "org/other")
        self.digest = house.origin.put_blob(REPOSITORY, SMALL)
        self.assertWhole(house.pull(self.digest, credential=LOCALLY_AUTHORIZED), SMALL)
        house.origin.requests.clear()
        return house

    def test_grant_until_its_end(self) -> None:
        """The token is the grant: however long ago the origin was asked, it is not asked again."""
        house = self.own()
        house.later(3600)
        self.assertWhole(house.pull(self.digest, credential=LOCALLY_AUTHORIZED), SMALL)
        self.assertAsked(house)

    def test_account_alone(self) -> None:
        """Without a token of its own, the account's grant is as old as the origin's word."""
        house = self.own()
        house.later(3600)
        self.assertWhole(house.pull(self.digest, credential=OWN), SMALL)
        self.assertAsked(house, "HEAD")

    def test_link_is_needed(self) -> None:
        """A digest of one repository opens nothing in another one to which the token is a grant too."""
        house = self.own()
        self.assertRefused(
            house.pull(self.digest, credential=LOCALLY_AUTHORIZED, repository="org/other"), 404
        )

    def test_stale(self) -> None:
        """While the origin is away the token's bearer is served within the bound."""
        house = self.own(staleiferror=7200.0, affirmttl=60.0)
        house.later(3600)
        house.wire.down.add("one.example")
        self.assertWhole(house.pull(self.digest, credential=LOCALLY_AUTHORIZED), SMALL)
        house.later(7200)
        self.assertRefused(house.pull(self.digest, credential=LOCALLY_AUTHORIZED), 503)
