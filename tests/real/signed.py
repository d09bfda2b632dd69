"""What the tests of signed URLs share: a registry, the origin that signs in front of it, and a cache."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.trial.unittest import SynchronousTestCase

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.images import push_blob, random_bytes
from tests.real.origin import Answer, Origin
from tests.real.signer import SigningOrigin
from tests.real.threaded import Asked

NAME = "org/app"


class SignedCase(SynchronousTestCase):
    """``begin`` makes the programs; ``ask`` asks the cache."""

    registry: Origin
    origin: SigningOrigin
    cache: ContentCache

    def begin(
        self, options: Mapping[str, object] | None = None, *, cache_control: str = "max-age=60"
    ) -> None:
        """A registry with accounts, its signing origin, and a cache in front of that."""
        self.registry = Origin(self, users={"ann": "secret"})
        self.origin = SigningOrigin(self, self.registry, cache_control=cache_control)
        self.cache = ContentCache(self, self.origin.url, options=options)
        self.asker = Asker(self, self.cache.host)

    def ask(self, method: str, path: str, authorization: str | None = None, **more: str) -> Answer:
        """One request to the cache."""
        return self.asker.ask(method, path, authorization, **more)

    def blob(self, size: int = 40_000, name: str = NAME, seed: int | str = "") -> tuple[bytes, str]:
        """A blob of the registry that nobody has pulled: its bytes and its digest."""
        content = random_bytes(size, f"{self.id()} {seed}")
        return content, push_blob(self.registry, name, content)

    def stored_blob(self, size: int = 40_000) -> tuple[bytes, str]:
        """The same, pulled once; the origin's memory is then empty."""
        content, digest = self.blob(size, seed="stored")
        self.assertEqual(self.ask("GET", self.origin.signed(NAME, digest)).body, content)
        self.wait_stored(digest)
        self.origin.requests.clear()
        return content, digest

    def wait_stored(self, digest: str) -> None:
        """Wait until the blob's file is in the store."""
        self.cache.wait_stored(digest)

    def asked_for_keys(self) -> list[Asked]:
        """The questions for the origin's keys so far."""
        return self.origin.asked("/.well-known/")

    def check_refused(self, answer: Answer, content: bytes = b"", *, head: bool = False) -> None:
        """403, in the form of the registry API, and no byte of the blob."""
        self.assertEqual(answer.status, 403, answer)
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["docker-distribution-api-version"], "registry/2.0")
        self.assertNotIn("www-authenticate", answer.headers)
        self.assertNotIn("docker-content-digest", answer.headers)
        self.assertGreater(int(answer.headers["content-length"]), 20)
        if head:
            self.assertEqual(answer.body, b"")
        else:
            self.assertIn(b'"code": "DENIED"', answer.body)
        if content:
            self.assertNotIn(content[:16], answer.body)
