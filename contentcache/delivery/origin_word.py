"""
What the origin says to a client's question, and whether that is *allowed*.

The registry's own 2xx is. Anything else (a redirect, a page for people that a sign-in proxy sends) has to be
looked at first: ``docs/access.rst`` has the rules.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused
from contentcache.core.header_policy import NO_HEADERS, Headers
from contentcache.core.lru import LruCache
from contentcache.core.ports import Timer
from contentcache.core.ranges import RANGE_NOT_SATISFIABLE, parse_content_range, read_unsatisfied
from contentcache.delivery.manifests import read_manifest
from contentcache.delivery.requests import ContentRequest
from contentcache.upstream.answers import Answer
from contentcache.upstream.redirects import TargetFailed

_OK: Final = 200
_PARTIAL: Final = 206
_TOO_MANY: Final = 429
#: What registries answer to ``HEAD`` of a blob that do not answer it truthfully.
_DOUBTFUL: Final = frozenset({401, 404, 405})
_FIRST_BYTE: Final = "bytes=0-0"
#: Number of hosts that origins redirect to, and that have delivered verified bytes, in memory.
_MOST_TARGETS: Final = 1000


@frozen
class Yes:
    """
    The client may have it. ``media_type`` is what ``GET`` once said of it, ``size`` and ``head_type`` what
    ``HEAD`` says, where the origin was asked; ``stale`` that it could not be asked and an old yes has served.
    ``notices`` are the origin's warnings and rate limits.
    """

    media_type: str | None = None
    size: int | None = None
    asked: bool = False
    stale: bool = False
    head_type: str | None = None
    notices: Headers = NO_HEADERS


class SomethingElse(TargetFailed):
    """Not the content was answered: a page for people, or what a redirect to elsewhere leads to."""


class OriginWord:
    """
    Asks origins whether clients may have a content; :meth:`ask` says what counts as *allowed*.

    A manifest has at most ``manifest_limit`` bytes. A host that an origin redirects to is trusted for
    ``trust_targets`` seconds after it delivered verified bytes of that origin.
    """

    def __init__(self, clock: Timer, *, manifest_limit: int, trust_targets: float) -> None:
        self._clock = clock
        self._manifest_limit = manifest_limit
        self._trust_targets = trust_targets
        self._targets: LruCache[tuple[str, str], float] = LruCache(_MOST_TARGETS)
        # Both hold origins of the configuration only.
        self._heads_proved: set[str] = set()
        self._heads_unreliable: set[str] = set()

    async def ask(self, asking: ContentRequest, *, with_body: bool, size: int | None) -> tuple[Yes, bool]:
        """
        What the origin allows, and whether that makes a grant and a link.

        :raises OriginRefused: it does not allow it.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it does not answer, or not the content.
        """
        answer = await self._ask_truthfully(asking, with_body=with_body)
        if answer.moved or answer.is_page:
            answer.abandon()
            return await self._in_doubt(asking, answer, size)
        yes = _own_word(asking, answer)
        answer.abandon()
        if size is not None and yes.size not in {None, size}:
            # A sign-in page may have any type; but some registries state a wrong length to HEAD alone.
            return await self._confirm(asking, yes, size), True
        return yes, True

    def is_known_target(self, origin: str, target: str | None) -> bool:
        """Whether a host to which ``origin`` redirects has lately delivered verified bytes of it."""
        if target is None:
            return False
        when = self._targets.get((origin, target))
        return when is not None and self._clock.seconds() - when < self._trust_targets

    def learn_target(self, origin: str, target: str) -> None:
        """A host to which ``origin`` redirects has delivered a whole content, and it was verified."""
        self._targets.put((origin, target), self._clock.seconds())

    async def _in_doubt(self, asking: ContentRequest, answer: Answer, size: int | None) -> tuple[Yes, bool]:
        """
        Whether an answer that is not the registry's own word is *allowed*: a redirect, or a page for people,
        which a sign-in proxy sends to strangers. Also whether it makes a grant and a link.

        :raises UpstreamBroken: it is not.
        """
        origin, content = asking.registry.upstream.origin, asking.content
        if content.kind == "manifests":
            return await self._manifest_itself(asking), True
        if answer.is_page and not answer.moved:
            raise SomethingElse(f"{answer.host} answered with a page for people")
        if self.is_known_target(origin, answer.target):
            return Yes(asked=True, notices=answer.notices()), True
        # With GET: storage that is asked by a signed URL lets one method be used only.
        final = await _probe(asking, follow=True)
        total = _whole_size(final)
        final.abandon()
        if final.is_page or final.status not in {_OK, _PARTIAL, RANGE_NOT_SATISFIABLE}:
            raise SomethingElse(f"{final.host} redirects to a page for people")
        if size is not None and total not in {None, size}:
            raise SomethingElse(
                f"{final.host} redirects to something of another length than {content.digest}"
            )
        # What nobody knows the length of may be anything: it is a matter of this request alone.
        return Yes(size=total, asked=True, notices=answer.notices()), size is not None

    async def _confirm(self, asking: ContentRequest, yes: Yes, size: int) -> Yes:
        """
        The registry itself allows it, but states another length than that of the content, ``size``: ``GET``
        must show that the content is there.

        :raises UpstreamBroken: it does not.
        """
        if asking.content.kind == "manifests":
            return await self._manifest_itself(asking)
        final = await _probe(asking, follow=True)
        total = _whole_size(final)
        final.abandon()
        if final.is_page or total != size:
            raise SomethingElse(f"{final.host} has something of another length than {asking.content.digest}")
        return evolve(yes, size=size)

    async def _manifest_itself(self, asking: ContentRequest) -> Yes:
        """
        Ask for a manifest with ``GET``: it is the proof, wherever it comes from.

        :raises UpstreamBroken: something else came.
        """
        digest = asking.content.digest
        final = await asking.registry.ask(asking.upstream_request("GET"))
        body = await read_manifest(final, self._manifest_limit)
        if Digest.of(body, digest.algorithm) != digest:
            raise SomethingElse(f"{final.host} leads to something else than {digest}")
        return Yes(final.header("Content-Type"), len(body), asked=True, notices=final.notices())

    async def _ask_truthfully(self, asking: ContentRequest, *, with_body: bool) -> Answer:
        registry, is_blob = asking.registry, asking.content.kind == "blobs"
        origin = registry.upstream.origin
        if is_blob and origin in self._heads_unreliable:
            return await _probe(asking)
        try:
            answer = await registry.ask(asking.upstream_request("HEAD", follow=False))
        except OriginRefused as refusal:
            doubtful = is_blob and refusal.status in _DOUBTFUL and origin not in self._heads_proved
            if refusal.status == _TOO_MANY or not (doubtful or (with_body and not refusal.is_plain)):
                raise
            answer = await _probe(asking)
            if doubtful:
                self._heads_unreliable.add(origin)
        else:
            if is_blob:
                self._heads_proved.add(origin)
        return answer


async def size_by_first_byte(asking: ContentRequest) -> int | None:
    """
    The length of a content, learned by ``GET`` of its first byte, wherever the content is.

    :raises CacheError: as :meth:`OriginWord.ask` does.
    """
    answer = await asking.registry.ask(asking.upstream_request("GET", range_=_FIRST_BYTE))
    size = _whole_size(answer)
    answer.abandon()
    return size


def _own_word(asking: ContentRequest, answer: Answer) -> Yes:
    size = _whole_size(answer)
    if size == 0 and asking.content.digest != Digest.of(b"", asking.content.digest.algorithm):
        size = None  # some proxies say so of every HEAD
    head_type, notices = answer.header("Content-Type"), answer.notices()
    return Yes(None, size, asked=True, head_type=head_type, notices=notices)


async def _probe(asking: ContentRequest, *, follow: bool = False) -> Answer:
    """Ask with ``GET``, for no more of a blob than its first byte."""
    if asking.content.kind == "blobs":
        answer = await asking.registry.ask(asking.upstream_request("GET", range_=_FIRST_BYTE, follow=follow))
        if answer.status != RANGE_NOT_SATISFIABLE:
            return answer
        answer.abandon()  # an empty blob has no first byte
    return await asking.registry.ask(asking.upstream_request("GET", follow=follow))


def _whole_size(answer: Answer) -> int | None:
    if answer.status == RANGE_NOT_SATISFIABLE:
        return read_unsatisfied(answer.header("Content-Range"))
    if answer.status == _PARTIAL:
        sent = parse_content_range(answer.header("Content-Range"))
        return None if sent is None else sent.size
    return answer.length
