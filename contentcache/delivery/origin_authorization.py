"""
What the origin answers to a client's own request, and whether that is *allowed*.

The registry's own 2xx is. Anything else (a redirect, a page for people from a sign-in proxy) is checked first:
``docs/access.rst`` has the rules.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused
from contentcache.core.header_policy import NO_HEADERS, Headers
from contentcache.core.live import Live
from contentcache.core.lru import LruCache
from contentcache.core.ports import Timer
from contentcache.core.ranges import RANGE_NOT_SATISFIABLE, parse_content_range, parse_unsatisfied_size
from contentcache.delivery.manifests import read_manifest
from contentcache.delivery.options import DeliveryOptions
from contentcache.delivery.requests import ContentRequest
from contentcache.upstream.answers import Answer
from contentcache.upstream.redirects import TargetFailed

_OK: Final = 200
_PARTIAL: Final = 206
_TOO_MANY: Final = 429
#: What registries answer to ``HEAD`` of a blob that do not support it.
_DOUBTFUL: Final = frozenset({401, 404, 405})
_FIRST_BYTE: Final = "bytes=0-0"
#: Number of hosts that origins redirect to, and that have delivered verified bytes, in memory.
_MOST_TARGETS: Final = 1000


@frozen
class Decision:
    """
    *Allowed*, or with ``stale`` *stale-allowed* (RFC 5861 §4). *Denied* is raised as :class:`OriginRefused`.

    ``revalidated`` says that the origin was asked for it. ``media_type`` is that of an earlier ``GET``;
    ``size`` and ``head_type`` are from ``HEAD``, where the origin was asked. ``notices`` are the origin's
    warnings and rate limits.
    """

    media_type: str | None = None
    size: int | None = None
    revalidated: bool = False
    stale: bool = False
    head_type: str | None = None
    notices: Headers = NO_HEADERS


class NotTheContentError(TargetFailed):
    """Something other than the content was answered: a page for people, or the target of a redirect."""


class OriginAuthorization:
    """
    Asks origins whether clients may have a content.

    A host that an origin redirects to is trusted for ``affirm_ttl`` after it delivered verified bytes of that
    origin.
    """

    def __init__(self, clock: Timer, options: Live[DeliveryOptions]) -> None:
        self._clock = clock
        self._options = options
        self._targets: LruCache[tuple[str, str], float] = LruCache(_MOST_TARGETS)
        # Both hold origins of the configuration only.
        self._heads_proved: set[str] = set()
        self._heads_unreliable: set[str] = set()

    async def ask(
        self, request: ContentRequest, *, with_body: bool, size: int | None
    ) -> tuple[Decision, bool]:
        """
        The decision, and whether it makes a grant and a link.

        :raises OriginRefused: denied.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it does not answer, or not with the content.
        """
        answer = await self._ask_by_head_or_get(request, with_body=with_body)
        if answer.moved or answer.is_page:
            answer.abandon()
            return await self._check_indirect(request, answer, size)
        decision = _decision(request, answer)
        answer.abandon()
        if size is not None and decision.size not in {None, size}:
            # A sign-in page may have any type; but some registries state a wrong length to HEAD alone.
            return await self._confirm(request, decision, size), True
        return decision, True

    def is_known_target(self, origin: str, target: str | None) -> bool:
        """Whether a host to which ``origin`` redirects has lately delivered verified bytes of it."""
        if target is None:
            return False
        when = self._targets.get((origin, target))
        return when is not None and self._clock.seconds() - when < self._options.now.affirm_ttl

    def learn_target(self, origin: str, target: str) -> None:
        """Record that a host to which ``origin`` redirects has delivered a whole, verified content."""
        self._targets.put((origin, target), self._clock.seconds())

    async def _check_indirect(
        self, request: ContentRequest, answer: Answer, size: int | None
    ) -> tuple[Decision, bool]:
        """
        Check an answer that is not the registry's own 2xx: a redirect, or a page for people, which a sign-in proxy
        sends to unknown clients. Returns the decision, and whether it makes a grant and a link.

        :raises UpstreamBroken: it is not *allowed*.
        """
        origin, content = request.registry.upstream.origin, request.content
        if content.kind == "manifests":
            return await self._get_manifest(request), True
        if answer.is_page and not answer.moved:
            raise NotTheContentError(f"{answer.host} answered with a page for people")
        if self.is_known_target(origin, answer.target):
            return Decision(revalidated=True, notices=answer.notices()), True
        # With GET: storage that is asked by a signed URL lets one method be used only.
        final = await _probe(request, follow=True)
        total = _whole_size(final)
        final.abandon()
        if final.is_page or final.status not in {_OK, _PARTIAL, RANGE_NOT_SATISFIABLE}:
            raise NotTheContentError(f"{final.host} redirects to a page for people")
        if size is not None and total not in {None, size}:
            raise NotTheContentError(
                f"{final.host} redirects to something of another length than {content.digest}"
            )
        # Without a known length it may be anything: it counts for this request alone.
        return Decision(size=total, revalidated=True, notices=answer.notices()), size is not None

    async def _confirm(self, request: ContentRequest, decision: Decision, size: int) -> Decision:
        """
        Check by ``GET`` what the registry itself allows, but with another length than ``size``, the content's.

        :raises UpstreamBroken: it does not have the content.
        """
        if request.content.kind == "manifests":
            return await self._get_manifest(request)
        final = await _probe(request, follow=True)
        total = _whole_size(final)
        final.abandon()
        if final.is_page or total != size:
            raise NotTheContentError(
                f"{final.host} has something of another length than {request.content.digest}"
            )
        return evolve(decision, size=size)

    async def _get_manifest(self, request: ContentRequest) -> Decision:
        """
        Request a manifest with ``GET``: it is the proof, whichever host sends it.

        :raises UpstreamBroken: something else was sent.
        """
        digest = request.content.digest
        final = await request.registry.ask(request.upstream_request("GET"))
        body = await read_manifest(final, self._options.now.manifest_limit)
        if Digest.of(body, digest.algorithm) != digest:
            raise NotTheContentError(f"{final.host} leads to something else than {digest}")
        return Decision(final.header("Content-Type"), len(body), revalidated=True, notices=final.notices())

    async def _ask_by_head_or_get(self, request: ContentRequest, *, with_body: bool) -> Answer:
        registry, is_blob = request.registry, request.content.kind == "blobs"
        origin = registry.upstream.origin
        if is_blob and origin in self._heads_unreliable:
            return await _probe(request)
        try:
            answer = await registry.ask(request.upstream_request("HEAD", follow=False))
        except OriginRefused as refusal:
            doubtful = is_blob and refusal.status in _DOUBTFUL and origin not in self._heads_proved
            if refusal.status == _TOO_MANY or not (doubtful or (with_body and not refusal.is_plain)):
                raise
            answer = await _probe(request)
            if doubtful:
                self._heads_unreliable.add(origin)
        else:
            if is_blob:
                self._heads_proved.add(origin)
        return answer


async def size_by_first_byte(request: ContentRequest) -> int | None:
    """
    The length of a content, by ``GET`` of its first byte, whichever host has it.

    :raises CacheError: as :meth:`OriginAuthorization.ask` does.
    """
    answer = await request.registry.ask(request.upstream_request("GET", range_=_FIRST_BYTE))
    size = _whole_size(answer)
    answer.abandon()
    return size


def _decision(request: ContentRequest, answer: Answer) -> Decision:
    size = _whole_size(answer)
    if size == 0 and request.content.digest != Digest.of(b"", request.content.digest.algorithm):
        size = None  # some proxies state 0 for every HEAD
    head_type, notices = answer.header("Content-Type"), answer.notices()
    return Decision(None, size, revalidated=True, head_type=head_type, notices=notices)


async def _probe(request: ContentRequest, *, follow: bool = False) -> Answer:
    """Request with ``GET``, only the first byte of a blob."""
    if request.content.kind == "blobs":
        answer = await request.registry.ask(
            request.upstream_request("GET", range_=_FIRST_BYTE, follow=follow)
        )
        if answer.status != RANGE_NOT_SATISFIABLE:
            return answer
        answer.abandon()  # an empty blob has no first byte
    return await request.registry.ask(request.upstream_request("GET", follow=follow))


def _whole_size(answer: Answer) -> int | None:
    if answer.status == RANGE_NOT_SATISFIABLE:
        return parse_unsatisfied_size(answer.header("Content-Range"))
    if answer.status == _PARTIAL:
        sent = parse_content_range(answer.header("Content-Range"))
        return None if sent is None else sent.size
    return answer.length
