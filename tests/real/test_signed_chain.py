"""Three caches in a row to an origin that signs, and its keys that change under load."""

from __future__ import annotations

import threading
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import push_blob, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import needs, until
from tests.real.signed import NAME, SignedCase
from tests.real.signer import KEYS_PATH, Pen, SigningOrigin
from tests.signer import keys


@needs("docker-registry")
class ChainTests(SynchronousTestCase):
    """Nothing is configured about keys anywhere."""

    def setUp(self) -> None:
        """The users' cache, one on the way, and the last one before the origin, with a line before each."""
        self.registry = Origin(self, users={"ann": "secret"})
        self.origin = SigningOrigin(self, self.registry)
        last = ContentCache(self, self.origin.url)
        self.before_last = CountingProxy(self, last.port)
        middle = self.hop(self.before_last)
        self.before_middle = CountingProxy(self, middle.port)
        self.caches = (self.hop(self.before_middle), middle, last)
        self.askers = [Asker(self, cache.host) for cache in self.caches]

    def hop(self, line: CountingProxy) -> ContentCache:
        """A cache of the origin behind a line."""
        return ContentCache(self, {"originhost": self.origin.url, "upstreamhosts": [line.url]})

    def blob(self, seed: str, size: int = 100_000) -> tuple[bytes, str]:
        """A blob that nobody has pulled."""
        content = random_bytes(size, self.id() + seed)
        return content, push_blob(self.registry, NAME, content)

    def test_cold_and_warm(self) -> None:
        """
        A cold pull passes through all three with its token, and each keeps the blob. Then each serves it
        alone.
        """
        content, digest = self.blob("one")
        url = self.origin.signed(NAME, digest)
        self.assertEqual(self.askers[0].ask("GET", url).body, content)
        (fetch,) = self.origin.asked(digest)
        self.assertEqual(fetch.query, url.partition("?")[2])
        for line in (self.before_middle, self.before_last):
            (passed,) = line.asked(digest)
            self.assertEqual(passed.path, url)
            # Each cache asks once for itself. For the cache behind it it asks apart, as long as that could be
            # one that waits for this very answer: the two name different caches in Via.
            ways = [exchange.headers["via"] for exchange in line.asked(KEYS_PATH)]
            self.assertEqual(len(set(ways)), len(ways))
            self.assertLessEqual(len(ways), 2)
        for cache, asker in zip(self.caches, self.askers, strict=True):
            cache.process.wait_until(lambda: cache.stored(digest), "the blob in the store")  # noqa: B023
            warm = asker.ask("GET", self.origin.signed(NAME, digest, None, sub="john"))
            self.assertEqual(warm.body, content)
            self.assertEqual(warm.headers["cache-status"], "contentcache; hit")
            self.assertEqual(asker.ask("GET", KEYS_PATH).body, self.askers[2].ask("GET", KEYS_PATH).body)
        self.assertEqual(len(self.origin.asked(digest)), 1)

    def test_head_and_refusals(self) -> None:
        """``HEAD`` and 404 are the origin's own through three caches; a wrong token does not leave the first."""
        content, digest = self.blob("head")
        head = self.askers[0].ask("HEAD", self.origin.signed(NAME, digest))
        self.assertEqual((head.status, head.headers["content-length"]), (200, str(len(content))))
        missing = self.origin.signed(NAME, f"sha256:{'0' * 64}")
        self.assertEqual(self.askers[0].ask("GET", missing).status, 404)
        _, other = self.blob("other")
        wrong = self.origin.signed(NAME, other, None, sub=7)
        self.assertEqual(self.askers[0].ask("GET", wrong).status, 403)
        self.assertEqual(self.before_middle.asked(other), [])

    def test_middle_is_away(self) -> None:
        """
        With the next hop down the first cache serves what it has, by the keys that it has; what it has not
        is 502 to 504, and comes once the hop is back.
        """
        content, digest = self.blob("one")
        fresh, other = self.blob("two")
        self.assertEqual(self.askers[0].ask("GET", self.origin.signed(NAME, digest)).body, content)
        first = self.caches[0]
        first.process.wait_until(lambda: first.stored(digest), "the blob in the store")
        self.before_middle.refuse()
        self.assertEqual(self.askers[0].ask("GET", self.origin.signed(NAME, digest)).body, content)
        self.assertIn(self.askers[0].ask("GET", self.origin.signed(NAME, other)).status, {502, 503, 504})
        self.before_middle.restore()
        until(
            lambda: self.askers[0].ask("GET", self.origin.signed(NAME, other)).body == fresh, "the other blob"
        )

    def test_new_key(self) -> None:
        """A key that is new at the origin is known at the first cache at the first URL that it signs."""
        content, digest = self.blob("one")
        self.assertEqual(self.askers[0].ask("GET", self.origin.signed(NAME, digest)).body, content)
        self.origin.pens = [*self.origin.pens, Pen("new", "ES256", keys().first)]
        signed = self.origin.signed(NAME, digest, self.origin.pens[-1])
        self.assertEqual(self.askers[0].ask("GET", signed).body, content)


