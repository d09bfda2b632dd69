"""
The keys that sign URLs for one origin: its JWK set, asked of the next hop, kept, and served on.

Rules:

* the set comes from ``/.well-known/contentcache/jwks.json`` of the hosts that contents come from too, so that
  the keys of a chain travel as its contents do; those of an ``https`` origin never over plain HTTP;
* it is good for as long as its ``Cache-Control`` says, and while upstream is away for up to a day;
* a key that is not in it may be in a newer one: it is looked up again, past the sets that the caches on
  the way have kept, at most every ten seconds, for whichever names strangers make up;
* an origin that says that it has no set has none. It is believed at once where no keys are known, else after
  ten minutes: to take keys back, an origin shows a set without them;
* what is served on are the public parts of keys that are of use, and nothing else of a document.
"""

from __future__ import annotations

from typing import Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import (
    CacheError,
    OriginRefused,
    SignatureRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.freshness import age, max_age
from contentcache.core.ports import Timer
from contentcache.core.via import added
from contentcache.delivery.tasks import in_background
from contentcache.jose.jwk import InvalidJWKError
from contentcache.jose.keyset import KeySet, VerificationKey, encode_key_set, parse_key_set
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

#: Where an origin, and each cache before it, has its keys.
PATH: Final = "/.well-known/contentcache/jwks.json"
LARGEST: Final = 64 << 10
#: For so many seconds keys are believed while nobody can be asked.
LONGEST_KEPT: Final = 86400.0
#: So many seconds pass between two questions for a key that is not in the set, and after one that failed.
PAUSE: Final = 10.0
#: The same while no keys are known at all.
_SHORT_PAUSE: Final = 1.0
#: For so many seconds keys are believed once their origin says that it has no set.
_KEPT_WITHOUT: Final = 600.0
#: A question is waited for until it is so many seconds old: by those who have keys that were good a moment
#: ago, by those who miss one, and by those who have none.
_PATIENCE: Final = 2.0
_LONGEST_LOOKUP: Final = 5.0
_LONGEST_WAIT: Final = 10.0
#: An answer that must not be kept is, for so many seconds: else each request would cost a question.
_SHORTEST_AGE: Final = 1.0
_OK: Final = 200


class NoKeys(SignatureRefused):
    """The origin publishes no JWK set, so no signature of it can be verified."""


@frozen
class Published:
    """
    A set as the next cache may have it; ``max_age`` and ``age`` in seconds.
    """

    document: bytes
    max_age: int
    age: int


class SigningKeys(Protocol):
    """
    The keys of one origin.
    """

    async def find(self, kid: str) -> VerificationKey:
        """
        The key with this ``kid``.

        :raises UnknownKeyError, NoKeys: there is no such key.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: nobody can be asked, and none are known.
        """
        ...

    def at_hand(self, kid: str) -> VerificationKey | None:
        """
        The key that :meth:`find` would answer at once; ``None`` where it would wait for somebody, or raise.
        """
        ...

    async def published(self, *, via: str = "", anew: bool = False) -> Published:
        """
        The whole set; ``anew`` for somebody who misses a key in it, ``via`` for one whose request came
        through other caches. Raises as :meth:`find` does.
        """
        ...


@frozen
class _Kept:
    keys: KeySet
    fetched: float  # when it left the origin, as far as the caches on the way tell
    max_age: float


class KeysOfOrigin:
    """
    Asks for the set when it is first needed. ``pseudonym`` names this cache in ``Via``.
    """

    _log = Logger()

    def __init__(self, registry: Registry, *, clock: Timer, pseudonym: str) -> None:
        self._registry = registry
        self._clock = clock
        self._via = added((), pseudonym)
        self._kept: _Kept | None = None
        self._waiting: list[Deferred[None]] | None = None
        self._asked_at = float("-inf")
        self._error: CacheError | None = None
        self._failed_at = float("-inf")
        self._fresh_until = float("-inf")
        self._longest_kept = LONGEST_KEPT
        self._looked_up_at = float("-inf")

    async def find(self, kid: str) -> VerificationKey:
        """The key of that name (:class:`SigningKeys`)."""
        kept = await self._current()
        if kid in kept.keys.keys or kid in kept.keys.duplicates:
            return kept.keys.find(kid)
        await self._look_again()
        return (self._usable() or kept).keys.find(kid)

    def at_hand(self, kid: str) -> VerificationKey | None:
        """The key, if it is in a set that may be used now (:class:`SigningKeys`)."""
        kept = self._usable()
        if kept is None or self._clock.seconds() >= self._fresh_until:
            return None
        return None if kid in kept.keys.duplicates else kept.keys.keys.get(kid)

    async def published(self, *, via: str = "", anew: bool = False) -> Published:
        """The whole set (:class:`SigningKeys`)."""
        fresh = self._usable() if self._clock.seconds() < self._fresh_until else None
        if self._registry.may_lead_back(via) and (anew or fresh is None):
            kept = await self._ask_alone(via, anew=anew)
        else:
            kept = await self._current()
            if anew:
                await self._look_again()
                kept = self._usable() or kept
        old = max(0.0, self._clock.seconds() - kept.fetched)
        document = encode_key_set(list(kept.keys.keys.values()))
        return Published(document, int(kept.max_age), int(old))

    async def _look_again(self) -> None:
        now = self._clock.seconds()
        if self._waiting is None and now - self._looked_up_at >= PAUSE:
            self._looked_up_at = now
            self._start(anew=True)
        await self._refreshed(_LONGEST_LOOKUP)

    async def _current(self) -> _Kept:
        """
        A set that may be used now.
        """
        now = self._clock.seconds()
        kept = self._usable()
        if kept is not None and now < self._fresh_until:
            return kept
        # While nobody can be let in, it is tried more often; but not because strangers make names up.
        pause = _SHORT_PAUSE if kept is None and not isinstance(self._error, NoKeys) else PAUSE
        if self._waiting is None and now - self._failed_at >= pause:
            self._start()
        await self._refreshed(_LONGEST_WAIT if kept is None else _PATIENCE)
        kept = self._usable()
        if kept is None:
            raise self._error or UpstreamTimeout("the origin's JWK set did not arrive in time")
        return kept

    def _usable(self) -> _Kept | None:
        kept = self._kept
        if kept is None or self._clock.seconds() - kept.fetched >= self._longest_kept:
            return None
        return kept

    def _start(self, *, anew: bool = False) -> None:
        self._waiting = []
        self._asked_at = self._clock.seconds()
        # Nobody's own: a client that hangs up must not take the answer from those who wait for it too.
        in_background(self._refresh(anew=anew))

    async def _refreshed(self, patience: float) -> None:
        """
        Wait for the question that is under way, if one is, until it is ``patience`` seconds old.
        """
        left = self._asked_at + patience - self._clock.seconds()
        if self._waiting is None or left <= 0:
            return
        mine: Deferred[None] = Deferred()
        self._waiting.append(mine)
        timer = self._clock.callLater(left, _release, mine)
        try:
            await mine
        finally:
            if timer.active():
                timer.cancel()

    async def _refresh(self, *, anew: bool) -> None:
        try:
            self._kept = kept = await self._ask(self._via, anew=anew)
        except OriginRefused as refusal:
            self._hear_no(refusal)
        except (CacheError, InvalidJWKError) as error:
            self._hear_nothing(error)
        except Exception as error:  # noqa: BLE001  # who waits must not wait for ever
            self._log.failure("key set refresh failed origin={origin}", origin=self._registry.upstream.origin)
            self._hear_nothing(UpstreamBroken(type(error).__name__))
        else:
            self._error, self._failed_at, self._longest_kept = None, float("-inf"), LONGEST_KEPT
            self._fresh_until = max(kept.fetched + kept.max_age, self._clock.seconds() + _SHORTEST_AGE)
        waiting, self._waiting = self._waiting or [], None
        for each in waiting:
            _release(each)

    async def _ask_alone(self, via: str, *, anew: bool) -> _Kept:
        """
        Ask for one request only: in a loop of caches the shared question may be waiting for this request.
        """
        try:
            return await self._ask(via, anew=anew)
        except OriginRefused as refusal:
            raise NoKeys("the origin publishes no JWK set at " + PATH) from refusal
        except InvalidJWKError as error:
            raise UpstreamBroken(f"the origin's JWK set is unusable: {error}") from error

    async def _ask(self, via: str, *, anew: bool) -> _Kept:
        answer = await self._registry.ask(
            Request("GET", PATH, ANONYMOUS, via=via, follow=False, anew=anew),
            only=self._may_tell,
        )
        if answer.status != _OK:
            answer.abandon()
            raise UpstreamBroken(
                f"{answer.host} answered {answer.status} to a request for the origin's JWK set"
            )
        return self._read(answer, await answer.read(LARGEST))

    def _read(self, answer: Answer, document: bytes) -> _Kept:
        keys = parse_key_set(document)
        for reason in keys.skipped:
            self._log.warn(
                'key skipped origin={origin} reason="{reason}"',
                origin=self._registry.upstream.origin,
                reason=reason,
            )
        old = age(answer.header("Age"))
        return _Kept(keys, self._clock.seconds() - old, max_age(answer.header("Cache-Control")))

    def _hear_no(self, refusal: OriginRefused) -> None:
        self._failed_at = self._clock.seconds()
        if refusal.status == 429:  # noqa: PLR2004  # later, perhaps
            self._error = UpstreamUnavailable("the origin is busy")
            return
        if self._kept is not None:
            self._log.warn(
                "key set removed by the origin origin={origin} status={status} old_keys_valid_for={seconds}s",
                origin=self._registry.upstream.origin,
                status=refusal.status,
                seconds=int(_KEPT_WITHOUT),
            )
        self._longest_kept = _KEPT_WITHOUT
        self._error = NoKeys("the origin signs no URLs: it publishes no JWK set at " + PATH)

    def _hear_nothing(self, error: Exception) -> None:
        self._failed_at = self._clock.seconds()
        told = str(error)
        self._error = (
            error
            if isinstance(error, CacheError)
            else UpstreamBroken(f"the origin's JWK set is unusable: {told}")
        )
        self._log.warn(
            'key set unavailable origin={origin} reason="{reason}"',
            origin=self._registry.upstream.origin,
            reason=told,
        )

    def _may_tell(self, host: str) -> bool:
        upstream = self._registry.upstream
        return not (upstream.origin.startswith("https:") and host.startswith("http:"))


def _release(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)
