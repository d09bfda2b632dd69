"""
Every combination of users, repositories, methods, credentials and temperatures, asked of an origin itself and
then of a cache in front of it.

Blobs are new for each, so that what one has done to the cache's memory is not what the next one finds.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, product
from typing import ClassVar, Final

from attrs import field, frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import Image, push_blob, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Answer, Origin, basic
from tests.real.programs import until

REPOSITORIES: Final = ("org/app", "org/other", "public/app")
_SIZE: Final = 700


@frozen
class Shown:
    """What a client shows: a name for it, the header, and what makes the query for a repository and a digest."""

    name: str
    authorization: str | None = field(default=None, repr=False)
    query: Callable[[str, str], str] = field(default=lambda _repository, _digest: "", repr=False)


@frozen
class Question:
    """Of a blob: method and further headers."""

    method: str
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class Asking:
    """Who asks what of which content."""

    who: Shown
    repository: str
    path: str
    question: Question

    @property
    def digest(self) -> str:
        """The content's digest, or its tag."""
        return self.path.partition("/")[2]

    @property
    def target(self) -> str:
        """Path and query."""
        query = self.who.query(self.repository, self.digest)
        return f"/v2/{self.repository}/{self.path}" + (f"?{query}" if query else "")

    def ask(self, whom: Asker, *, begins: bool = False) -> Answer:
        """Ask the origin or the cache; ``begins`` waits for the first bytes only."""
        etag = f'"{self.digest}"'
        headers = {name: value.replace("<etag>", etag) for name, value in self.question.headers.items()}
        asking = whom.begins if begins else whom.ask
        return asking(self.question.method, self.target, self.who.authorization, **headers)


_GET: Final = Question("GET")
_QUESTIONS: Final = (
    _GET,
    Question("HEAD"),
    Question("GET", {"Range": "bytes=5-99"}),
    Question("GET", {"If-None-Match": "<etag>"}),
)


