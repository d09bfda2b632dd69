"""A fetch shared by clients of different credentials, and registries whose HEAD is not to be trusted."""

from __future__ import annotations

from typing import Any

from contentcache.config.model import Limits
from contentcache.core.credentials import OWN
from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused, Overloaded
from contentcache.delivery.requests import ContentRequest
from tests.bad_registry import BadRegistry
from tests.delivery.house import LARGE, MANIFEST, REPOSITORY, Client, House, HouseTestCase
from tests.misbehaviour import Asked, Reply, refusal

HALF = len(LARGE) // 2


class CredentialTests(HouseTestCase):
    """A fetch goes on in the name of anybody who is attached, and a no is his alone whom it was said to."""

    def shared(self) -> House:
        """Ann and Bob may both read the blob."""
        house = self.house(auth="basic")
        self.ann = house.origin.let("ann", "1", REPOSITORY)
        self.bob = house.origin.let("bob", "2", REPOSITORY)
        self.digest = house.origin.put_blob(REPOSITORY, LARGE)
        return house

    def test_another_credential_goes_on(self) -> None:
        """Ann's credential ends in the middle; the fetch goes on with Bob's, for both."""
        house = self.shared()
        house.origin.misbehave("stall", method="GET", at=HALF, times=1)
        ann, bob = house.pull(self.digest, self.ann), house.pull(self.digest, self.bob)
        house.origin.let("ann", "1")
        house.later(31)
        self.assertWhole(ann, LARGE)
        self.assertWhole(bob, LARGE)
        credentials = [asked.headers.get("authorization") for asked in house.origin.asked("GET")]
        self.assertEqual(credentials, [self.ann, self.ann, self.bob])

    def test_a_no_is_nobody_elses(self) -> None:
        """Ann's request begins the fetch and is refused; Bob, who waits for it too, is served."""
        house = self.shared()
        house.origin.let("ann", "1")
        house.origin.misbehave("slow", method="GET", seconds=1.0)
        ann, bob = house.pull(self.digest, self.ann), house.pull(self.digest, self.bob)
        house.later(3)
        self.assertRefused(ann, 401)
        self.assertWhole(bob, LARGE)

    def test_nobody_is_left(self) -> None:
        """When all credentials are refused in the middle, the responses end short and the rest is kept."""
        house = self.shared()
        house.origin.misbehave("stall", method="GET", at=HALF, times=1)
        ann, bob = house.pull(self.digest, self.ann), house.pull(self.digest, self.bob)
        house.origin.let("ann", "1")
        house.origin.let("bob", "2")
        house.later(31)
        self.assertEqual((ann.outcome, bob.outcome), ("short", "short"))
        self.assertEqual(len(list(house.store.partials())), 1)

    def test_own_account(self) -> None:
        """The cache's own account is a credential like another, and the clients' are not used for it."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        self.assertWhole(house.pull(digest, credential=OWN), LARGE)
        self.assertNotIn("authorization", house.origin.requests[0].headers)
        house.pull(digest)
        self.assertEqual(house.origin.count("HEAD"), 1)


class LyingHeadTests(HouseTestCase):
    """Registries that do not answer HEAD of blobs truthfully."""

    def lying(self, status: int = 401, content: bytes = LARGE, **options: Any) -> House:
        """A warm blob at a registry that says no to every HEAD of a blob."""
        house = self.house(**options)
        self.digest = house.origin.put_blob(REPOSITORY, content)
        house.origin.misbehave("status", method="HEAD", path="*/blobs/*", status=status)
        house.pull(self.digest)
        house.later(61)
        house.origin.requests.clear()
        return house

    def test_checked_once_by_get(self) -> None:
        """The no is checked with a GET of one byte; from then on only that is asked."""
        for status in (401, 404, 405):
            house = self.lying(status)
            self.assertWhole(house.pull(self.digest), LARGE)
            asked = [(one.method, one.headers.get("range")) for one in house.origin.requests]
            self.assertEqual(asked, [("HEAD", None), ("GET", "bytes=0-0")])
            house.later(61)
            self.assertWhole(house.pull(self.digest), LARGE)
            self.assertEqual(house.origin.count("HEAD"), 1)

    def test_empty_blob(self) -> None:
        """An empty blob has no first byte to ask for: it is asked for whole."""
        house = self.lying(content=b"")
        self.assertWhole(house.pull(self.digest), b"")
        asked = [(one.method, one.headers.get("range")) for one in house.origin.requests]
        self.assertEqual(asked, [("HEAD", None), ("GET", "bytes=0-0"), ("GET", None)])

    def test_true_no(self) -> None:
        """A no that GET confirms is a no, and the registry is no liar."""
        house = self.lying()
        house.origin.misbehave("status", method="GET", status=401)
        self.assertRefused(house.pull(self.digest), 401)

    def test_yes_to_head_and_no_to_get(self) -> None:
        """Who was told yes by HEAD and no by GET gets the no, with its status."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        house.origin.misbehave("status", method="GET", status=404)
        self.result(house.blob_service.describe(house.asking(digest)))
        self.assertRefused(house.pull(digest), 404)

    def test_describe_behind_a_redirect(self) -> None:
        """Where the registry leaves the size to storage, storage is asked; and a no is a no."""
        house = self.house()
        digest = house.origin.put_blob(REPOSITORY, LARGE)
        to = f"https://one.example/storage/{digest}"
        house.origin.misbehave("redirect", path="/v2/*", to=to)
        described = self.result(house.blob_service.describe(house.asking(digest)))
        self.assertEqual(described.size, len(LARGE))
        house.origin.behave()
        house.origin.misbehave("status", status=404)
        error = self.error(house.blob_service.describe(house.asking(digest)), OriginRefused)
        self.assertEqual(error.status, 404)

    def test_describe_empty_behind_a_redirect(self) -> None:
        """The size of an empty blob in storage is nought, and not that of storage's error."""
        house = self.house()
        house.wire.hosts["storage.example"] = house.origin
        digest = house.origin.put_blob(REPOSITORY, b"")
        to = f"https://storage.example/storage/{digest}"
        house.origin.misbehave("redirect", path="/v2/*", to=to)
        described = self.result(house.blob_service.describe(house.asking(digest)))
        self.assertEqual(described.size, 0)


