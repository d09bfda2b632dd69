"""How many requests each request of a client costs upstream: the table of ``docs/clients.rst``, counted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.gateway import GatewayDaemon
from tests.real.images import Image, digest_of, push_image
from tests.real.origin import Answer, Origin, basic
from tests.real.programs import ROOT, Case, needs, until
from tests.real.threaded import Asked, Face, Server

_ROW: Final = re.compile(r"^(?P<what>\S.*?)\s{2,}(?P<cold>[0-9])\s+(?P<warm>[0-9])$", re.MULTILINE)
_ANN: Final = basic("ann", "secret")
_STRANGER: Final = basic("ann", "wrong")


def documented(name: str = "upstream") -> Mapping[str, tuple[int, int]]:
    """
    The rows of a table: what a client asks for, and what it costs, cold and warm or without a cache and with
    one.
    """
    text = (ROOT / "docs" / "clients.rst").read_text("utf-8")
    table = text.partition(f".. requests {name} begin")[2].partition(f".. requests {name} end")[0]
    return {row["what"]: (int(row["cold"]), int(row["warm"])) for row in _ROW.finditer(table)}


@frozen
class Pull:
    """A client with an account, and an image that it asks for."""

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
    """A registry that asks for accounts, and counts."""

    def setUp(self) -> None:
        """The registry."""
        self.origin = Origin(self, users={"ann": "secret"})
        self.images = 0

    def pull(self, cache: ContentCache) -> Pull:
        """A client of a cache, and an image that is nobody's yet."""
        self.images += 1
        image = push_image(self.origin, f"org/app{self.images}", "1", layers=(100_000,), seed=self.images)
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


class RedirectingRegistry(Server):
    """A registry that sends whoever has an account to ``storage`` for its blobs."""

    def __init__(self, case: Case, storage: Storage) -> None:
        super().__init__(case)
        self._storage = storage

    def answer(self, face: Face, asked: Asked) -> None:
        """What a registry with storage of its own answers."""
        digest = asked.path.rpartition("/")[2]
        if asked.headers.get("authorization") not in {_ANN, basic("filler", "secret")}:
            face.tell(401, {"WWW-Authenticate": 'Basic realm="x"', **_JSON}, b"{}")
        elif "/blobs/" in asked.path and digest in self._storage.blobs:
            face.tell(307, {"Location": f"{self._storage.url}/{digest}?method={asked.method}"}, b"")
        else:
            face.tell(200 if asked.path == "/v2/" else 404, _JSON, b"{}")


class Storage(Server):
    """Where the blobs are."""

    def __init__(self, case: Case, *blobs: bytes) -> None:
        super().__init__(case)
        self.blobs = {digest_of(blob): blob for blob in blobs}

    def answer(self, face: Face, asked: Asked) -> None:
        """A blob, or its first bytes."""
        blob = self.blobs[asked.path[1:]]
        _, _, end = asked.headers.get("range", "").partition("bytes=0-")
        if asked.query != f"method={asked.method}":
            face.tell(403, {"Content-Type": "application/xml"}, b"<Error/>")
        elif end:
            part = blob[: int(end) + 1]
            face.tell(206, {"Content-Range": f"bytes 0-{len(part) - 1}/{len(blob)}"}, part)
        else:
            face.tell(200, {"Content-Type": "application/octet-stream"}, blob)