class MatrixCase(SynchronousTestCase):
    """One origin; ``right`` is what has every right in a repository."""

    temperatures: ClassVar[Sequence[str]] = (
        *("cold", "warm", "warm by the same", "warm elsewhere", "warm elsewhere only"),
    )

    origin_host: str
    registry: Origin
    cache: ContentCache

    def begin(self, url: str, origin: str, **options: object) -> None:
        """A cache in front of ``url``, and clients of it and of the origin's own host."""
        self.cache = ContentCache(self, url, options=options, log={"level": "info"})
        self.at_cache = Asker(self, self.cache.host)
        self.at_origin = Asker(self, origin)
        self.tally: Counter[str] = Counter()
        self._seeds = count()

    def right(self, repository: str) -> Shown:
        """A credential that may pull from a repository."""
        raise NotImplementedError

    def shown(self) -> list[Shown]:
        """Every credential."""
        raise NotImplementedError

    def run_blobs(self) -> None:
        """
        Every temperature, credential, repository and question. Each credential has a blob of its own in each
        repository, and each question too where the blob is to be cold.
        """
        for temperature, who, repository in product(self.temperatures, self.shown(), REPOSITORIES):
            if not self.makes_sense(temperature, who, repository):
                continue
            digest, content = "", b""
            for question in _QUESTIONS:
                if temperature == "cold" or not digest:
                    digest, content = self.prepared(temperature, who, repository)
                asking = Asking(who, repository, f"blobs/{digest}", question)
                self.compare(temperature, asking, content)

    def makes_sense(self, temperature: str, who: Shown, repository: str) -> bool:
        """Whether there is such a combination."""
        return True

    def prepared(self, temperature: str, who: Shown, repository: str) -> tuple[str, bytes]:
        """A new blob, and a cache that has it or not."""
        content = random_bytes(_SIZE, f"{self.id()} {next(self._seeds)}")
        elsewhere = REPOSITORIES[(REPOSITORIES.index(repository) + 1) % len(REPOSITORIES)]
        digest = ""
        if temperature != "warm elsewhere only":
            digest = push_blob(self.registry, repository, content)
        if temperature.startswith("warm elsewhere"):
            digest = push_blob(self.registry, elsewhere, content)
            self.pull(elsewhere, digest, content)
        elif temperature == "warm":
            self.pull(repository, digest, content)
        elif temperature == "warm by the same":
            Asking(who, repository, f"blobs/{digest}", _GET).ask(self.at_cache)
        return digest, content

    def pull(self, repository: str, digest: str, content: bytes) -> None:
        """Have the cache fetch a blob."""
        asking = Asking(self.right(repository), repository, f"blobs/{digest}", _GET)
        answer = asking.ask(self.at_cache)
        self.assertEqual((answer.status, answer.body), (200, content), asking)

    def compare(self, what: str, asking: Asking, content: bytes = b"", *, begins: bool = False) -> None:
        """
        The cache says yes where the origin does, with the same bytes, and nowhere else; where it says no, no
        byte of the content is in its answer.
        """
        expected = asking.ask(self.at_origin, begins=begins)
        found = asking.ask(self.at_cache, begins=begins)
        case = f"{what}: {asking}: {found.status} {found.body[:80]!r}, not {expected}"
        self.tally["yes" if _is_yes(expected) else "no"] += 1
        self.assertEqual(_is_yes(found), _is_yes(expected), case)
        if not _is_yes(found):
            self.assertGreaterEqual(found.status, 400, case)
            self.assertFalse(content and content[5:25] in found.body, case)
        elif not begins and 304 not in {found.status, expected.status}:
            self.assertEqual((found.status, found.body), (expected.status, expected.body), case)

    def run_manifests(self, images: Sequence[Image]) -> None:
        """Manifests, by tag and by digest, lists, the catalogue and the greeting, before and after a pull."""
        for temperature, image, who in product(("cold", "warm"), images, self.shown()):
            if temperature == "warm" and who is self.shown()[0]:
                Asking(self.right(image.name), image.name, "manifests/latest", _GET).ask(self.at_cache)
            for method, path in product(("GET", "HEAD"), _other_paths(image)):
                self.compare(temperature, Asking(who, image.name, path, Question(method)))
            for path in ("/v2/", "/v2/_catalog"):
                expected, found = (
                    asker.ask("GET", path, who.authorization) for asker in (self.at_origin, self.at_cache)
                )
                self.tally["yes" if _is_yes(expected) else "no"] += 1
                self.assertEqual(found.status, expected.status, (path, who))

    def run_in_flight(self, line: CountingProxy) -> None:
        """While a blob is being fetched for somebody who may: everybody else, in all repositories."""
        content = random_bytes(4_000_000, self.id())
        digest = push_blob(self.registry, "org/app", content)
        line.rate = 80_000
        fetch = Asking(self.right("org/app"), "org/app", f"blobs/{digest}", _GET)
        header = fetch.who.authorization
        arguments = ["-H", f"Authorization: {header}"] if header else []
        running = Curl(self).start(self.cache.url + fetch.target, *arguments)
        until(lambda: running.received() > 0, "the first bytes")
        for who, repository, question in product(self.shown(), REPOSITORIES, _QUESTIONS[:2]):
            if self.makes_sense("in flight", who, repository):
                asking = Asking(who, repository, f"blobs/{digest}", question)
                self.compare("in flight", asking, content, begins=True)
        self.assertTrue(running.process.alive, "the fetch was over too soon")
        line.rate = None
        self.assertEqual(running.result().body.read_bytes(), content)

    def conclude(self, least: int) -> None:
        """Write down how many combinations there were."""
        total = self.tally.total()
        sys.stdout.write(f"\n{self.id()}: {total} combinations, yes to {self.tally['yes']}\n")
        self.assertGreaterEqual(total, least)
        self.assertGreater(self.tally["yes"], total // 20)
        self.assertFalse("Traceback" in self.cache.log(), "there is a defect in the log")


def _is_yes(answer: Answer) -> bool:
    return answer.status < 400


def _other_paths(image: Image) -> Iterator[str]:
    yield "manifests/latest"
    yield "manifests/none"
    yield f"manifests/{image.digest}"
    yield f"manifests/{image.layers[0].digest}"
    yield f"blobs/{image.digest}"
    yield "tags/list"


def plain(users: Mapping[str, str]) -> list[Shown]:
    """No credential, wrong ones, and no credential at all in the shape of one."""
    right, password = next(iter(users.items()))
    return [
        Shown("nobody"),
        Shown("a wrong password", basic(right, password + "x")),
        Shown("an empty password", basic(right, "")),
        Shown("an unknown user", basic("eve", password)),
        Shown("a bearer that is none", "Bearer nonsense"),
        Shown("no base64", "Basic !!!"),
        Shown("an unknown scheme", "Digest username=ann"),
    ]