class TurnTests(HouseTestCase):
    """So many fetches at once."""

    def busy(self) -> tuple[House, list[Any]]:
        """One place, which is taken; and Ann's other wishes before Bob's."""
        house = self.house(limits=Limits(fetches=1))
        house.origin.misbehave("stall", at=-1)
        blobs = [house.origin.put_blob(REPOSITORY, b"%d" % number) for number in range(4)]
        ann = [house.pull(digest, "Basic YTox") for digest in blobs[:3]]
        return house, [*ann, house.pull(blobs[3], "Basic Yjox")]

    def test_fair_between_credentials(self) -> None:
        """Who asks for a thousand delays the others by one."""
        house, _clients = self.busy()
        for _ in range(4):
            house.origin.release()
        asked = [one.headers["authorization"] for one in house.origin.requests]
        self.assertEqual(asked, ["Basic YTox", "Basic YTox", "Basic Yjox", "Basic YTox"])

    def test_ten_seconds(self) -> None:
        """Who has waited for ten seconds is told to come again; the fetch under way goes on."""
        house, clients = self.busy()
        house.later(10)
        for client in clients[1:]:
            self.assertIsInstance(client.outcome, Overloaded)
            self.assertIn("Retry-After", client.outcome.headers)
        house.origin.release()
        self.assertEqual(clients[0].outcome, "whole")


class ParticularRegistry(BadRegistry):
    """A registry that has manifests for those only who take their type, as docker-registry does."""

    def answer(self, asked: Asked) -> Reply:
        """The manifest, or 404."""
        reply = super().answer(asked)
        if "/manifests/" in asked.path and MANIFEST not in asked.headers.get("accept", ""):
            return refusal(reply, status=404)
        return reply


class HeadersTests(HouseTestCase):
    """Headers of one client, and what others get."""

    def test_manifests(self) -> None:
        """A client whose Accept the registry does not like decides for nobody else, warm or cold."""
        content = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}'
        for hot_blobs in (True, False):
            house = self.house()
            origin = house.wire.hosts["one.example"] = ParticularRegistry()
            digest = origin.put_manifest(REPOSITORY, content, MANIFEST)
            if hot_blobs:
                pulled = Client(
                    house.blob_service.get(self.asking(house, digest, MANIFEST)), (0, None), takes=True
                )
                self.assertWhole(pulled, content)
                house.later(60)
            origin.misbehave("stall", at=-1, times=1)
            odd = Client(
                house.blob_service.get(self.asking(house, digest, "text/plain")), (0, None), takes=True
            )
            good = Client(house.blob_service.get(self.asking(house, digest, MANIFEST)), (0, None), takes=True)
            origin.release()
            self.assertRefused(odd, 404)
            self.assertWhole(good, content)

    def asking(self, house: House, digest: Digest, accept: str) -> ContentRequest:
        """A question with an ``Accept``."""
        return house.asking(digest, kind="manifests", accept=(accept,))