@needs("docker-registry", "curl")
class RotationTests(SignedCase):
    """The keys change twice while clients pull."""

    def setUp(self) -> None:
        self.begin(cache_control="max-age=2")
        self.blobs = [self.blob(size, seed=size) for size in (30_000, 200_000, 1_000_000)]
        self.failures: list[str] = []
        self.pulled = 0

    def test_under_load(self) -> None:
        """No pull fails, and nobody restarts anything: old and new keys are shown together for a while."""
        one, two = (Pen(name, "ES256", key) for name, key in (("1", keys().first), ("2", keys().second)))
        three = Pen("3", "EdDSA", keys().strange_ed)
        self.origin.pens = [one]
        ended = threading.Event()
        pid = self.cache.pid
        clients = [threading.Thread(target=self.pull_on, args=(ended, seed)) for seed in range(3)]
        for client in clients:
            client.start()
        try:
            for old, new in ((one, two), (two, three)):
                self.some_pulls()
                self.show([old, new])  # shown, and not used yet
                self.origin.pens = [new, old]  # used; tokens of the old one are still out
                self.some_pulls()
                self.origin.pens = [new]
                self.some_pulls()
        finally:
            ended.set()
            for client in clients:
                client.join(120)
        self.assertEqual(self.failures, [])
        self.assertEqual(self.cache.pid, pid)
        _, digest = self.blobs[0]
        self.check_gone(self.origin.signed(NAME, digest, one))

    def show(self, pens: list[Pen]) -> None:
        """Publish keys, and wait until the cache has been told."""
        self.origin.pens = pens
        before = len(self.asked_for_keys())
        self.wait(lambda: len(self.asked_for_keys()) > before, "the cache to ask for keys again")

    def some_pulls(self) -> None:
        """Wait for some more pulls."""
        before = self.pulled
        self.wait(lambda: self.pulled >= before + 15, "pulls")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait, unless something has failed already."""
        until(lambda: condition() or bool(self.failures), what)

    def check_gone(self, url: str) -> None:
        """A key that is shown no more counts no more, once the set is asked for again."""
        until(lambda: self.ask("GET", url).status == 403, "the end of the old key")

    def pull_on(self, ended: threading.Event, seed: int) -> None:
        """A client that is sent here again and again, with cold blobs among the warm ones."""
        curl = Curl(self)
        number = 0
        while not ended.is_set():
            number += 1
            cold = number % 5 == 0
            content, digest = self.blob(20_000, seed=f"{seed}/{number}") if cold else self.blobs[number % 3]
            fetched = curl.fetch(self.cache.url + self.origin.signed(NAME, digest))
            if (fetched.status, fetched.ended) != (200, 0) or fetched.body.read_bytes() != content:
                self.failures.append(f"{fetched} {fetched.body.read_bytes()[:200]!r}")
                return
            fetched.body.unlink()
            self.pulled += 1
