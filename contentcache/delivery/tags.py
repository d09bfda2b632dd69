"""
Manifests by tag: only the origin knows what a tag means, and it is asked on every pull.

It is asked with ``HEAD`` and the client's own ``Accept``: some registries count ``GET`` of a manifest
against a client's limit. The digest that it names then comes from the cache, or is fetched once.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import evolve, frozen

from contentcache.core.credentials import Subject
from contentcache.core.digest import Digest
from contentcache.core.errors import (
    CacheError,
    DigestInvalid,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.header_policy import NO_HEADERS, Headers
from contentcache.core.manifests import (
    SCHEMA_1_TYPES,
    ManifestInvalid,
    check_manifest,
    essence,
    is_manifest_type,
    manifest_digests,
    normalize_accept,
    upstream_accept,
)
from contentcache.core.policy import immutable
from contentcache.core.ports import Clock
from contentcache.core.request_order import LatestRequests
from contentcache.core.routes import Content, TaggedManifest
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.blob_service import BlobService
from contentcache.delivery.bodies import MemoryBody
from contentcache.delivery.links import Links
from contentcache.delivery.manifests import read_manifest, too_large
from contentcache.delivery.origin_authorization import Decision
from contentcache.delivery.possession import NotPossessed
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.responses import ContentHead, ContentResponse, Outcome
from contentcache.delivery.shared_download import DownloadKey
from contentcache.storage.interfaces import Tag, TagRecord
from contentcache.upstream.answers import Answer
from contentcache.upstream.client import TargetRefused
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

_OK: Final = 200
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_TOO_MANY: Final = 429
#: So far may a clock be corrected without a fuss, in seconds.
_CLOCK_STEP: Final = 60.0
#: Number of tags of which it is known when they were last asked for.
_MOST_TAGS: Final = 10_000
#: Begins the ``Accept`` under which the resolved of a tag is noted whose manifest has not come yet. No
#: normalized ``Accept`` begins so.
_UNVERIFIED: Final = ",unverified,"


@frozen
class TagRequest:
    """One client's question for a tag. ``accept`` has the values of its header as they came."""

    registry: Registry
    subject: Subject
    route: TaggedManifest
    accept: tuple[str, ...]
    via: str = ""

    def upstream_request(self, method: Literal["GET", "HEAD"]) -> Request:
        """The request that says all this upstream."""
        repository = self.route.repository
        return Request(
            method,
            f"/v2/{repository}/manifests/{self.route.tag}",
            self.subject,
            accept=upstream_accept(self.accept),
            via=self.via,
        )

    def by_digest(self, digest: Digest) -> ContentRequest:
        """The question for what the tag means."""
        content = Content(self.route.repository, "manifests", digest)
        return ContentRequest(
            self.registry, self.subject, content, tuple(upstream_accept(self.accept)), self.via
        )

    def tag(self) -> Tag:
        """What is remembered of the tag goes by this."""
        route = self.route
        origin = self.registry.upstream.origin
        return Tag(origin, route.repository, route.tag, normalize_accept(upstream_accept(self.accept)))


@frozen
class _ResolvedTag:
    """What a tag means: ``head_type`` and ``size`` as ``HEAD`` says, or as they were when it was remembered."""

    digest: Digest
    head_type: str | None
    size: int | None
    stale: bool = False
    notices: Headers = NO_HEADERS