_JSON: Final = {"Content-Type": "application/json"}
_LAYER: Final = 300_000
_MISSING: Final = f"blobs/{digest_of(b'missing')}"
_REDIRECTED: Final = ", registry redirects"
#: The same through a gateway: the status for a client without a cache, and for one that has chosen one.
_ASKED_OF_GATEWAY: Final[Mapping[str, tuple[int, int, Callable[[Pull], Answer]]]] = {
    "``GET /v2/``": (200, 200, lambda pull: pull.asker.ask("GET", "/v2/", _ANN)),
    "``GET`` of a tag": (200, 200, lambda pull: pull.ask("GET", "manifests/1")),
    "``HEAD`` of a tag": (200, 200, lambda pull: pull.ask("HEAD", "manifests/1")),
    "``GET`` of a blob": (200, 307, lambda pull: pull.ask("GET", pull.blob)),
    "``HEAD`` of a blob": (200, 307, lambda pull: pull.ask("HEAD", pull.blob)),
    "``GET`` of a blob that is missing": (404, 404, lambda pull: pull.ask("GET", _MISSING)),
    "``HEAD`` of a blob that is missing": (404, 404, lambda pull: pull.ask("HEAD", _MISSING)),
    "``GET`` of a blob that is refused": (401, 401, lambda pull: pull.ask("GET", pull.blob, _STRANGER)),
    "``HEAD`` of a blob that is refused": (401, 401, lambda pull: pull.ask("HEAD", pull.blob, _STRANGER)),
    f"``GET`` of a blob{_REDIRECTED}": (307, 307, lambda pull: pull.ask("GET", pull.blob)),
    f"``HEAD`` of a blob{_REDIRECTED}": (307, 307, lambda pull: pull.ask("HEAD", pull.blob)),
}


@needs("docker-registry", "htpasswd")
class GatewayRoundTripTests(SynchronousTestCase):
    """The same of a gateway, before a registry that serves its blobs and before one that redirects."""

    def build(self, registry: str) -> tuple[GatewayDaemon, str]:
        """A gateway, and the id of a cache of it."""
        gateway = GatewayDaemon(
            self,
            registry,
            gateway={
                "account": {"username": "filler", "password": "secret"},
                "admins": ["ann"],
                "redirects": ["http://127.0.0.1"],
            },
        )
        cache = ContentCache(self, gateway.url)
        return gateway, gateway.add_cache("near", cache.url, "ann:secret")

    def measure(self, gateway: GatewayDaemon, cache: str, image: Image, count: Callable[[], int]) -> None:
        """Every row that is about this registry; ``count`` is how many requests it had so far."""
        is_redirecting = image.name == "org/stored"
        pull = Pull(Asker(self, gateway.host), image)
        rows = {
            what: row for what, row in _ASKED_OF_GATEWAY.items() if (_REDIRECTED in what) == is_redirecting
        }
        costs: dict[str, list[int]] = {what: [] for what in rows}
        for has_cache in (0, 1):
            if has_cache:
                gateway.choose("ann:secret", cache)
                until(lambda: _leads(pull.ask("GET", pull.blob), "token="), "the cache to be chosen")
            for what, row in rows.items():
                before = count()
                self.assertEqual((what, row[2](pull).status), (what, row[has_cache]))
                costs[what].append(count() - before)
        documents = documented("at the gateway")
        self.assertEqual({what: tuple(cost) for what, cost in costs.items()}, {w: documents[w] for w in rows})

    def test_serving_registry(self) -> None:
        """A registry that serves its blobs itself is asked once for everything but a refused ``GET``."""
        origin = Origin(self, users={"ann": "secret", "filler": "secret"})
        image = push_image(origin, "org/app", "1", layers=(_LAYER,))
        gateway, cache = self.build(origin.url)
        self.measure(gateway, cache, image, lambda: len(origin.requests()))

    def test_redirecting_registry(self) -> None:
        """One that redirects is asked once too, after its first redirect."""
        origin = Origin(self, users={"ann": "secret"})
        image = push_image(origin, "org/stored", "1", layers=(_LAYER,))
        digest = image.layers[0].digest
        blob = origin.request("GET", f"/v2/org/stored/blobs/{digest}", headers={"Authorization": _ANN}).body
        registry = RedirectingRegistry(self, Storage(self, blob))
        gateway, cache = self.build(registry.url)
        self.measure(gateway, cache, image, lambda: len(registry.asked("/blobs/")))

    def test_documented(self) -> None:
        """The table has these rows and no others."""
        self.assertEqual(set(documented("at the gateway")), set(_ASKED_OF_GATEWAY))


def _leads(answer: Answer, part: str) -> bool:
    return part in answer.headers.get("location", "")
