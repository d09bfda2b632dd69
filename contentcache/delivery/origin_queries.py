"""Requests that only the origin can answer: ``/v2/``, lists of tags and repositories, referrers."""

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
from contentcache.core.live import Live
from contentcache.core.lru import LruCache
from contentcache.core.ports import Timer
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.options import DeliveryOptions
from contentcache.jose.claims import unverified_expiry
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

#: Number of cached answers to ``/v2/``, and how much of each is cached: status, challenges, body. A longer body is
#: dropped; an answer with longer challenges is not cached.
_MOST_CACHED: Final = 10_000
_CACHED_BODY: Final = 1 << 10
_CACHED_CHALLENGES: Final = 2 << 10
_CACHED_HEADERS: Final = frozenset({"www-authenticate", "content-type"})
_PING_BYTES: Final = 4 << 10
_UNAUTHORIZED: Final = 401
#: Refusals of a request for its own headers (RFC 9110 §15.5.1, RFC 6585 §5).
_OF_ONE_REQUEST: Final = frozenset({400, 414, 431})
_TOO_MANY: Final = 429


@frozen
class Pinged:
    """The origin's answer to ``/v2/``; ``stale`` says that it is cached since the origin could not be asked."""

    status: int
    headers: Headers
    body: bytes
    stale: bool = False


@frozen
class _CachedPing:
    pinged: Pinged
    when: float


class OriginQueries:
    """Sends such requests to the origin."""

    def __init__(self, authorization: Authorization, clock: Timer, options: Live[DeliveryOptions]) -> None:
        self._authorization = authorization
        self._clock = clock
        self._options = options
        self._pings: LruCache[bytes, _CachedPing] = LruCache(_MOST_CACHED)

    async def ping(self, registry: Registry, subject: Subject, via: str) -> Pinged:
        """
        What the origin answers to ``/v2/`` with this credential, asked at most once in ``auth_ttl``.

        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it cannot be asked.
        """
        key, credential = subject.identity, subject.credential
        cached = self._pings.get(key)
        ends = unverified_expiry(credential.authorization)
        age = None if cached is None else self._clock.seconds() - cached.when
        if (
            cached is not None
            and age is not None
            and age < self._options.now.auth_ttl
            and not self._is_over(ends)
        ):
            return cached.pinged
        try:
            pinged = await self._ask(registry, subject, via)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken):
            stale = self._stale(cached, age, credential)
            if stale is None:
                raise
            return stale
        if pinged.status == _TOO_MANY:
            return self._stale(cached, age, credential) or pinged
        if pinged.status in _OF_ONE_REQUEST:
            return pinged  # another client's answer may differ
        bounded = _bounded(pinged)
        if bounded is None:
            self._pings.remove(key)
        else:
            self._pings.put(key, _CachedPing(bounded, self._clock.seconds()))
        return pinged

    async def ask(self, registry: Registry, request: Request) -> Answer:
        """
        Send a request whose answer is not cached.

        A permission to list is no permission to pull (registries keep the two apart), so no answer makes a grant,
        and a 403 ends none. A 401 rejects the credential as such.

        :raises OriginRefused: the origin denies it.
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
        try:
            answer = await self.ask(registry, Request("GET", "/v2/", subject, via=via))
        except OriginRefused as refusal:
            return Pinged(refusal.status, refusal.headers, refusal.body)
        if answer.redirected or answer.is_page:
            answer.abandon()
            raise UpstreamBroken(f"{answer.host} sends whoever asks for /v2/ to a page for people")
        return Pinged(answer.status, answer.passed_headers(), await answer.read(_PING_BYTES))

    def _stale(self, cached: _CachedPing | None, age: float | None, credential: Credential) -> Pinged | None:
        if cached is None or age is None or age >= self._options.now.stale_if_error:
            return None
        if not credential.lasting and cached.pinged.status != _UNAUTHORIZED:
            return None
        return Pinged(cached.pinged.status, cached.pinged.headers, cached.pinged.body, stale=True)

    def _is_over(self, ends: float | None) -> bool:
        return ends is not None and ends <= self._authorization.wall()


def _bounded(pinged: Pinged) -> Pinged | None:
    """What is cached of an answer: an origin must not decide how much memory each invented credential costs."""
    headers = {name: value for name, value in pinged.headers.items() if name.lower() in _CACHED_HEADERS}
    values = (part for value in headers.values() for part in ([value] if isinstance(value, str) else value))
    if sum(map(len, values)) > _CACHED_CHALLENGES:
        return None
    return Pinged(pinged.status, headers, pinged.body if len(pinged.body) <= _CACHED_BODY else b"")
