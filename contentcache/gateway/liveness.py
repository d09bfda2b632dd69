"""
Which caches are alive: each is asked for ``/`` every ten seconds.

Rules:

* one failure makes a cache dead: so a dead cache fails no pull for longer than one round;
* two successes in a row make it alive again, so that one which comes and goes is left alone; of a cache that
  was never asked before one is enough;
* a cache that was not asked yet is not alive: to serve its blobs from here is always right;
* each gateway finds out for itself, and needs nobody's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger

from contentcache.core.ports import Clock, DelayedCall, Run, Timer
from contentcache.gateway.directory import Cache, Caches

_SUCCESSES: Final = 2
_log = Logger()


class NotAlive(Exception):
    """
    A cache does not answer as it should; one sentence for people, without what only the network knows.
    """


class Probe(Protocol):
    """
    Asks a cache whether it lives.
    """

    async def __call__(self, host: str, /) -> None:
        """
        ``GET /`` there, in bounded time.

        :raises NotAlive: no answer, or one that is no success.
        """


@frozen
class State:
    """
    What is known of a cache. ``since`` is when it became so and ``asked`` when it last answered or failed
    to, both seconds since the epoch; ``why`` says what was wrong when it was last asked.
    """

    alive: bool
    since: float
    asked: float
    why: str | None = None
    successes: int = 0

    def after(self, now: float, why: str | None) -> State:
        """
        What is known after it was asked once more; ``why`` is ``None`` if all was well.

        >>> state = State.first(0.0, None).after(10.0, "no answer").after(20.0, None)
        >>> state.alive, state.after(30.0, None).alive
        (False, True)
        """
        successes = 0 if why is not None else self.successes + 1
        alive = why is None and (self.alive or successes >= _SUCCESSES)
        since = self.since if alive == self.alive else now
        return evolve(self, alive=alive, since=since, asked=now, why=why, successes=successes)

    @classmethod
    def first(cls, now: float, why: str | None) -> State:
        """
        What is known after it was asked for the first time.
        """
        return cls(why is None, now, now, why, 0 if why is not None else 1)


class Liveness:
    """
    Asks every cache of the directory, ``at_once`` at a time, every ``interval`` seconds.
    """

    def __init__(
        self,
        caches: Caches,
        probe: Probe,
        *,
        run: Run,
        timer: Timer,
        wall: Clock,
        interval: float = 10.0,
        at_once: int = 16,
    ) -> None:
        self._caches = caches
        self._probe = probe
        self._run = run
        self._timer = timer
        self._wall = wall
        self._interval = interval
        self._turns = DeferredSemaphore(at_once)
        self._states: dict[UUID, tuple[str, State]] = {}
        self._next: DelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._running = False

    @property
    def states(self) -> Mapping[UUID, State]:
        """What is known of each cache; one that was not asked yet is not there."""
        return {cache_id: state for cache_id, (_host, state) in self._states.items()}

    def is_alive(self, cache_id: UUID) -> bool:
        """Whether clients may be sent there."""
        known = self._states.get(cache_id)
        return known is not None and known[1].alive

    def start(self) -> None:
        """Ask all now, and then again and again."""
        if not self._running:
            self._running = True
            self._begin()

    def stop(self) -> None:
        """Ask nobody any more; questions under way are given up."""
        self._running = False
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._round is not None:
            self._round.cancel()

    async def look_at(self, cache: Cache) -> State:
        """Ask one cache now."""
        why = None
        try:
            await self._probe(cache.host)
        except NotAlive as error:
            why = str(error)
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  # a defect of the probe must not stop the others
            _log.failure("a cache could not be asked")
            why = "it could not be asked"
        return self._note(cache, why)

    async def look_at_all(self) -> None:
        """Ask all caches once, and forget those that are gone."""
        try:
            caches = await self._run(self._caches.caches)
        except OSError as error:
            # What was known stays: the caches are still there, whatever has become of the database.
            _log.warn("the caches cannot be listed: {error}", error=str(error))
            return
        self._forget_others(caches)
        looking = [self._turns.run(self._look, cache) for cache in caches]
        await DeferredList(looking, consumeErrors=True)  # an error is one who has been told to stop

    def _look(self, cache: Cache) -> Deferred[State]:
        return Deferred.fromCoroutine(self.look_at(cache))

    def _begin(self) -> None:
        due = self._timer.seconds() + self._interval
        self._round = Deferred.fromCoroutine(self.look_at_all())
        self._round.addErrback(
            lambda failure: (
                _log.failure("a round of checks failed", failure=failure) if self._running else None
            )
        )
        self._round.addCallback(lambda _none: self._wait(due))

    def _wait(self, due: float) -> None:
        self._round = None
        if self._running:
            self._next = self._timer.callLater(max(0.0, due - self._timer.seconds()), self._begin)

    def _note(self, cache: Cache, why: str | None) -> State:
        now = self._wall()
        host, known = self._states.get(cache.id, (None, None))
        state = State.first(now, why) if known is None or host != cache.host else known.after(now, why)
        self._states[cache.id] = (cache.host, state)
        if known is None or known.alive != state.alive:
            _log.info(
                "the cache {name} at {host} is {state}{why}",
                name=cache.name,
                host=cache.host,
                state="alive" if state.alive else "dead",
                why="" if why is None else f": {why}",
            )
        return state

    def _forget_others(self, caches: Sequence[Cache]) -> None:
        for cache_id in self._states.keys() - {cache.id for cache in caches}:
            del self._states[cache_id]
