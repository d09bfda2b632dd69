"""``staleiferror`` from end to end: what a client of the real API reads while the origin is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from contentcache.core.digest import Digest
from tests.delivery.in_memory import MANIFEST, REPOSITORY, InMemoryCache, InMemoryCacheTestCase
from tests.registry import harness as web

BOUND: Final = 600.0
LAYER: Final = b"layer" * 100
TAGGED: Final = b'{"layers": []}'
STALE: Final = '110 contentcache "Response is Stale"'

#: How an origin is away.
AWAY: Final[dict[str, Callable[[InMemoryCache], object]]] = {
    "down": lambda cache: cache.wire.down.add("one.example"),
    "500": lambda cache: cache.origin.misbehave("status", status=500),
    "502": lambda cache: cache.origin.misbehave("status", status=502),
    "503": lambda cache: cache.origin.misbehave("status", status=503, retry_after="7"),
    "504": lambda cache: cache.origin.misbehave("status", status=504),
    "429": lambda cache: cache.origin.misbehave("status", status=429, retry_after="7"),
    "reset": lambda cache: cache.origin.misbehave("reset", at=-1),
}


class StaleCase(InMemoryCacheTestCase):
    """The delivery room under the real API, with a manifest, its tag and a layer that a client has pulled."""

    def open(self, auth: Any = "basic", **options: Any) -> None:
        """Everything, pulled once."""
        self.cache = cache = self.make_cache(auth=auth, **{"staleiferror": BOUND, **options})
        self.ann = cache.origin.let("ann", "1", REPOSITORY)
        self.bob = cache.origin.let("bob", "2", REPOSITORY)
        layer = cache.origin.put_blob(REPOSITORY, LAYER)
        manifest = cache.origin.put_manifest(REPOSITORY, TAGGED, MANIFEST, "latest")
        self.targets = {
            f"/v2/{REPOSITORY}/manifests/latest": TAGGED,
            f"/v2/{REPOSITORY}/manifests/{manifest}": TAGGED,
            f"/v2/{REPOSITORY}/blobs/{layer}": LAYER,
            "/v2/": b"{}",
        }
        self.factory = cache.services.factory
        for target, content in self.targets.items():
            self.assertEqual(self.ask(target).body, content)

    def ask(self, target: str, *fields: str, method: str = "GET", who: str | None = None) -> web.Reply:
        """One request of ann's, or of somebody else."""
        client = web.Client(self.factory)
        try:
            return client.ask(
                target, f"Authorization: {who or self.ann}", f"Accept: {MANIFEST}", *fields, method=method
            )
        finally:
            client.leave()

    def assert_marked(self, reply: web.Reply, target: str) -> None:
        """The answer says that it may be old, in both ways."""
        self.assertEqual(reply.header("Cache-Status"), "contentcache; hit; stale", target)
        self.assertEqual(reply.header("Warning"), STALE, target)

    def assert_error(self, reply: web.Reply, statuses: set[int]) -> None:
        """No content, and nothing that looks like one."""
        self.assertIn(reply.status, statuses)
        self.assertNotIn("stale", reply.header("Cache-Status") or "")
        self.assertIsNone(reply.header("Warning"))
        self.assertNotIn(reply.body, {LAYER, TAGGED})


