"""What only the origin can answer: ``/v2/``, lists of tags and repositories, referrers."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from contentcache.core.credentials import Credential, Subject
from contentcache.core.errors import (
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.header_policy import Headers
from contentcache.core.lru import LruCache
from contentcache.core.ports import Timer
from contentcache.delivery.authorization import Authorization
from contentcache.jose.bearer_tokens import unverified_expiry
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

#: Answers to ``/v2/`` that are kept, and how much of each: status, challenges, body. A longer body is not
#: kept, an answer with longer challenges not at all.
_MOST_KEPT: Final = 10_000
_KEPT_BODY: Final = 1 << 10
_KEPT_CHALLENGES: Final = 2 << 10
_KEPT_HEADERS: Final = frozenset({"www-authenticate", "content-type"})
_PING_BYTES: Final = 4 << 10
_UNAUTHORIZED: Final = 401
#: Refusals of a request for its own headers (RFC 9110 §15.5.1, RFC 6585 §5).
_OF_ONE_REQUEST: Final = frozenset({400, 414, 431})
_TOO_MANY: Final = 429


@frozen
class Pinged:
    """What the origin answered to ``/v2/``. ``stale`` that it could not be asked now."""

    status: int
    headers: Headers
    body: bytes
    stale: bool = False


@frozen
class _Remembered:
    pinged: Pinged
    when: float


class OriginQueries:
    """Passes questions on. ``auth_ttl`` and ``stale_if_error`` are seconds."""

    def __init__(
        self, authorization: Authorization, *, clock: Timer, auth_ttl: float, stale_if_error: float
    ) -> None:
        self._authorization = authorization
        self._clock = clock
        self._auth_ttl = auth_ttl
        self._stale_if_error = stale_if_error
        self._pings: LruCache[bytes, _Remembered] = LruCache(_MOST_KEPT)

    async def ping(self, registry: Registry, subject: Subject, via: str) -> Pinged:
        """
        What the origin answers to ``/v2/`` with this credential, asked at most once in ``auth_ttl``.

        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it cannot be asked.
        """
        key, credential = subject.identity, subject.credential
        kept = self._pings.get(key)
        ends = unverified_expiry(credential.authorization)
        age = None if kept is None else self._clock.seconds() - kept.when
        if kept is not None and age is not None and age < self._auth_ttl and not self._is_over(ends):
            return kept.pinged
        try:
            pinged = await self._ask(registry, subject, via)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken):
            stale = self._stale(kept, age, credential)
            if stale is None:
                raise
            return stale
        if pinged.status == _TOO_MANY:
            return self._stale(kept, age, credential) or pinged
        if pinged.status in _OF_ONE_REQUEST:
            return pinged  # another client's may be different
        bounded = _bounded(pinged)
        if bounded is None:
            self._pings.remove(key)
        else:
            self._pings.put(key, _Remembered(bounded, self._clock.seconds()))
        return pinged

    async def ask(self, registry: Registry, request: Request) -> Answer:
        """
        Pass a question on whose answer is not kept.

        To be allowed to list is not to be allowed to pull (registries keep the two apart), so no answer makes
        a grant, and a 403 ends none. A 401 rejects the credential as such.

        :raises OriginRefused: the origin says no.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it cannot be asked.
        """
        asked = self._authorization.request_time()
        try:
            return await registry.ask(request)
        except OriginRefused as refusal:
            if refusal.status == _UNAUTHORIZED:
                self._authorization.record_rejected(request.subject, asked=asked)
            raise

    async def _ask(self, registry: Registry, subject: Subject, via: str) -> Pinged:
        asked = self._authorization.request_time()
        try:
            answer = await registry.ask(Request("GET", "/v2/", subject, via=via))
        except OriginRefused as refusal:
            if refusal.status == _UNAUTHORIZED:
                self._authorization.record_rejected(subject, asked=asked)
            return Pinged(refusal.status, refusal.headers, refusal.body)
        if answer.redirected or answer.is_page:
            answer.abandon()
            raise UpstreamBroken(f"{answer.host} sends whoever asks for /v2/ to a page for people")
        return Pinged(answer.status, answer.passed_headers(), await answer.read(_PING_BYTES))

    def _stale(self, kept: _Remembered | None, age: float | None, credential: Credential) -> Pinged | None:
        if kept is None or age is None or age >= self._stale_if_error:
            return None
        if not credential.lasting and kept.pinged.status != _UNAUTHORIZED:
            return None
        return Pinged(kept.pinged.status, kept.pinged.headers, kept.pinged.body, stale=True)

    def _is_over(self, ends: float | None) -> bool:
        return ends is not None and ends <= self._authorization.wall()


def _bounded(pinged: Pinged) -> Pinged | None:
    """As much of an answer as is kept: an origin must not decide how much memory each made-up credential costs."""
    headers = {name: value for name, value in pinged.headers.items() if name.lower() in _KEPT_HEADERS}
    values = (part for value in headers.values() for part in ([value] if isinstance(value, str) else value))
    if sum(map(len, values)) > _KEPT_CHALLENGES:
        return None
    return Pinged(pinged.status, headers, pinged.body if len(pinged.body) <= _KEPT_BODY else b"")
