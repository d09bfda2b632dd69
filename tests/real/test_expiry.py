"""What nobody pulls any more goes, and nothing else."""

from __future__ import annotations

from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import digest_of, push_blob, random_bytes
from tests.real.origin import Origin
from tests.real.programs import needs, until

_MIB = 1 << 20


@needs("docker-registry", "curl")
class ExpiryTests(SynchronousTestCase):
    """``blobttl`` and ``maxsize`` of a running daemon."""

    def test_since_the_last_pull(self) -> None:
        """
        A blob that is pulled again and again lives, another one's file goes, and one that is being sent is
        sent to its end.
        """
        origin = Origin(self)
        cache = ContentCache(self, origin.url, options={"blobttl": "3s"})
        curl = Curl(self)
        loved, lonely, slow = (
            push_blob(origin, "org/app", random_bytes(size, name))
            for name, size in (("loved", _MIB), ("lonely", _MIB), ("slow", 8 * _MIB))
        )
        url = f"{cache.url}/v2/org/app/blobs/"
        running = curl.start(url + slow, "--limit-rate", "700k")
        for digest in (loved, lonely):
            self.assertEqual(curl.fetch(url + digest).status, 200)
        until(lambda: cache.stored(slow), "the slow one in the store")

        def pulled_until_the_lonely_one_is_gone() -> bool:
            self.assertEqual(curl.fetch(url + loved).headers["cache-status"][:17], "contentcache; hit")
            return not cache.stored(lonely)

        until(pulled_until_the_lonely_one_is_gone, "the lonely one gone", every=0.5)
        self.assertTrue(cache.stored(loved))
        fetched = running.result()
        self.assertEqual((fetched.status, fetched.ended), (200, 0))
        self.assertEqual(digest_of(fetched.body.read_bytes()), slow)
        until(lambda: not cache.stored(slow), "the slow one gone in the end")
        self.assertEqual(curl.fetch(url + lonely).status, 200)

    def test_size(self) -> None:
        """With ``maxsize`` the least recently pulled blobs make room for new ones."""
        origin = Origin(self)
        cache = ContentCache(self, origin.url, options={"maxsize": "5MiB", "sweepinterval": "1s"})
        curl = Curl(self)
        digests = [push_blob(origin, "org/app", random_bytes(_MIB, f"size {number}")) for number in range(8)]
        for digest in digests:
            self.assertEqual(curl.fetch(f"{cache.url}/v2/org/app/blobs/{digest}").status, 200)
            until(partial(cache.stored, digest), "it in the store")
        until(lambda: sum(map(cache.stored, digests)) <= 5, "no more than five")
        self.assertTrue(cache.stored(digests[-1]))
        self.assertFalse(cache.stored(digests[0]))
