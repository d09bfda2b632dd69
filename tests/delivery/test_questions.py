"""
Questions that only the origin can answer.
"""

from __future__ import annotations

from contentcache.core.credentials import ANONYMOUS, Credential
from contentcache.core.errors import OriginRefused, UpstreamUnavailable
from contentcache.delivery.questions import Pinged
from contentcache.upstream.request import Request
from tests.delivery.house import REPOSITORY, House, HouseTestCase
from tests.delivery.test_access import bearer_until


class PingTests(HouseTestCase):
    """
    ``/v2/``.
    """

    def ping(self, house: House, credential: Credential = ANONYMOUS) -> Pinged:
        """What a client is told."""
        return self.result(house.questions.ping(house.registries[0], credential, ""))

    def test_remembered(self) -> None:
        """The answer to a credential, a challenge too, is remembered for authttl."""
        house = self.house(auth="basic")
        ann = Credential(house.origin.let("ann", "1"))
        for _ in range(2):
            self.assertEqual(self.ping(house).status, 401)
            self.assertEqual(self.ping(house).headers["WWW-Authenticate"], 'Basic realm="tests"')
            self.assertEqual(self.ping(house, ann).status, 200)
        self.assertEqual(house.origin.count(), 2)
        house.later(60)
        self.ping(house)
        self.assertEqual(house.origin.count(), 3)

    def test_no_authttl(self) -> None:
        """With authttl 0 it is asked each time."""
        house = self.house(authttl=0.0)
        self.ping(house)
        self.ping(house)
        self.assertEqual(house.origin.count(), 2)

    def test_token_ends(self) -> None:
        """What was said to a token ends with it."""
        house = self.house()
        token = Credential(bearer_until(house.wall() + 10))
        self.ping(house, token)
        house.later(10)
        house.origin.misbehave("status", status=401)
        self.assertEqual(self.ping(house, token).status, 401)

    def test_stale(self) -> None:
        """With staleiferror the last answer serves, within the bound, while the origin is away."""
        house = self.house(auth="basic", staleiferror=600.0)
        self.ping(house)
        house.later(599)
        house.wire.down.add("one.example")
        pinged = self.ping(house)
        self.assertEqual((pinged.status, pinged.stale), (401, True))
        ann = Credential(house.origin.let("ann", "1"))
        self.error(house.questions.ping(house.registries[0], ann, ""), UpstreamUnavailable)
        house.later(1)
        self.error(house.questions.ping(house.registries[0], ANONYMOUS, ""), UpstreamUnavailable)

    def test_429_is_not_remembered_as_the_answer(self) -> None:
        """After a 429's time is up the origin is asked again."""
        house = self.house()
        house.origin.misbehave("status", status=429, retry_after="5", times=1)
        self.assertEqual(self.ping(house).status, 429)
        house.later(5)
        self.assertEqual(self.ping(house).status, 200)


class PassedOnTests(HouseTestCase):
    """
    Lists.
    """

    def test_a_yes_is_a_grant(self) -> None:
        """A list of tags is a yes to the repository, and still no link."""
        house = self.house(auth="basic")
        ann = Credential(house.origin.let("ann", "1", REPOSITORY))
        house.origin.put_blob(REPOSITORY, b"x")
        registry = house.registries[0]
        request = Request("GET", f"/v2/{REPOSITORY}/tags/list", ann, repository=REPOSITORY)
        self.result(house.questions.ask(registry, request)).abandon()
        self.assertTrue(house.access.is_granted(registry, REPOSITORY, ann))
        house.origin.let("ann", "1")
        self.error(house.questions.ask(registry, request), OriginRefused)
        self.assertFalse(house.access.is_granted(registry, REPOSITORY, ann))
