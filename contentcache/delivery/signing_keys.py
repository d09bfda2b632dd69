"""
The keys that verify an origin's signed URLs: its JWK set, fetched from upstream, cached, and published.

Rules:

* the set comes from ``/.well-known/contentcache/jwks.json`` of the upstreams that blobs come from, so that
  keys pass through a chain of caches as blobs do; those of an ``https`` origin never over plain HTTP;
* it is fresh for as long as its ``Cache-Control`` says, and usable for up to a day while upstream is down;
* an unknown ``kid`` may be in a newer set, which is requested past the caches on the way. That happens at most
  every ten seconds, however many unknown names clients send;
* an origin may say that it has no set. That counts at once where no keys are known, else after ten minutes:
  to withdraw keys, an origin publishes a set without them;
* published are the usable public keys of a set, and nothing else of the document;
* with ``signing.jwks`` the set is a file of the operator instead.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.aio.single_flight import SingleFlight
from contentcache.auth.interfaces import AuthFault, read_file
from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import (
    CacheError,
    OriginRefused,
    SignatureRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.http_caching import age, max_age
from contentcache.core.ports import Run, Timer
from contentcache.core.via import append_via
from contentcache.jose.jwk import InvalidJWKError
from contentcache.jose.keyset import KeySet, VerificationKey, encode_key_set, parse_key_set
from contentcache.persist.watched_file import WatchedFiles
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

#: The path of the JWK set at an origin, and at each cache before it.
PATH: Final = "/.well-known/contentcache/jwks.json"
LARGEST: Final = 64 << 10
#: Seconds for which a set stays usable while upstream is down.
MAX_STALE: Final = 86400.0
#: Seconds between two requests for an unknown ``kid``, and after a request that failed.
RETRY_PAUSE: Final = 10.0
#: The same while no keys are known at all.
_FIRST_PAUSE: Final = 1.0
#: Seconds for which keys stay usable once their origin says that it has no set.
_USABLE_AFTER_REMOVAL: Final = 600.0
#: Timeouts of a request in seconds, for callers with a stale set, with an unknown ``kid``, and without a set.
_STALE_TIMEOUT: Final = 2.0
_LOOKUP_TIMEOUT: Final = 5.0
_FIRST_TIMEOUT: Final = 10.0
#: Seconds for which a set is cached that must not be: else each client's request would cost a request.
_MIN_FRESHNESS: Final = 1.0
_OK: Final = 200


class NoKeys(SignatureRefused):
    """The origin publishes no JWK set, so no signature of it can be verified."""


@frozen
class Published:
    """A JWK set for the next cache; ``max_age`` and ``age`` are in seconds."""

    document: bytes
    max_age: int
    age: int


class SigningKeys(Protocol):
    """The keys of one origin."""

    async def find(self, kid: str) -> VerificationKey:
        """
        The key with this ``kid``.

        :raises UnknownKeyError, NoKeys: there is no such key.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: no set is cached or can be fetched.
        """
        ...

    def find_cached(self, kid: str) -> VerificationKey | None:
        """The key that :meth:`find` would return at once; ``None`` where it would wait or raise."""
        ...

    async def published(self, *, via: str = "", no_cache: bool = False) -> Published:
        """
        The whole set. Raises as :meth:`find` does.

        :param via: the client's ``Via``: the caches that its request came through.
        :param no_cache: request it past the caches on the way, for a client that misses a key in it.
        """
        ...


@frozen
class _CachedSet:
    keys: KeySet
    fetched: float  # when it left the origin, by the ``Age`` of the caches on the way
    max_age: float


class OriginSigningKeys:
    """The keys from upstream, fetched when first needed. ``pseudonym`` names this cache in ``Via``."""

    _log = Logger()

    def __init__(self, registry: Registry, *, clock: Timer, pseudonym: str) -> None:
        self._registry = registry
        self._clock = clock
        self._via = append_via((), pseudonym)
        self._cached: _CachedSet | None = None
        self._refreshes: SingleFlight[str, None] = SingleFlight()
        self._requested_at = float("-inf")
        self._error: CacheError | None = None
        self._failed_at = float("-inf")
        self._fresh_until = float("-inf")
        self._usable_for = MAX_STALE
        self._looked_up_at = float("-inf")

    async def find(self, kid: str) -> VerificationKey:
        """The key with this ``kid`` (:class:`SigningKeys`)."""
        cached = await self._current()
        if kid in cached.keys.keys or kid in cached.keys.duplicates:
            return cached.keys.find(kid)
        await self._look_up()
        return (self._usable() or cached).keys.find(kid)

    def find_cached(self, kid: str) -> VerificationKey | None:
        """The key, if it is in a fresh set (:class:`SigningKeys`)."""
        cached = self._usable()
        if cached is None or self._clock.seconds() >= self._fresh_until:
            return None
        return None if kid in cached.keys.duplicates else cached.keys.keys.get(kid)

    async def published(self, *, via: str = "", no_cache: bool = False) -> Published:
        """The whole set (:class:`SigningKeys`)."""
        fresh = self._usable() if self._clock.seconds() < self._fresh_until else None
        if self._registry.may_lead_back(via) and (no_cache or fresh is None):
            cached = await self._fetch_alone(via, no_cache=no_cache)
        else:
            cached = await self._current()
            if no_cache:
                await self._look_up()
                cached = self._usable() or cached
        old = max(0.0, self._clock.seconds() - cached.fetched)
        document = encode_key_set(list(cached.keys.keys.values()))
        return Published(document, int(cached.max_age), int(old))

    async def _look_up(self) -> None:
        is_due = self._clock.seconds() - self._looked_up_at >= RETRY_PAUSE
        await self._wait_for_refresh(_LOOKUP_TIMEOUT, is_due=is_due, no_cache=True)

    async def _current(self) -> _CachedSet:
        """A set that is usable now."""
        now = self._clock.seconds()
        cached = self._usable()
        if cached is not None and now < self._fresh_until:
            return cached
        # Without keys every signed URL is refused: retry sooner, unless the origin says that it has none.
        pause = _FIRST_PAUSE if cached is None and not isinstance(self._error, NoKeys) else RETRY_PAUSE
        timeout = _FIRST_TIMEOUT if cached is None else _STALE_TIMEOUT
        await self._wait_for_refresh(timeout, is_due=now - self._failed_at >= pause)
        cached = self._usable()
        if cached is None:
            raise self._error or UpstreamTimeout("the origin's JWK set did not arrive in time")
        return cached

    def _usable(self) -> _CachedSet | None:
        cached = self._cached
        if cached is None or self._clock.seconds() - cached.fetched >= self._usable_for:
            return None
        return cached

    async def _wait_for_refresh(self, seconds: float, *, is_due: bool, no_cache: bool = False) -> None:
        """Wait for the running request, else for one that is started if it is due, until it is ``seconds`` old."""
        origin, now = self._registry.upstream.origin, self._clock.seconds()
        if origin not in self._refreshes:
            if not is_due:
                return
            self._requested_at = now
            if no_cache:
                self._looked_up_at = now
        left = self._requested_at + seconds - now
        if left > 0:
            refresh = self._refreshes.run(origin, partial(self._refresh, no_cache=no_cache))
            waiting = Deferred.fromCoroutine(refresh)
            await waiting.addTimeout(left, cast("Any", self._clock), onTimeoutCancel=lambda *_: None)

    async def _refresh(self, *, no_cache: bool) -> None:
        try:
            self._cached = cached = await self._fetch(self._via, no_cache=no_cache)
        except OriginRefused as refusal:
            self._on_refused(refusal)
        except (CacheError, InvalidJWKError) as error:
            self._on_failed(error)
        except Exception as error:  # noqa: BLE001  # waiters must be woken in any case
            self._log.failure("key set refresh failed", origin=self._registry.upstream.origin)
            self._on_failed(UpstreamBroken(type(error).__name__))
        else:
            self._error, self._failed_at, self._usable_for = None, float("-inf"), MAX_STALE
            self._fresh_until = max(cached.fetched + cached.max_age, self._clock.seconds() + _MIN_FRESHNESS)

    async def _fetch_alone(self, via: str, *, no_cache: bool) -> _CachedSet:
        """Fetch a set for one client only: in a loop of caches the shared request may wait for this one."""
        try:
            return await self._fetch(via, no_cache=no_cache)
        except OriginRefused as refusal:
            raise NoKeys("the origin publishes no JWK set at " + PATH) from refusal
        except InvalidJWKError as error:
            raise UpstreamBroken(f"the origin's JWK set is unusable: {error}") from error

    async def _fetch(self, via: str, *, no_cache: bool) -> _CachedSet:
        answer = await self._registry.ask(
            Request(
                "GET", PATH, self._registry.subject(None, ANONYMOUS), via=via, follow=False, no_cache=no_cache
            ),
            only=self._is_secure_enough,
        )
        if answer.status != _OK:
            answer.abandon()
            raise UpstreamBroken(
                f"{answer.host} answered {answer.status} to a request for the origin's JWK set"
            )
        return self._read(answer, await answer.read(LARGEST))

    def _read(self, answer: Answer, document: bytes) -> _CachedSet:
        keys = parse_key_set(document)
        for reason in keys.skipped:
            self._log.warn("key skipped", origin=self._registry.upstream.origin, reason=reason)
        old = age(answer.header("Age"))
        return _CachedSet(keys, self._clock.seconds() - old, max_age(answer.header("Cache-Control")))

    def _on_refused(self, refusal: OriginRefused) -> None:
        self._failed_at = self._clock.seconds()
        if refusal.status == 429:  # noqa: PLR2004  # later, perhaps
            self._error = UpstreamUnavailable("the origin is busy")
            return
        if self._cached is not None:
            self._log.warn(
                "key set removed by the origin",
                origin=self._registry.upstream.origin,
                status=refusal.status,
                old_keys_valid_for=f"{_USABLE_AFTER_REMOVAL:.0f}s",
            )
        self._usable_for = _USABLE_AFTER_REMOVAL
        self._error = NoKeys("the origin signs no URLs: it publishes no JWK set at " + PATH)

    def _on_failed(self, error: Exception) -> None:
        self._failed_at = self._clock.seconds()
        reason = str(error)
        self._error = (
            error
            if isinstance(error, CacheError)
            else UpstreamBroken(f"the origin's JWK set is unusable: {reason}")
        )
        self._log.warn("key set unavailable", origin=self._registry.upstream.origin, reason=reason)

    def _is_secure_enough(self, host: str) -> bool:
        upstream = self._registry.upstream
        return not (upstream.origin.startswith("https:") and host.startswith("http:"))


#: Seconds for which the next cache may cache the set.
_FILE_MAX_AGE: Final = 60


class SigningKeysFile:
    """
    The JWK set in the file at ``path``, read again when it changes; an invalid one then changes nothing.

    :raises AuthFault: the file cannot be used now.
    """

    def __init__(self, path: str, *, run: Run, timer: Timer) -> None:
        self._path = path
        self._file: WatchedFiles[tuple[KeySet, bytes]] = WatchedFiles(
            (path,), self._read, run=run, timer=timer
        )

    async def find(self, kid: str) -> VerificationKey:
        """The key with this ``kid`` (:class:`SigningKeys`)."""
        return (await self._file.current())[0].find(kid)

    def find_cached(self, kid: str) -> VerificationKey | None:
        """The same, if the file has been checked within a second."""
        current = self._file.at_hand()
        if current is None or kid in current[0].duplicates:
            return None
        return current[0].keys.get(kid)

    async def published(self, *, via: str = "", no_cache: bool = False) -> Published:  # noqa: ARG002  # nobody is asked
        """The whole set (:class:`SigningKeys`)."""
        return Published((await self._file.current())[1], _FILE_MAX_AGE, 0)

    def _read(self) -> tuple[KeySet, bytes]:
        try:
            keys = parse_key_set(read_file(self._path))
        except InvalidJWKError as error:
            raise AuthFault(self._path, f"{self._path} is not a JWK set: {error}") from None
        # Not the file itself: somebody may have left a private key in it.
        return keys, encode_key_set(list(keys.keys.values()))
