"""
Manifests by tag: only the origin knows what a tag means, and it is asked on every pull.

It is asked with ``HEAD`` and the client's own ``Accept``: some registries count ``GET`` of a manifest
against a client's limit. The digest that it names then comes from the cache, or is fetched once.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

from contentcache.core.accept import accepted, normalised
from contentcache.core.credentials import Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import (
    CacheError,
    DigestInvalid,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.policy import immutable
from contentcache.core.ports import Clock
from contentcache.core.question_order import LatestQuestions
from contentcache.core.routes import Content, TaggedManifest
from contentcache.delivery.access import Access, Yes
from contentcache.delivery.bodies import MemoryBody
from contentcache.delivery.contents import Contents
from contentcache.delivery.links import Links
from contentcache.delivery.manifests import read_manifest, too_large
from contentcache.delivery.served import Described, Served
from contentcache.delivery.wants import Asking
from contentcache.storage.interfaces import Tag, TagRecord
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry, TargetRefused
from contentcache.upstream.request import Request

_OK: Final = 200
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_TOO_MANY: Final = 429
#: So far may a clock be corrected without a fuss, in seconds.
_CLOCK_STEP: Final = 60.0
#: Number of tags of which it is known when they were last asked for.
_MOST_TAGS: Final = 10_000
#: The digest of these is not that of their bytes, so they pass and are not kept.
_SIGNED_TYPE: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"


@frozen
class TagAsking:
    """
    One client's question for a tag. ``accept`` has the values of its header as they came.
    """

    registry: Registry
    route: TaggedManifest
    credential: Credential
    accept: tuple[str, ...]
    via: str = ""

    def request(self, method: Literal["GET", "HEAD"]) -> Request:
        """
        The request that says all this upstream.
        """
        repository = self.route.repository
        return Request(
            method,
            f"/v2/{repository}/manifests/{self.route.tag}",
            self.credential,
            repository=repository,
            accept=accepted(self.accept),
            via=self.via,
        )

    def by_digest(self, digest: Digest) -> Asking:
        """
        The question for what the tag means.
        """
        content = Content(self.route.repository, "manifests", digest)
        return Asking(self.registry, content, self.credential, tuple(accepted(self.accept)), self.via)

    def tag(self) -> Tag:
        """
        What is remembered of the tag goes by this.
        """
        route = self.route
        origin = self.registry.upstream.origin
        return Tag(origin, route.repository, route.tag, normalised(accepted(self.accept)))


@frozen
class _Meaning:
    digest: Digest
    media_type: str | None
    size: int | None
    stale: bool = False


class Tags:
    """
    Questions about tags. ``affirm_ttl`` and ``stale_if_error`` are seconds, ``limit`` bytes of a manifest.
    """

    def __init__(
        self,
        access: Access,
        contents: Contents,
        links: Links,
        *,
        wall: Clock,
        affirm_ttl: float,
        stale_if_error: float,
        limit: int,
    ) -> None:
        self._access = access
        self._contents = contents
        self._links = links
        self._wall = wall
        self._affirm_ttl = affirm_ttl
        self._stale_if_error = stale_if_error
        self._limit = limit
        #: When the question was asked whose answer is the last that is known of a tag.
        self._answered = LatestQuestions(_MOST_TAGS)

    async def describe(self, asking: TagAsking) -> Described:
        """
        Answer a ``HEAD``. Raises as :meth:`get` does.
        """
        meaning = await self._meaning(asking, with_body=False)
        if isinstance(meaning, Served):
            return Described(meaning.digest, meaning.body.size, meaning.media_type, meaning.status)
        if meaning.size is None:
            described = await self._contents.describe(asking.by_digest(meaning.digest))
            return Described(
                meaning.digest, described.size, meaning.media_type, described.status, meaning.stale
            )
        status = "hit" if meaning.stale else "fwd=request"
        return Described(meaning.digest, meaning.size, meaning.media_type, status, meaning.stale)

    async def get(self, asking: TagAsking) -> Served:
        """
        The manifest that a tag means now.

        :raises OriginRefused: the origin says no.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it cannot be asked.
        """
        meaning = await self._meaning(asking, with_body=True)
        if isinstance(meaning, Served):
            return meaning
        if meaning.media_type == _SIGNED_TYPE and not meaning.stale:
            return await self._get_by_tag(asking)
        by_digest = asking.by_digest(meaning.digest)
        yes = Yes(meaning.media_type, stale=meaning.stale)
        try:
            return await self._contents.get(by_digest, yes)
        except OriginRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise
            # Some registries make up what they name, converted to what the client takes.
            return await self._get_by_tag(asking)

    async def _meaning(self, asking: TagAsking, *, with_body: bool) -> _Meaning | Served:
        kept = await self._immutable(asking)
        if kept is not None:
            return kept
        try:
            return await self._ask(asking, with_body=with_body)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            return await self._stale(asking, error)
        except OriginRefused as refusal:
            if refusal.status == _TOO_MANY:
                return await self._stale(asking, refusal)
            raise

    async def _ask(self, asking: TagAsking, *, with_body: bool) -> _Meaning | Served:
        asked = self._access.question_time()
        try:
            answer = await asking.registry.ask(asking.request("HEAD"))
        except TargetRefused:
            return await self._get_by_tag(asking)
        except OriginRefused as refusal:
            # A refusal is asked for again with its body, for a client that waits for one. Not so a 429.
            again = with_body or refusal.status == _METHOD_NOT_ALLOWED
            if again and refusal.status != _TOO_MANY:
                return await self._get_by_tag(asking)
            await self._take_note(asking, refusal, asked=asked)
            raise
        answer.abandon()
        digest = _digest_of(answer)
        if digest is None:
            return await self._get_by_tag(asking)
        size = answer.length
        if (size or 0) > self._limit:
            raise too_large(size, self._limit)
        meaning = _Meaning(digest, answer.header("Content-Type"), size)
        await self._remember(asking, meaning, asked=asked)
        return meaning

    async def _get_by_tag(self, asking: TagAsking) -> Served:
        asked = self._access.question_time()
        try:
            answer = await asking.registry.ask(asking.request("GET"))
        except OriginRefused as refusal:
            await self._take_note(asking, refusal, asked=asked)
            raise
        if answer.status != _OK:
            answer.abandon()
            raise UpstreamBroken(f"{answer.host} answered {answer.status} to a request for a manifest")
        media_type = answer.header("Content-Type")
        named = _digest_of(answer)
        content = await read_manifest(answer, self._limit)
        digest = Digest.of(content, named.algorithm if named is not None else "sha256")
        if named is not None and named != digest:
            if media_type != _SIGNED_TYPE:
                raise UpstreamBroken(f"{answer.host} sent a manifest that is not the {named} it names")
            return Served(named, MemoryBody(content), media_type, "fwd=miss; detail=uncached")
        await self._contents.keep(digest, content)
        await self._remember(asking, _Meaning(digest, media_type, len(content)), asked=asked)
        return Served(digest, MemoryBody(content), media_type, "fwd=miss; stored")

    async def _remember(self, asking: TagAsking, meaning: _Meaning, *, asked: float) -> None:
        await self._access.affirmed(asking.by_digest(meaning.digest), meaning.media_type, asked=asked)
        if self._answered.outdates(asked, asking.tag()):
            return  # a question that was asked later has been answered already
        self._answered.note(asking.tag(), asked)
        if self._stale_if_error > 0 or asking.registry.upstream.immutabletags is not None:
            record = TagRecord(meaning.digest, meaning.media_type or "", meaning.size, self._wall())
            await self._links.remember_tag(asking.tag(), record)

    async def _take_note(self, asking: TagAsking, refusal: OriginRefused, *, asked: float) -> None:
        whose = asking.registry, asking.route.repository, asking.credential
        if self._access.hears_no(*whose, refusal.status, asked=asked):
            self._answered.note(asking.tag(), asked)
            await self._links.forget_tag(asking.tag())

    async def _immutable(self, asking: TagAsking) -> _Meaning | None:
        route = asking.route
        if not immutable(route.tag, asking.registry.upstream.immutabletags):
            return None
        if not self._access.is_granted(asking.registry, route.repository, asking.credential):
            return None
        return await self._known(asking, self._affirm_ttl, stale=False)

    async def _stale(self, asking: TagAsking, error: CacheError) -> _Meaning:
        route = asking.route
        if self._access.may_serve_stale(asking.registry, route.repository, asking.credential):
            known = await self._known(asking, self._stale_if_error, stale=True)
            if known is not None:
                return known
        raise error

    async def _known(self, asking: TagAsking, bound: float, *, stale: bool) -> _Meaning | None:
        record = await self._links.tag(asking.tag())
        # One from the future (the clock was set back) has an age that nobody knows.
        if record is None or not -_CLOCK_STEP < self._wall() - record.when < bound:
            return None
        return _Meaning(record.digest, record.media_type or None, record.size, stale)


def _digest_of(answer: Answer) -> Digest | None:
    value = answer.header("Docker-Content-Digest")
    try:
        return Digest.parse(value) if value is not None else None
    except DigestInvalid:
        return None