class MarkTests(StaleCase):
    """What is served, and how it is marked."""

    def test_marked(self) -> None:
        """Tag, manifest, blob and /v2/ are served within the bound, however the origin is away, and marked."""
        for name, take_away in AWAY.items():
            with self.subTest(name):
                self.open()
                self.cache.later(BOUND - 1)
                take_away(self.cache)
                for target, content in self.targets.items():
                    reply = self.ask(target)
                    self.assertEqual((reply.status, reply.body), (200, content), target)
                    self.assert_marked(reply, target)

    def test_heads_and_parts(self) -> None:
        """So are answers without a body, with a part of it, and those that say that nothing has changed."""
        self.open()
        self.cache.later(BOUND - 1)
        self.cache.wire.down.add("one.example")
        tag, manifest, blob, _ping = self.targets
        for target in (tag, manifest, blob):
            reply = self.ask(target, method="HEAD")
            self.assertEqual(reply.status, 200, target)
            self.assert_marked(reply, target)
            named = reply.header("Docker-Content-Digest")
            reply = self.ask(target, f'If-None-Match: "{named}"')
            self.assertEqual(reply.status, 304, target)
            self.assert_marked(reply, target)
        reply = self.ask(blob, "Range: bytes=1-5")
        self.assertEqual((reply.status, reply.body), (206, LAYER[1:6]))
        self.assert_marked(reply, blob)

    def test_challenge(self) -> None:
        """The challenge of /v2/ is remembered for those who have no credential yet, and marked."""
        self.open()
        nobody = "Basic eDp5"
        self.assertEqual(self.ask("/v2/", who=nobody).status, 401)
        self.cache.later(BOUND - 1)
        self.cache.wire.down.add("one.example")
        reply = self.ask("/v2/", who=nobody)
        self.assertEqual((reply.status, reply.header("WWW-Authenticate")), (401, 'Basic realm="tests"'))
        self.assert_marked(reply, "/v2/")

    def test_fresh_answers_are_not_marked(self) -> None:
        """Nothing is marked while the origin is there, nor what grant and link allow while it is away."""
        self.open()
        for target in self.targets:
            reply = self.ask(target)
            self.assertNotIn("stale", reply.header("Cache-Status") or "")
            self.assertIsNone(reply.header("Warning"))
        self.cache.wire.down.add("one.example")
        blob = list(self.targets)[2]
        self.assertEqual(self.ask(blob).header("Cache-Status"), "contentcache; hit")

    def test_back_again(self) -> None:
        """As soon as the origin is there, it is its word that counts."""
        self.open()
        self.cache.later(BOUND - 1)
        self.cache.wire.down.add("one.example")
        tag = next(iter(self.targets))
        self.assert_marked(self.ask(tag), tag)
        self.cache.wire.down.clear()
        moved = self.cache.origin.put_manifest(REPOSITORY, b"{}", MANIFEST, "latest")
        reply = self.ask(tag)
        self.assertEqual(reply.header("Docker-Content-Digest"), str(moved))
        self.assertIsNone(reply.header("Warning"))


class BoundTests(StaleCase):
    """What is not served."""

    def test_beyond_the_bound(self) -> None:
        """Nothing is served at the bound or later; to have been served stale moves it for nobody."""
        self.open()
        self.cache.later(BOUND - 1)
        self.cache.wire.down.add("one.example")
        for target in self.targets:
            self.assertEqual(self.ask(target).status, 200)
        self.cache.later(1)
        for target in self.targets:
            self.assert_error(self.ask(target), {503})

    def test_links_of_a_longer_life(self) -> None:
        """A link that is believed for a day makes no grant last longer."""
        self.open(affirmttl=86_400.0, authttl=5.0)
        self.cache.later(BOUND)
        self.cache.wire.down.add("one.example")
        for target in self.targets:
            self.assert_error(self.ask(target), {503})

    def test_off(self) -> None:
        """Without the option no answer outlives its time."""
        self.open(staleiferror=0.0)
        self.cache.later(61)
        for name, statuses in (("down", {503}), ("500", {502}), ("504", {504}), ("429", {429})):
            self.cache.wire.down.clear()
            self.cache.origin.behave()
            AWAY[name](self.cache)
            for target in self.targets:
                self.assert_error(self.ask(target), statuses)

    def test_never_after_a_no(self) -> None:
        """401, 403 and 404 are the origin's word, and it holds when the origin goes away after that."""
        for status in (401, 403, 404):
            with self.subTest(status):
                self.open()
                self.cache.later(59)
                for target in self.targets:
                    self.ask(target)
                self.cache.later(2)
                self.cache.origin.misbehave("status", status=status)
                tag, manifest, blob, ping = self.targets
                self.assert_error(self.ask(tag), {status})
                self.cache.later(60)
                for target in (manifest, blob, ping):
                    self.assert_error(self.ask(target), {status})
                self.cache.wire.down.add("one.example")
                for target in (tag, manifest, blob):
                    self.assert_error(self.ask(target), {503})

    def test_others(self) -> None:
        """Who was never let in is not let in now; neither is what was never asked for."""
        self.open()
        self.cache.later(61)
        self.cache.wire.down.add("one.example")
        for target in self.targets:
            self.assert_error(self.ask(target, who=self.bob), {503})
        for target in (
            f"/v2/{REPOSITORY}/manifests/other",
            f"/v2/{REPOSITORY}/blobs/{Digest.of(b'?')}",
            "/v2/org/else/manifests/latest",
        ):
            self.assert_error(self.ask(target), {503})

    def test_clock_set_back(self) -> None:
        """A tag that was seen in the future has no age that could be within a bound."""
        self.open()
        self.cache.adjusted -= 3600.0
        self.cache.wire.down.add("one.example")
        self.assert_error(self.ask(next(iter(self.targets))), {503})
