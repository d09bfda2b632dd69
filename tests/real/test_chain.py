"""
Two caches in a row over TLS with private authorities, as in the original product's sample.

The users are in Los Angeles, whose cache asks San Francisco's, which asks the origin.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.certificates import Authority
from tests.real.clients import Curl, Dockerd, manifest_in, skopeo_copy
from tests.real.images import digest_of, push_image
from tests.real.origin import Origin
from tests.real.programs import needs, place


@needs("docker-registry", "skopeo", "dockerd", "docker", "curl", root=True)
class ChainTests(SynchronousTestCase):
    """The chain."""

    def setUp(self) -> None:
        """Three programs, three authorities: each hop knows the next one's only."""
        self.authorities = [Authority(place(self)) for _ in range(3)]
        at_origin, at_francisco, at_angeles = self.authorities
        self.origin = Origin(self, tls=at_origin.leaf("127.0.0.1"), authority=at_origin)
        self.francisco = ContentCache(
            self,
            self.origin.url,
            options={"blobttl": "24h", "cas": [str(at_origin.path)]},
            tls=at_francisco.leaf("127.0.0.1"),
            authority=at_francisco,
        )
        self.angeles = ContentCache(
            self,
            {"originhost": self.origin.url, "upstreamhosts": [self.francisco.url]},
            options={"blobttl": "24h", "cas": [str(at_francisco.path)]},
            tls=at_angeles.leaf("127.0.0.1"),
            authority=at_angeles,
        )
        self.trusted = place(self)
        (self.trusted / "ca.crt").write_bytes(at_angeles.path.read_bytes())

    def test_cold_and_warm(self) -> None:
        """A cold pull leaves every blob in both caches; a warm one brings none across either line."""
        image = push_image(self.origin, "org/app", layers=(200_000, 5_000))
        for _ in range(2):
            folder = place(self)
            skopeo_copy(image.reference(self.angeles.host), folder, tls_verify=True, cert_dir=self.trusted)
            self.assertEqual(digest_of(manifest_in(folder)), image.digest)
        for blob in image.blobs():
            self.francisco.wait_stored(blob.digest)
            self.angeles.wait_stored(blob.digest)
            fetched = [
                line
                for line in self.origin.requests(agent="contentcache")
                if line.method == "GET" and line.uri.endswith(blob.digest)
            ]
            self.assertEqual(len(fetched), 1, fetched)

    def test_docker(self) -> None:
        """dockerd pulls through the chain."""
        image = push_image(self.origin, "org/app", seed=1)
        docker = Dockerd(self, insecure=[self.angeles.host])
        docker.pull(image.reference(self.angeles.host))
        self.assertEqual(docker.digest(image.reference(self.angeles.host)), image.digest)

    def test_only_the_next_hop(self) -> None:
        """
        A cache at the end of the chain never asks the origin, and does not trust it either: with the next
        hop away it says so, and serves what it has been told it may.
        """
        image = push_image(self.origin, "org/app", seed=2)
        curl = Curl(self)
        layer = image.layers[0].digest
        url = f"{self.angeles.url}/v2/org/app/blobs/{layer}"
        self.assertEqual(curl.fetch(url, "-k").status, 200)
        self.francisco.stop()
        self.assertEqual(curl.fetch(url, "-k").status, 200)
        other = f"{self.angeles.url}/v2/org/app/blobs/{image.config.digest}"
        answer = curl.fetch(other, "-k")
        self.assertIn(answer.status, {502, 503, 504})
        self.assertIn(b'"errors"', answer.body.read_bytes())
        asked = [name for name in self.angeles.metrics() if "upstream_requests_total" in name]
        self.assertTrue(asked)
        self.assertEqual([name for name in asked if self.origin.url in name], [])

    def test_leaf_as_anchor(self) -> None:
        """The next hop's own certificate is enough in ``cas``, as in the original's samples."""
        image = push_image(self.origin, "org/app", seed=3)
        assert self.francisco.tls is not None
        tail = ContentCache(
            self,
            {"originhost": self.origin.url, "upstreamhosts": [self.francisco.url]},
            options={"cas": [str(self.francisco.tls.certificate)]},
        )
        folder = place(self)
        skopeo_copy(image.reference(tail.host), folder)
        self.assertEqual(digest_of(manifest_in(folder)), image.digest)

    def test_loop(self) -> None:
        """Two caches that ask each other answer 508, and soon."""
        first = ContentCache(self, "http://127.0.0.1:1")
        second = ContentCache(self, first.url)
        first.set_options()
        first._upstreams = [{"originhost": second.url}]
        first.restart()
        answer = Curl(self).fetch(f"{second.url}/v2/org/app/manifests/1", timeout=20)
        self.assertEqual(answer.status, 508)
