"""
Manifests by tag: the origin is asked on every pull which manifest a tag has now.

It is asked by ``HEAD`` with the client's own ``Accept``: some registries count each ``GET`` of a manifest towards
a client's rate limit. The manifest with the digest in the answer is then in the cache, or downloaded once.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

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
from contentcache.core.live import Live
from contentcache.core.manifests import (
    SCHEMA_1_TYPES,
    ManifestInvalid,
    check_manifest,
    essence,
    is_manifest_type,
    manifest_digests,
)
from contentcache.core.policy import immutable
from contentcache.core.ports import Clock
from contentcache.core.request_order import LatestRequests
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.blob_service import BlobService
from contentcache.delivery.bodies import MemoryBody
from contentcache.delivery.links import Links
from contentcache.delivery.manifests import read_manifest, too_large
from contentcache.delivery.options import DeliveryOptions
from contentcache.delivery.origin_authorization import Decision
from contentcache.delivery.possession import NotPossessed
from contentcache.delivery.requests import TagRequest
from contentcache.delivery.responses import ContentHead, ContentResponse, Outcome
from contentcache.delivery.shared_download import DownloadKey
from contentcache.storage.interfaces import Tag, TagRecord
from contentcache.upstream.answers import Answer
from contentcache.upstream.client import TargetRefused

_OK: Final = 200
_NOT_FOUND: Final = 404
_METHOD_NOT_ALLOWED: Final = 405
_TOO_MANY: Final = 429
#: Seconds by which the wall clock may step back without effect.
_CLOCK_STEP: Final = 60.0
#: Number of tags with the time of the latest answered request in memory.
_MOST_TAGS: Final = 10_000
#: Begins the ``Accept`` under which a tag is recorded whose manifest is not stored yet. No normalized ``Accept``
#: begins so.
_UNVERIFIED: Final = ",unverified,"


@frozen
class _ResolvedTag:
    """The manifest of a tag: ``head_type`` and ``size`` are from ``HEAD``, now or when it was recorded."""

    digest: Digest
    head_type: str | None
    size: int | None
    stale: bool = False
    notices: Headers = NO_HEADERS


class TagService:
    """Manifests by tag."""

    def __init__(
        self,
        authorization: Authorization,
        blob_service: BlobService,
        links: Links,
        *,
        wall: Clock,
        options: Live[DeliveryOptions],
    ) -> None:
        self._authorization = authorization
        self._blob_service = blob_service
        self._links = links
        self._wall = wall
        self._options = options
        #: When the latest answered request for each tag was sent.
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
            # The origin does not have what is stored: request the manifest by the tag.
            with await self._get_by_tag(request) as served:
                described = served.head
        outcome = Outcome.HIT if resolved.stale else Outcome.RESOLVED
        return evolve(described, outcome=outcome, stale=resolved.stale, notices=resolved.notices)

    async def get(self, request: TagRequest) -> ContentResponse:
        """
        The manifest that a tag has now.

        :raises OriginRefused: the origin denies it.
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
        # Some registries answer HEAD with the digest of a manifest that they convert for the client's Accept.
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
            # The reason may be in the body, for a client that waits for one.
            if refusal.status == _METHOD_NOT_ALLOWED or (with_body and not refusal.is_plain):
                return await self._get_by_tag(request)
            await self._record_refusal(request, refusal, asked=asked)
            if refusal.status == _NOT_FOUND:
                raise OriginRefused(_NOT_FOUND, refusal.headers, code="MANIFEST_UNKNOWN") from refusal
            raise
        answer.abandon()
        digest = _digest_of(answer)
        if digest is None or self._needs_get(request, answer):
            return await self._get_by_tag(request)
        size = answer.length or None  # no manifest is empty, but some proxies state 0 for every HEAD
        limit = self._options.now.manifest_limit
        if (size or 0) > limit:
            raise too_large(size, limit)
        resolved = _ResolvedTag(digest, answer.header("Content-Type"), size, notices=answer.notices())
        await self._authorization.record_allowed(request.by_digest(digest), None, asked=asked)
        if self._is_latest(request, asked):
            await self._record_head(request, resolved)
        return resolved

    def _needs_get(self, request: TagRequest, answer: Answer) -> bool:
        """
        Whether only a ``GET`` of the manifest can show that the registry allows it: the answer is a redirect to an
        unknown host, or a page for people.
        """
        origin = request.registry.upstream.origin
        known = self._authorization.origin.is_known_target(origin, answer.target)
        return (answer.moved and not known) or answer.is_page

    async def _get_by_tag(self, request: TagRequest) -> ContentResponse:
        """Request it by ``GET``, from the hosts in turn until one sends a manifest."""
        tried: set[str] = set()
        while True:
            asked = self._authorization.request_time()
            try:
                answer = await request.registry.ask(
                    request.upstream_request("GET"), only=lambda host: host not in tried
                )
            except OriginRefused as refusal:
                await self._record_refusal(request, refusal, asked=asked)
                raise
            tried.add(answer.host)
            try:
                return await self._check_and_store(request, answer, asked=asked)
            except ManifestInvalid as error:
                request.registry.failed(
                    answer.host,
                    error.message,
                    "manifests",
                    repository=request.route.repository,
                    reference=request.route.tag,
                )
                if all(host in tried for host, _ in request.registry.health()):
                    raise

    async def _check_and_store(self, request: TagRequest, answer: Answer, *, asked: float) -> ContentResponse:
        """Check what was sent for a tag, and only then store it and record it as the manifest of the tag."""
        if answer.status != _OK:
            answer.abandon()
            raise UpstreamBroken(f"{answer.host} answered {answer.status} to a request for a manifest")
        said, notices = answer.header("Content-Type"), answer.notices()
        named = _digest_of(answer)
        content = await read_manifest(answer, self._options.now.manifest_limit)
        checked = check_manifest(content)
        is_direct = not (answer.moved or answer.is_page)
        is_typed = is_manifest_type(said)
        if not is_direct and not checked.is_recognized:
            raise ManifestInvalid(f"{answer.host} answered with something else than a manifest")
        media_type = checked.media_type(get=said)
        digest = Digest.of(content, named.algorithm if named is not None else "sha256")
        if named is not None and named != digest:
            is_payload = named in manifest_digests(content, media_type, named.algorithm)
            if not is_payload and essence(media_type) not in SCHEMA_1_TYPES:
                raise UpstreamBroken(f"{answer.host} sent a manifest that is not the {named} it names")
            return ContentResponse(named, MemoryBody(content), media_type, Outcome.UNCACHED, notices=notices)
        if not checked.agrees(said) or not (is_typed or (is_direct and checked.is_recognized)):
            # It is passed through, and makes neither a grant nor a link.
            return ContentResponse(digest, MemoryBody(content), said, Outcome.UNCACHED, notices=notices)
        await self._blob_service.downloads.store(
            DownloadKey(request.registry.upstream.origin, digest), content
        )
        if answer.target is not None and named is not None:
            self._authorization.origin.learn_target(request.registry.upstream.origin, answer.target)
        await self._authorization.record_allowed(request.by_digest(digest), media_type, asked=asked)
        if self._is_latest(request, asked) and self._is_recorded(request):
            await self._links.record_tag(
                request.tag(), TagRecord(digest, media_type or "", len(content), self._wall())
            )
        return ContentResponse(digest, MemoryBody(content), media_type, Outcome.STORED, notices=notices)

    def _is_recorded(self, request: TagRequest) -> bool:
        return self._options.now.stale_if_error > 0 or request.registry.upstream.immutabletags is not None

    def _is_latest(self, request: TagRequest, asked: float) -> bool:
        """Whether no request that was sent later has been answered already."""
        if self._answered.outdates(asked, request.tag()):
            return False
        self._answered.record(request.tag(), asked)
        return True

    async def _record_head(self, request: TagRequest, resolved: _ResolvedTag) -> None:
        """Record a digest from ``HEAD``: it counts for the tag only once a manifest with it is stored."""
        if not self._is_recorded(request):
            return
        record = TagRecord(resolved.digest, resolved.head_type or "", resolved.size, self._wall())
        tag, unverified = request.tag(), _unverified(request.tag())
        if await self._blob_service.stored_manifest(resolved.digest) is not None:
            await self._links.record_tag(tag, record)
            return
        before = await self._links.tag(unverified)
        if before is not None and before.digest != record.digest:
            stored = await self._blob_service.stored_manifest(before.digest)
            if stored is not None:  # meanwhile
                await self._links.record_tag(tag, before)
        await self._links.record_tag(unverified, record)

    async def _record_refusal(self, request: TagRequest, refusal: OriginRefused, *, asked: float) -> None:
        if self._authorization.record_refusal(request.subject, refusal.status, asked=asked):
            self._answered.record(request.tag(), asked)
            await self._links.expire_tag(request.tag())
            if self._is_recorded(request):
                await self._links.expire_tag(_unverified(request.tag()))

    async def _immutable(self, request: TagRequest) -> _ResolvedTag | None:
        route = request.route
        if not immutable(route.tag, request.registry.upstream.immutabletags):
            return None
        if not self._authorization.is_granted(request.subject):
            return None
        return await self._recorded(request, self._options.now.affirm_ttl, stale=False)

    async def _stale(self, request: TagRequest, error: CacheError) -> _ResolvedTag:
        if self._authorization.allows_stale(request.subject):
            known = await self._recorded(request, self._options.now.stale_if_error, stale=True)
            if known is not None:
                return known
        raise error

    async def _recorded(self, request: TagRequest, bound: float, *, stale: bool) -> _ResolvedTag | None:
        record = await self._links.tag(request.tag())
        later = await self._links.tag(_unverified(request.tag()))
        if later is not None and (record is None or later.when >= record.when):
            stored = await self._blob_service.stored_manifest(later.digest)
            record = later if stored is not None else record
        # The age of one from the future (the clock has stepped back) is unknown.
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
