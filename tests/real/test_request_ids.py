"""One pull by a real client leaves one id in the logs of a gateway and of the two caches behind it."""

from __future__ import annotations

import json
import re

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl, skopeo_copy
from tests.real.gateway import GatewayDaemon
from tests.real.images import push_blob, push_image, random_bytes
from tests.real.origin import Origin, basic
from tests.real.programs import needs, place, until

_LAYER = 300_000


@needs("docker-registry", "skopeo", "curl")
class RequestIdTests(SynchronousTestCase):
    """A registry, its gateway, a cache of the users, and one on its way to the gateway."""

    def setUp(self) -> None:
        self.origin = Origin(self, users=dict.fromkeys(("ann", "filler", "root"), "secret"))
        options = {
            "account": {"username": "filler", "password": "secret"},
            "admins": ["root"],
            "checkinterval": "200ms",
        }
        self.gateway = GatewayDaemon(self, self.origin.url, gateway=options)
        self.middle = ContentCache(self, self.gateway.url)
        self.near = ContentCache(
            self, {"originhost": self.gateway.url, "upstreamhosts": [self.middle.url], "deny": ["secret/*"]}
        )
        self.gateway.choose("ann:secret", self.gateway.add_cache("near", self.near.url, "root:secret"))
        self.ann = basic("ann", "secret")
        known = self.push("org/first", "first")
        until(lambda: self.redirects(known), "the cache to be alive")

    def push(self, repository: str, seed: str) -> str:
        """The path of a new blob."""
        return f"/v2/{repository}/blobs/{push_blob(self.origin, repository, random_bytes(_LAYER, seed))}"

    def redirects(self, path: str) -> bool:
        """Whether the gateway redirects to the cache."""
        return self.gateway.request("HEAD", path, headers={"Authorization": self.ann}).status == 307

    def lines(self, hop: ContentCache, digest: str, count: int) -> list[str]:
        """The access lines of a hop about ``GET`` of a blob, once there are so many."""

        def found() -> list[str]:
            lines = [line for line in hop.access_lines() if digest in line and '"GET ' in line]
            return lines if len(lines) >= count else []

        return until(found, f"{count} lines of {hop.process.name} about {digest}")

    def ids(self, digest: str) -> list[str]:
        """The ids of all lines: two of the gateway, which redirects and then serves, one of each cache."""
        logs = (self.gateway, 2), (self.near, 1), (self.middle, 1)
        lines = [line for hop, count in logs for line in self.lines(hop, digest, count)]
        return re.findall(r" request_id=(\S+) ", "\n".join(lines))

    def test_skopeo(self) -> None:
        """The client sends no id: that of the gateway's redirect is found at each hop, and its user and hop."""
        image = push_image(self.origin, "org/app", layers=(_LAYER,))
        skopeo_copy(image.reference(self.gateway.host), place(self) / "image", creds="ann:secret")
        layer = image.layers[0].digest
        ids = self.ids(layer)
        self.assertEqual((len(ids), len(set(ids))), (4, 1), ids)
        (line,) = self.lines(self.near, layer, 1)
        self.assertRegex(
            line, rf"^\S+ - ann \[.* served_by={self.middle.url} request_id=\S+ download=[0-9a-f]+"
        )
        (line,) = self.lines(self.middle, layer, 1)
        self.assertIn(f" served_by={self.gateway.url} ", line)
        downloads = {
            re.findall(r" download=(\S+)", self.lines(hop, layer, 1)[0])[0]
            for hop in (self.near, self.middle)
        }
        self.assertEqual(len(downloads), 2, "each cache has a download of its own")

    def test_own_id(self) -> None:
        """An id that the client sends is that of all hops, and in the response."""
        path = self.push("org/app", "own")
        headers = ("-H", f"Authorization: {self.ann}", "-H", "X-Request-Id: build-7", "-L")
        fetched = Curl(self).fetch(self.gateway.url + path, *headers)
        self.assertEqual((fetched.status, fetched.size), (200, _LAYER))
        self.assertEqual(fetched.headers["x-request-id"], "build-7")
        self.assertEqual(self.ids(path.rpartition("/")[2]), ["build-7"] * 4)

    def test_errors(self) -> None:
        """An error names its request, and a client still reads it: skopeo shows the message."""
        body = (
            Curl(self).fetch(f"{self.near.url}/v2/secret/app/manifests/1", "-H", "X-Request-Id: build-8").body
        )
        told = json.loads(body.read_text("utf-8"))
        self.assertEqual((told["request_id"], told["errors"][0]["code"]), ("build-8", "DENIED"))
        refused = skopeo_copy(f"{self.near.host}/secret/app:1", place(self) / "secret", check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("does not let secret/app pass", refused.stderr)
        for hop in (self.gateway, self.near, self.middle):
            self.assertNotIn("Traceback", hop.log())
