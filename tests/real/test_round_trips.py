"""
How many requests each request of a client costs upstream: the table of ``docs/clients.rst``, counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.images import Image, push_image
from tests.real.origin import Answer, Origin, basic
from tests.real.programs import ROOT, needs

_ROW: Final = re.compile(r"^(?P<what>\S.*?)\s{2,}(?P<cold>[0-9])\s+(?P<warm>[0-9])$", re.MULTILINE)
_ANN: Final = basic("ann", "secret")
_STRANGER: Final = basic("ann", "wrong")


def documented() -> Mapping[str, tuple[int, int]]:
    """
    The rows of the table: what a client asks for, and what it costs cold and warm.
    """
    text = (ROOT / "docs" / "clients.rst").read_text("utf-8")
    table = text.partition(".. requests upstream begin")[2].partition(".. requests upstream end")[0]
    return {row["what"]: (int(row["cold"]), int(row["warm"])) for row in _ROW.finditer(table)}


@frozen
class Pull:
    """
    A client with an account, and an image that it asks for.
    """

    asker: Asker
    image: Image

    def ask(self, method: str, path: str, authorization: str = _ANN, **headers: str) -> Answer:
        """One request within the image's repository."""
        return self.asker.ask(method, f"/v2/{self.image.name}/{path}", authorization, **headers)

    @property
    def manifest(self) -> str:
        """Where the manifest is, by its digest."""
        return f"manifests/{self.image.digest}"

    @property
    def blob(self) -> str:
        """Where the layer is."""
        return f"blobs/{self.image.layers[0].digest}"


#: What is asked for in each row, and the status that it has.
_ASKED: Final[Mapping[str, tuple[int, Callable[[Pull], Answer]]]] = {
    "``GET /v2/``": (200, lambda pull: pull.asker.ask("GET", "/v2/", _ANN)),
    "``GET`` of a tag": (200, lambda pull: pull.ask("GET", "manifests/1")),
    "``HEAD`` of a tag": (200, lambda pull: pull.ask("HEAD", "manifests/1")),
    "``GET`` of a tag that is missing": (404, lambda pull: pull.ask("GET", "manifests/2")),
    "``GET`` of a tag that is refused": (401, lambda pull: pull.ask("GET", "manifests/1", _STRANGER)),
    "``GET`` of a manifest by digest": (200, lambda pull: pull.ask("GET", pull.manifest)),
    "``HEAD`` of a manifest by digest": (200, lambda pull: pull.ask("HEAD", pull.manifest)),
    "``GET`` of a blob": (200, lambda pull: pull.ask("GET", pull.blob)),
    "``GET`` of a blob, ``Range: bytes=0-``": (
        206,
        lambda pull: pull.ask("GET", pull.blob, Range="bytes=0-"),
    ),
    "``GET`` of a part of a blob": (206, lambda pull: pull.ask("GET", pull.blob, Range="bytes=9-99")),
    "``HEAD`` of a blob": (200, lambda pull: pull.ask("HEAD", pull.blob)),
    "``GET`` of a blob that is refused": (401, lambda pull: pull.ask("GET", pull.blob, _STRANGER)),
    "tags, catalogue": (200, lambda pull: pull.ask("GET", "tags/list")),
    "an upload": (405, lambda pull: pull.ask("POST", "blobs/uploads/")),
}
#: What warms a row, where the request of the row itself does not: those that store nothing.
_WARMED_BY_GET: Final = ("``HEAD`` of a tag", "``HEAD`` of a manifest by digest", "``HEAD`` of a blob")


@needs("docker-registry", "htpasswd")
class RoundTripTests(SynchronousTestCase):
    """
    A registry that asks for accounts, and counts.
    """

    def setUp(self) -> None:
        """The registry."""
        self.origin = Origin(self, users={"ann": "secret"})
        self.images = 0

    def pull(self, cache: ContentCache) -> Pull:
        """A client of a cache, and an image that is nobody's yet."""
        self.images += 1
        image = push_image(self.origin, f"org/app{self.images}", "1", layers=(3000,), seed=self.images)
        return Pull(Asker(self, cache.host), image)

    def requests(self) -> int:
        """How many requests the registry had so far."""
        return len(self.origin.requests())

    def measure(self, cache: ContentCache, what: str) -> tuple[int, int]:
        """What a row costs at the registry, cold and warm, through this cache."""
        status, asked = _ASKED[what]
        pull = self.pull(cache)
        if "/v2/" not in what:
            # The registry's word on HEAD is known, and nothing of this image is.
            self.assertEqual(pull.ask("HEAD", f"blobs/{self.known}").status, 404)
        counts = []
        for warm in (False, True):
            if warm and what in _WARMED_BY_GET:
                pull.ask("GET", pull.blob if "blob" in what else pull.manifest)
            if warm and "refused" in what:
                pull.ask("GET", "manifests/1")
                pull.ask("GET", pull.blob)
            before = self.requests()
            self.assertEqual((what, asked(pull).status), (what, status))
            counts.append(self.requests() - before)
        return counts[0], counts[1]

    def check(self, cache: ContentCache) -> None:
        """Every row of the document, through a cache."""
        image = push_image(self.origin, "org/known", layers=(10,), seed="known")
        self.known = image.layers[0].digest
        asker = Asker(self, cache.host)
        self.assertEqual(asker.ask("HEAD", f"/v2/org/known/blobs/{self.known}", _ANN).status, 200)
        measured = {what: self.measure(cache, what) for what in _ASKED}
        self.assertEqual(measured, dict(documented()))

    def test_one_cache(self) -> None:
        """The table is what a cache asks its upstream."""
        self.check(ContentCache(self, self.origin.url, workers=1))

    def test_two_caches(self) -> None:
        """A second cache in the row adds no request to what the registry is asked."""
        near = ContentCache(self, self.origin.url, workers=1)
        hop = {"originhost": self.origin.url, "upstreamhosts": [near.url]}
        self.check(ContentCache(self, hop, workers=1))