class Tags:
    """Questions about tags. ``affirm_ttl`` and ``stale_if_error`` are seconds, ``limit`` bytes of a manifest."""

    def __init__(
        self,
        authorization: Authorization,
        blob_service: BlobService,
        links: Links,
        *,
        wall: Clock,
        affirm_ttl: float,
        stale_if_error: float,
        limit: int,
    ) -> None:
        self._authorization = authorization
        self._blob_service = blob_service
        self._links = links
        self._wall = wall
        self._affirm_ttl = affirm_ttl
        self._stale_if_error = stale_if_error
        self._limit = limit
        #: When the question was asked whose answer is the last that is known of a tag.
        self._answered = LatestRequests(_MOST_TAGS)

    async def describe(self, request: TagRequest) -> ContentHead:
        """Answer a ``HEAD``. Raises as :meth:`get` does."""
        resolved = await self._resolve(request, with_body=False)
        if isinstance(resolved, ContentResponse):
            with resolved:
                return resolved.head
        decision = Decision(head_type=resolved.head_type, size=resolved.size, stale=resolved.stale)
        try:
            described = await self._blob_service.describe_manifest(
                request.by_digest(resolved.digest), decision
            )
        except NotPossessed:
            # What is stored is not this origin's: the tag itself tells.
            with await self._get_by_tag(request) as served:
                described = served.head
        outcome = Outcome.HIT if resolved.stale else Outcome.RESOLVED
        return evolve(described, outcome=outcome, stale=resolved.stale, notices=resolved.notices)

    async def get(self, request: TagRequest) -> ContentResponse:
        """
        The manifest that a tag means now.

        :raises OriginRefused: the origin says no.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it cannot be asked.
        """
        resolved = await self._resolve(request, with_body=True)
        if isinstance(resolved, ContentResponse):
            return resolved
        if essence(resolved.head_type) in SCHEMA_1_TYPES and not resolved.stale:
            return await self._get_by_tag(request)
        by_digest = request.by_digest(resolved.digest)
        decision = Decision(head_type=resolved.head_type, stale=resolved.stale, notices=resolved.notices)
        try:
            return await self._blob_service.get(by_digest, decision)
        except NotPossessed:
            pass
        except OriginRefused as refusal:
            if refusal.status != _NOT_FOUND:
                raise
        # Some registries make up what they name, converted to what the client takes.
        return await self._get_by_tag(request)

    async def _resolve(self, request: TagRequest, *, with_body: bool) -> _ResolvedTag | ContentResponse:
        kept = await self._immutable(request)
        if kept is not None:
            return kept
        try:
            return await self._ask(request, with_body=with_body)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            return await self._stale(request, error)
        except OriginRefused as refusal:
            if refusal.status == _TOO_MANY:
                return await self._stale(request, refusal)
            raise

    async def _ask(self, request: TagRequest, *, with_body: bool) -> _ResolvedTag | ContentResponse:
        asked = self._authorization.request_time()
        try:
            answer = await request.registry.ask(request.upstream_request("HEAD"))
        except TargetRefused:
            return await self._get_by_tag(request)
        except OriginRefused as refusal:
            # Else the reason may be in the body, for a client that waits for one.
            if refusal.status == _METHOD_NOT_ALLOWED or (with_body and not refusal.is_plain):
                return await self._get_by_tag(request)
            await self._take_note(request, refusal, asked=asked)
            if refusal.status == _NOT_FOUND:
                raise OriginRefused(_NOT_FOUND, refusal.headers, code="MANIFEST_UNKNOWN") from refusal
            raise
        answer.abandon()
        digest = _digest_of(answer)
        if digest is None or self._is_doubtful(request, answer):
            return await self._get_by_tag(request)
        size = answer.length or None  # no manifest is empty, but some proxies say so of every HEAD
        if (size or 0) > self._limit:
            raise too_large(size, self._limit)
        resolved = _ResolvedTag(digest, answer.header("Content-Type"), size, notices=answer.notices())
        await self._authorization.record_allowed(request.by_digest(digest), None, asked=asked)
        if self._is_latest(request, asked):
            await self._note(request, resolved)
        return resolved

    def _is_doubtful(self, request: TagRequest, answer: Answer) -> bool:
        """
        Whether only the manifest itself can tell that the registry lets this client have it: the answer is
        that of another place, or a page for people.
        """
        origin = request.registry.upstream.origin
        known = self._authorization.origin.is_known_target(origin, answer.target)
        return (answer.moved and not known) or answer.is_page

    async def _get_by_tag(self, request: TagRequest) -> ContentResponse:
        """Ask with ``GET``, the hosts in turn until one sends a manifest."""
        tried: set[str] = set()
        while True:
            asked = self._authorization.request_time()
            try:
                answer = await request.registry.ask(
                    request.upstream_request("GET"), only=lambda host: host not in tried
                )
            except OriginRefused as refusal:
                await self._take_note(request, refusal, asked=asked)
                raise
            tried.add(answer.host)
            try:
                return await self._take_manifest(request, answer, asked=asked)
            except ManifestInvalid as error:
                request.registry.failed(answer.host, error.message, "manifests")
                if all(host in tried for host, _ in request.registry.health()):
                    raise

    async def _take_manifest(self, request: TagRequest, answer: Answer, *, asked: float) -> ContentResponse:
        """Check what came for a tag, and only then store it and remember that the tag means it."""
        if answer.status != _OK:
            answer.abandon()
            raise UpstreamBroken(f"{answer.host} answered {answer.status} to a request for a manifest")
        said, notices = answer.header("Content-Type"), answer.notices()
        named = _digest_of(answer)
        content = await read_manifest(answer, self._limit)
        checked = check_manifest(content)
        is_own_word = not (answer.moved or answer.is_page)
        is_typed = is_manifest_type(said)
        if not is_own_word and not checked.is_recognized:
            raise ManifestInvalid(f"{answer.host} answered with something else than a manifest")
        media_type = checked.media_type(get=said)
        digest = Digest.of(content, named.algorithm if named is not None else "sha256")
        if named is not None and named != digest:
            is_payload = named in manifest_digests(content, media_type, named.algorithm)
            if not is_payload and essence(media_type) not in SCHEMA_1_TYPES:
                raise UpstreamBroken(f"{answer.host} sent a manifest that is not the {named} it names")
            return ContentResponse(named, MemoryBody(content), media_type, Outcome.UNCACHED, notices=notices)
        if not checked.agrees(said) or not (is_typed or (is_own_word and checked.is_recognized)):
            # It is what upstream sent, and proves nothing.
            return ContentResponse(digest, MemoryBody(content), said, Outcome.UNCACHED, notices=notices)
        await self._blob_service.store(DownloadKey(request.registry.upstream.origin, digest), content)
        if answer.target is not None and named is not None:
            self._authorization.origin.learn_target(request.registry.upstream.origin, answer.target)
        await self._authorization.record_allowed(request.by_digest(digest), media_type, asked=asked)
        if self._is_latest(request, asked) and self._remembers(request):
            await self._links.record_tag(
                request.tag(), TagRecord(digest, media_type or "", len(content), self._wall())
            )
        return ContentResponse(digest, MemoryBody(content), media_type, Outcome.STORED, notices=notices)

    def _remembers(self, request: TagRequest) -> bool:
        return self._stale_if_error > 0 or request.registry.upstream.immutabletags is not None

    def _is_latest(self, request: TagRequest, asked: float) -> bool:
        """Whether no question that was asked later has been answered already."""
        if self._answered.outdates(asked, request.tag()):
            return False
        self._answered.record(request.tag(), asked)
        return True

    async def _note(self, request: TagRequest, resolved: _ResolvedTag) -> None:
        """``HEAD`` has named a digest: the tag means it once that is a manifest of the store, and not before."""
        if not self._remembers(request):
            return
        record = TagRecord(resolved.digest, resolved.head_type or "", resolved.size, self._wall())
        tag, unverified = request.tag(), _unverified(request.tag())
        if await self._blob_service.stored_manifest(resolved.digest) is not None:
            await self._links.record_tag(tag, record)
            return
        before = await self._links.tag(unverified)
        if before is not None and before.digest != record.digest:
            stored = await self._blob_service.stored_manifest(before.digest)
            if stored is not None:  # it has come since
                await self._links.record_tag(tag, before)
        await self._links.record_tag(unverified, record)

    async def _take_note(self, request: TagRequest, refusal: OriginRefused, *, asked: float) -> None:
        if self._authorization.record_refusal(request.subject, refusal.status, asked=asked):
            self._answered.record(request.tag(), asked)
            await self._links.expire_tag(request.tag())
            if self._remembers(request):
                await self._links.expire_tag(_unverified(request.tag()))

    async def _immutable(self, request: TagRequest) -> _ResolvedTag | None:
        route = request.route
        if not immutable(route.tag, request.registry.upstream.immutabletags):
            return None
        if not self._authorization.is_granted(request.subject):
            return None
        return await self._known(request, self._affirm_ttl, stale=False)

    async def _stale(self, request: TagRequest, error: CacheError) -> _ResolvedTag:
        if self._authorization.allows_stale(request.subject):
            known = await self._known(request, self._stale_if_error, stale=True)
            if known is not None:
                return known
        raise error

    async def _known(self, request: TagRequest, bound: float, *, stale: bool) -> _ResolvedTag | None:
        record = await self._links.tag(request.tag())
        later = await self._links.tag(_unverified(request.tag()))
        if later is not None and (record is None or later.when >= record.when):
            stored = await self._blob_service.stored_manifest(later.digest)
            record = later if stored is not None else record
        # One from the future (the clock was set back) has an age that nobody knows.
        if record is None or not -_CLOCK_STEP < self._wall() - record.when < bound:
            return None
        return _ResolvedTag(record.digest, record.media_type or None, record.size, stale)


def _unverified(tag: Tag) -> Tag:
    return evolve(tag, accept=_UNVERIFIED + tag.accept)


def _digest_of(answer: Answer) -> Digest | None:
    value = answer.header("Docker-Content-Digest")
    try:
        return Digest.parse(value) if value is not None else None
    except DigestInvalid:
        return None
