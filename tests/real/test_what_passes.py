"""Every row of headers in ``docs/what-passes.rst``, compared with a direct request to a registry."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.header_policy import RULES
from contentcache.core.what_passes import REQUEST_HEADERS
from tests.real.cache import ContentCache
from tests.real.images import Image, push_image
from tests.real.origin import Origin
from tests.real.programs import PATIENCE, needs

#: What the registry is told to add to each of its answers. It writes one line for each value.
_ADDED: Final[Mapping[str, list[str]]] = {
    "Warning": ['299 - "this registry goes away"', '299 - "soon"'],
    "RateLimit": ["limit=100"],
    "RateLimit-Limit": ["100;w=21600"],
    "Docker-RateLimit-Source": ["192.0.2.1"],
    "OCI-Filters-Applied": ["artifactType"],
    "Retry-After": ["5"],
    "Alt-Svc": ['h3=":443"'],
    "Set-Cookie": ["session=1", "other=2"],
    "Strict-Transport-Security": ["max-age=1"],
    "Server": ["a-registry"],
    "Location": ["https://elsewhere.example/"],
    "X-Powered-By": ["something"],
    "Vary": ["Cookie"],
}
#: Lines of a head by their names, in lower case.
Lines = Mapping[str, list[str]]


@needs("docker-registry")
class HeaderTests(SynchronousTestCase):
    """A registry that adds headers, a cache before it, and the same request to both."""

    def setUp(self) -> None:
        """The two, and an image."""
        self.origin = Origin(self, settings={"http": {"headers": _ADDED}})
        self.image: Image = push_image(self.origin, "org/app", "1")
        self.cache = ContentCache(self, self.origin.url)

    def ask(self, host: str, path: str, method: str = "GET", **headers: str) -> tuple[int, Lines]:
        """One request; the status and the lines of the head."""
        connection = http.client.HTTPConnection(host, timeout=PATIENCE)
        self.addCleanup(connection.close)
        sent = {"Accept": self.image.manifest.media_type, **headers}
        connection.request(method, path, headers=sent)
        answer = connection.getresponse()
        answer.read()
        lines: dict[str, list[str]] = {}
        for name, value in answer.getheaders():
            lines.setdefault(name.lower(), []).append(value)
        return answer.status, lines

    def compare(self, path: str, method: str, *, notices_only: bool) -> None:
        """Each row, for one request: what is passed is as it was, what is dropped is not there."""
        status, direct = self.ask(self.origin.host, path, method)
        through_status, through = self.ask(self.cache.host, path, method)
        self.assertEqual(through_status, status)
        for rule in RULES:
            names = {name for name in {*direct, *through} if rule.covers(name)}
            for name in names:
                if rule.fate == "dropped":
                    self.assertNotIn(
                        name, {*through} - {"connection", "transfer-encoding"}, (path, rule.name)
                    )
                elif rule.fate == "passed" and (rule.notice or not notices_only):
                    self.assertEqual(through.get(name), direct.get(name), (path, method, name))
        self.assertNotIn("x-powered-by", through)
        for name in ("Set-Cookie", "Warning", "RateLimit-Limit"):
            self.assertEqual(direct[name.lower()], _ADDED[name], "the registry has added it")
        self.assertEqual(through["x-content-type-options"], ["nosniff"])
        self.assertEqual(through["docker-distribution-api-version"], ["registry/2.0"])

    def test_answers(self) -> None:
        """Headers of answers: lists, refusals, tags cold and warm."""
        self.compare("/v2/org/app/tags/list", "GET", notices_only=False)
        for method in ("GET", "HEAD"):
            self.compare("/v2/org/app/manifests/1", method, notices_only=False)
            self.compare("/v2/org/app/manifests/1", method, notices_only=False)
            self.compare("/v2/org/app/manifests/missing", method, notices_only=True)

    def test_rewritten(self) -> None:
        """What is rewritten is what this cache knows: lengths, digests, ranges, how long it may be kept."""
        blob = self.image.layers[0]
        path = f"/v2/org/app/blobs/{blob.digest}"
        for _ in range(2):
            status, lines = self.ask(self.cache.host, path, Range="bytes=0-9")
            self.assertEqual(status, 206)
            self.assertEqual(lines["content-range"], [f"bytes 0-9/{blob.size}"])
            self.assertEqual(lines["content-length"], ["10"])
            self.assertEqual(lines["etag"], [f'"{blob.digest}"'])
            self.assertEqual(lines["docker-content-digest"], [blob.digest])
            self.assertEqual(lines["accept-ranges"], ["bytes"])
            self.assertEqual(lines["cache-control"], ["private, max-age=31536000, immutable"])
        status, lines = self.ask(self.cache.host, "/v2/org/app/manifests/1")
        self.assertEqual((status, lines["vary"]), (200, ["Accept"]))
        self.assertNotIn("retry-after", lines)
        push_image(self.origin, "org/other", "1")
        status, lines = self.ask(self.cache.host, "/v2/_catalog?n=1")
        (link,) = lines["link"]
        self.assertRegex(link, r"^</v2/_catalog\?[^>]*>")
        self.assertEqual(self.ask(self.cache.host, link[1:].partition(">")[0])[0], 200)

    def test_requests(self) -> None:
        """What is dropped of a request does not reach the registry: conditions do not, nor names."""
        dropped = {rule.name: "x" for rule in REQUEST_HEADERS if rule.fate == "dropped"}
        dropped["If-None-Match"] = f'"{self.image.digest}-other"'
        dropped.pop("If-Match")  # it would not hold here either
        dropped["User-Agent"] = "a-client/1.0"
        status, _ = self.ask(self.cache.host, "/v2/org/app/manifests/1", **dropped)
        self.assertEqual(status, 200)
        self.assertEqual(self.origin.requests(agent="a-client"), [])
        self.assertNotEqual(self.origin.requests(agent="contentcache"), [])
