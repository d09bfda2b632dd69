"""
A small registry, and the manners of the moment.

It is a model that knows no line: ``answer(Asked) -> Reply``. It is spoken to through ``tests.manners``, a
server, or through ``tests.delivery.wire``, in memory.

>>> registry = BadRegistry()
>>> digest = registry.put_blob("org/app", b"layer")
>>> asked = Asked("GET", f"/v2/org/app/blobs/{digest}")
>>> registry.answer(asked).status
200
>>> registry.misbehave("status", path="*/blobs/*", times=1, status=503, retry_after="7")
>>> registry.answer(asked).headers["Retry-After"], registry.answer(asked).status
('7', 200)
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Literal
from urllib.parse import parse_qs

from attrs import define, evolve, field

from contentcache.core.digest import Digest
from tests.misbehaviour import MANNERS, Asked, Reply, Rule, refusal, unsatisfiable

ANYBODY: Final = ""
_ROUTE: Final = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>blobs|manifests|tags)/(?P<reference>[^/]+)")
_RANGE: Final = re.compile(r"bytes=(?P<first>[0-9]+)-(?P<last>[0-9]*)")


@define
class _Shelf:
    blobs: dict[str, bytes] = field(factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(factory=dict)
    tags: dict[str, str] = field(factory=dict)


class BadRegistry:
    """
    Repositories, who may read them, and the manners of the moment.

    ``auth`` is ``basic`` or ``bearer``; without it everything is open. Storage that redirects can lead to
    is at ``/storage/<digest>`` and asks nobody who he is.
    """

    def __init__(self, auth: Literal["basic", "bearer"] | None = None, life: int = 300) -> None:
        self.auth = auth
        self.life = life
        self.realm = "http://127.0.0.1/token"
        self.requests: list[Asked] = []
        self.rules: list[Rule] = []
        self.waiting: list[Callable[[], None]] = []
        self._shelves: dict[str, _Shelf] = {}
        self._passwords: dict[str, str] = {}
        self._may: dict[str, set[str]] = {}
        self._tokens: dict[str, str] = {}

    # What is here.

    def put_blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> Digest:
        """Put a blob into a repository."""
        digest = Digest.of(content, algorithm)
        self._shelf(repository).blobs[str(digest)] = content
        return digest

    def put_manifest(self, repository: str, content: bytes, media_type: str, *tags: str) -> Digest:
        """Put a manifest into a repository, and let tags mean it."""
        digest = Digest.of(content)
        shelf = self._shelf(repository)
        shelf.manifests[str(digest)] = media_type, content
        shelf.tags.update(dict.fromkeys(tags, str(digest)))
        return digest

    def take_away(self, repository: str) -> None:
        """Delete a repository."""
        del self._shelves[repository]

    def let(self, user: str, password: str, *repositories: str) -> str:
        """A user, the repositories that he may read, and his basic ``Authorization``."""
        self._passwords[user] = password
        self._may[user] = set(repositories)
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    # Manners.

    def misbehave(
        self,
        name: str,
        *,
        path: str = "*",
        method: str = "*",
        times: int | None = None,
        skip: int = 0,
        **parameters: Any,
    ) -> None:
        """After ``skip`` requests, where ``path`` (a glob) and ``method`` say so, and ``times`` often."""
        MANNERS[name](Reply(200, content=b"x", body=b"x"), **parameters)  # a misspelt one is refused here
        self.rules.append(Rule(name, path, method, times, parameters, skip))

    def behave(self) -> None:
        """Forget all manners; what stalls goes on stalling."""
        self.rules.clear()

    def release(self) -> None:
        """Let go on what stalls."""
        waiting, self.waiting = self.waiting, []
        for go_on in waiting:
            go_on()

    def count(self, method: str = "*", path: str = "*") -> int:
        """How many requests there were."""
        return len(self.asked(method, path))

    def asked(self, method: str = "*", path: str = "*") -> Sequence[Asked]:
        """The requests that there were."""
        return [a for a in self.requests if method in {"*", a.method} and fnmatchcase(a.path, path)]

    def answer(self, asked: Asked) -> Reply:
        """The reply to a request, and a record of it. The body of a ``HEAD`` is there and not to be sent."""
        self.requests.append(asked)
        reply = self._honest(asked)
        for rule in self.rules:
            if rule.spend_on(asked):
                reply = MANNERS[rule.name](reply, **rule.parameters)
        return reply

    # The good registry underneath.

    def _shelf(self, repository: str) -> _Shelf:
        return self._shelves.setdefault(repository, _Shelf())

    def _honest(self, asked: Asked) -> Reply:
        if asked.path == "/token":
            return self._token(asked)
        if asked.path.startswith("/storage/"):
            digest = asked.path.removeprefix("/storage/")
            stored = [shelf.blobs[digest] for shelf in self._shelves.values() if digest in shelf.blobs]
            return _found(asked, stored[0], "application/octet-stream") if stored else _missing()
        route = _ROUTE.fullmatch(asked.path)
        repository = None if route is None else route["repository"]
        if not self._lets(asked.headers.get("authorization"), repository):
            return self._challenged(repository)
        if route is None:
            names = json.dumps({"repositories": sorted(self._shelves)}).encode()
            return {"/v2/": _json(b"{}"), "/v2/_catalog": _json(names)}.get(asked.path, _missing())
        return self._content(asked, self._shelves.get(route["repository"], _Shelf()), route)

    def _content(self, asked: Asked, shelf: _Shelf, route: re.Match[str]) -> Reply:
        reference = route["reference"]
        if route["kind"] == "tags":
            return _json(json.dumps({"name": route["repository"], "tags": sorted(shelf.tags)}).encode())
        if route["kind"] == "blobs" and reference in shelf.blobs:
            reply = _found(asked, shelf.blobs[reference], "application/octet-stream")
            return reply.saying(Docker_Content_Digest=reference)
        digest = shelf.tags.get(reference, reference)
        if route["kind"] == "manifests" and digest in shelf.manifests:
            media_type, content = shelf.manifests[digest]
            return _found(asked, content, media_type).saying(Docker_Content_Digest=digest)
        return _missing()

    def _lets(self, authorization: str | None, repository: str | None) -> bool:
        if self.auth is None:
            return True
        scheme, _, value = (authorization or "").partition(" ")
        if self.auth == "bearer":
            user = self._tokens.get(value) if scheme == "Bearer" else None
        else:
            user = self._user(authorization)
        return user is not None and (repository is None or repository in self._may.get(user, ()))

    def _user(self, authorization: str | None) -> str | None:
        if authorization is None:
            return ANYBODY if ANYBODY in self._may else None
        scheme, _, value = authorization.partition(" ")
        if scheme != "Basic":
            return None
        user, _, password = base64.b64decode(value).decode().partition(":")
        return user if self._passwords.get(user) == password else None

    def _challenged(self, repository: str | None) -> Reply:
        scope = f',scope="repository:{repository}:pull"' if repository else ""
        bearer = f'Bearer realm="{self.realm}",service="tests"{scope}'
        return refusal(
            Reply(401), status=401, challenge=bearer if self.auth == "bearer" else 'Basic realm="tests"'
        )

    def _token(self, asked: Asked) -> Reply:
        user = self._user(asked.headers.get("authorization"))
        if user is None:
            return refusal(Reply(401), status=401)
        token = f"token-{len(self._tokens) + 1}-{parse_qs(asked.query).get('scope', ['none'])[0]}"
        self._tokens[token] = user
        return _json(json.dumps({"token": token, "expires_in": self.life}).encode())


def _json(body: bytes) -> Reply:
    return Reply(200, {"Content-Type": "application/json"}, body, body, length=len(body))


def _missing() -> Reply:
    return refusal(Reply(404), status=404)


def _found(asked: Asked, content: bytes, media_type: str) -> Reply:
    headers = {"Content-Type": media_type, "Accept-Ranges": "bytes"}
    whole = Reply(200, headers, content, content, length=len(content))
    wanted = _RANGE.fullmatch(asked.headers.get("range", ""))
    if wanted is None or asked.method != "GET":
        return whole
    first = int(wanted["first"])
    stop = min(int(wanted["last"]) + 1, len(content)) if wanted["last"] else len(content)
    if first >= stop:
        return unsatisfiable(whole)
    body = content[first:stop]
    part = evolve(whole, status=206, body=body, start=first, length=len(body))
    return part.saying(Content_Range=f"bytes {first}-{stop - 1}/{len(content)}")
