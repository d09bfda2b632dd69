"""
The keys that sign URLs for one origin: its JWK set, asked of the next hop, kept, and served on.

Rules:

* the set comes from ``/.well-known/contentcache/jwks.json`` of the hosts that contents come from too, so that
  the keys of a chain travel as its contents do; those of an ``https`` origin never over plain HTTP;
* it is good for as long as its ``Cache-Control`` says, and while upstream is away for up to a day;
* a key that is not in it may be in a newer one: it is looked up again at most every ten seconds, for
  whichever names strangers make up;
* an origin that says that it has no set has no keys.
"""

from __future__ import annotations

from typing import Final, Protocol
from urllib.parse import quote

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.core.credentials import ANONYMOUS
from contentcache.core.errors import (
    CacheError,
    OriginRefused,
    SignatureRefused,
    UpstreamBroken,
    UpstreamUnavailable,
)
from contentcache.core.freshness import age, max_age
from contentcache.core.jwks import JwksFaulty, KeySet, VerifyingKey, parse_jwks
from contentcache.core.ports import Timer
from contentcache.core.via import added
from contentcache.delivery.tasks import in_background
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
#: Keys that were good a moment ago wait so many seconds for newer ones, and then serve.
_PATIENCE: Final = 2.0
#: An answer that must not be kept is, for so many seconds: else each request would cost a question.
_SHORTEST_AGE: Final = 1.0
_OK: Final = 200


class NoKeys(SignatureRefused):
    """The origin shows no keys, so nobody can have signed anything."""


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

    async def find(self, kid: str) -> VerifyingKey:
        """
        The key of that name.

        :raises KeyUnknown, NoKeys: there is no such key.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: nobody can be asked, and none are known.
        """
        ...

    async def published(self) -> Published:
        """
        The whole set. Raises as :meth:`find` does.
        """
        ...


@frozen
class _Kept:
    keys: KeySet
    document: bytes
    fetched: float  # when it left the origin, as far as the caches on the way tell
    max_age: float


class KeysOfOrigin:
    """
    Asks for the set when it is first needed. ``pseudonym`` names this cache in ``Via``; ``several`` says that
    the next hop has to be told which origin is meant.
    """

    _log = Logger()

    def __init__(self, registry: Registry, *, clock: Timer, pseudonym: str, several: bool) -> None:
        self._registry = registry
        self._clock = clock
        self._via = added((), pseudonym)
        issuer = registry.upstream.issuer
        # Only a cache knows the parameter; the origin itself may be a plain server of files.
        tells = several and issuer is not None and registry.upstream.origin not in registry.upstream.hosts
        self._query = f"?iss={quote(issuer or '', safe='')}" if tells else ""
        self._kept: _Kept | None = None
        self._waiting: list[Deferred[None]] | None = None
        self._error: CacheError | None = None
        self._failed_at = float("-inf")
        self._fresh_until = float("-inf")
        self._looked_up_at = float("-inf")

    async def find(self, kid: str) -> VerifyingKey:
        """The key of that name (:class:`SigningKeys`)."""
        kept = await self._current()
        if kid in kept.keys.keys or kid in kept.keys.doubled:
            return kept.keys.find(kid)
        now = self._clock.seconds()
        if self._waiting is None and now - self._looked_up_at >= PAUSE:
            self._looked_up_at = now
            self._start()
        await self._refreshed()
        return (self._usable() or kept).keys.find(kid)

    async def published(self) -> Published:
        """The whole set (:class:`SigningKeys`)."""
        kept = await self._current()
        old = max(0.0, self._clock.seconds() - kept.fetched)
        return Published(kept.document, int(kept.max_age), int(old))

    async def _current(self) -> _Kept:
        """
        A set that may be used now.
        """
        now = self._clock.seconds()
        kept = self._usable()
        if kept is not None and now < self._fresh_until:
            return kept
        if self._waiting is None and now - self._failed_at >= PAUSE:
            self._start()
        await self._refreshed(None if kept is None else _PATIENCE)
        kept = self._usable()
        if kept is None:
            raise self._error or UpstreamUnavailable("the origin's keys cannot be had")
        return kept

    def _usable(self) -> _Kept | None:
        kept = self._kept
        if kept is None or self._clock.seconds() - kept.fetched >= LONGEST_KEPT:
            return None
        return kept

    def _start(self) -> None:
        self._waiting = []
        # Nobody's own: a client that hangs up must not take the answer from those who wait for it too.
        in_background(self._refresh())

    async def _refreshed(self, patience: float | None = None) -> None:
        """
        Wait for the question that is under way, if one is.
        """
        if self._waiting is None:
            return
        mine: Deferred[None] = Deferred()
        self._waiting.append(mine)
        timer = None
        if patience is not None:
            timer = self._clock.callLater(patience, _release, mine)
        try:
            await mine
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    async def _refresh(self) -> None:
        try:
            self._kept = kept = await self._ask()
        except OriginRefused as refusal:
            self._hear_no(refusal)
        except (CacheError, JwksFaulty) as error:
            self._hear_nothing(error)
        except Exception as error:  # noqa: BLE001  # who waits must not wait for ever
            self._log.failure("the keys of {origin} cannot be read", origin=self._registry.upstream.origin)
            self._hear_nothing(UpstreamBroken(type(error).__name__))
        else:
            self._error, self._failed_at = None, float("-inf")
            self._fresh_until = max(kept.fetched + kept.max_age, self._clock.seconds() + _SHORTEST_AGE)
        waiting, self._waiting = self._waiting or [], None
        for each in waiting:
            _release(each)

    async def _ask(self) -> _Kept:
        answer = await self._registry.ask(
            Request("GET", PATH + self._query, ANONYMOUS, via=self._via, follow=False),
            only=self._may_tell,
        )
        if answer.status != _OK:
            answer.abandon()
            raise UpstreamBroken(
                f"{answer.host} answered {answer.status} when asked for the keys of the origin"
            )
        return self._read(answer, await answer.read(LARGEST))

    def _read(self, answer: Answer, document: bytes) -> _Kept:
        keys = parse_jwks(document)
        for reason in keys.passed_over:
            self._log.warn(
                "a key of {origin} is of no use: {why}", origin=self._registry.upstream.origin, why=reason
            )
        old = age(answer.header("Age"))
        return _Kept(keys, document, self._clock.seconds() - old, max_age(answer.header("Cache-Control")))

    def _hear_no(self, refusal: OriginRefused) -> None:
        self._failed_at = self._clock.seconds()
        if refusal.status == 429:  # noqa: PLR2004  # later, perhaps
            self._error = UpstreamUnavailable("the origin is busy")
            return
        if self._kept is not None:
            self._log.warn("{origin} shows no keys any more", origin=self._registry.upstream.origin)
        self._kept = None
        self._error = NoKeys("the origin signs no URLs: it has no keys at " + PATH)

    def _hear_nothing(self, error: Exception) -> None:
        self._failed_at = self._clock.seconds()
        told = str(error)
        self._error = (
            error if isinstance(error, CacheError) else UpstreamBroken(f"its keys cannot be read: {told}")
        )
        self._log.warn(
            "the keys of {origin} cannot be had: {error}", origin=self._registry.upstream.origin, error=told
        )

    def _may_tell(self, host: str) -> bool:
        upstream = self._registry.upstream
        return not (upstream.origin.startswith("https:") and host.startswith("http:"))


def _release(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)
