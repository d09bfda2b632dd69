"""
Which caches serve what this gateway signs: each is asked every ten seconds, and again before a client is sent
to one that has not answered for a moment.

Rules:

* one failure makes a cache dead: so a dead cache fails no pull for longer than one round;
* two successes in a row make it alive again, so that one which comes and goes is left alone; of a cache that
  was never asked before one is enough;
* a cache that was not asked yet is not alive: to serve its blobs from here is always right;
* a client is sent only where the last answer is at most :data:`FRESH` seconds old. Where it is older the
  cache is asked first, once for all who come meanwhile (single-flight), and nobody waits for longer than
  :data:`LONGEST_WAIT`. An answer that is half as old is renewed without anybody waiting;
* each gateway finds out for itself, and needs nobody's word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol
from uuid import UUID

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from contentcache.aio.fair_semaphore import FairSemaphore
from contentcache.aio.single_flight import SingleFlight
from contentcache.aio.tasks import DeadlineError, in_background, with_timeout
from contentcache.core.ports import Clock, DelayedCall, Run, Timer
from contentcache.gateway.directory import Cache, Caches

#: How old the last answer of a cache may be when a client is sent there, in seconds.
FRESH: Final = 2.0
#: How long a client waits for a cache to be asked, in seconds: then its bytes come from here.
LONGEST_WAIT: Final = 2.0
_SUCCESSES: Final = 2
_log = Logger()


class NotAlive(Exception):
    """A cache does not answer as it should; one sentence for people, without what only the network knows."""


class Probe(Protocol):
    """Asks a cache whether it lives."""

    async def __call__(self, host: str, /) -> None:
        """
        Ask for what a client would be sent there for, in bounded time.

        :raises NotAlive: no answer, or one that would not have been of use to a client.
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
        """What is known after it was asked for the first time."""
        return cls(why is None, now, now, why, 0 if why is not None else 1)


@frozen
class _Known:
    """
    What is known of a cache at ``host``, which last answered as it should at ``answered`` (monotonic
    seconds).
    """

    host: str
    state: State
    answered: float


class Liveness:
    """Asks every cache of the directory, ``at_once`` at a time, every ``interval`` seconds."""

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
        self._semaphore: FairSemaphore[None] = FairSemaphore(at_once)
        self._known: dict[UUID, _Known] = {}
        self._probes: SingleFlight[Cache, State] = SingleFlight()
        self._running_probes: set[Deferred[str | None]] = set()
        self._listed: Sequence[Cache] = ()
        self._next: DelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._running = False
        self._stopped = False

    @property
    def states(self) -> Mapping[UUID, State]:
        """What is known of each cache; one that was not asked yet is not there."""
        return {cache_id: known.state for cache_id, known in self._known.items()}

    def is_alive(self, cache_id: UUID) -> bool:
        """Whether clients may be sent there, if it answers."""
        known = self._known.get(cache_id)
        return known is not None and known.state.alive

    async def is_answering(self, cache: Cache) -> bool:
        """Whether a client may be sent there now. It may have to be asked first."""
        known = self._known.get(cache.id)
        if known is None or known.host != cache.host or not known.state.alive or self._stopped:
            return False
        age = self._timer.seconds() - known.answered
        if age <= FRESH:
            if age > FRESH / 2 and cache not in self._probes:
                in_background(self._renew(cache))
            return True
        try:
            return (await with_timeout(self._timer, LONGEST_WAIT, self.look_at(cache))).alive
        except DeadlineError:
            return False
        except CancelledError:
            if self._stopped:
                return False
            raise  # the client has left

    def start(self) -> None:
        """Ask all now, and then again and again."""
        if not self._running:
            self._running = True
            self._begin()

    def stop(self) -> None:
        """Ask nobody any more; questions under way are given up."""
        self._running = False
        self._stopped = True
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._round is not None:
            self._round.cancel()
        for probe in list(self._running_probes):
            probe.cancel()

    async def look_at(self, cache: Cache) -> State:
        """Ask one cache now, or wait for the question that is under way."""
        return await self._probes.run(cache, lambda: self._find_out(cache))

    async def look_at_all(self) -> None:
        """Ask all caches once, and forget those that are gone."""
        try:
            self._listed = await self._run(self._caches.caches)
        except OSError as error:
            # They are still there, whatever has become of the database.
            _log.warn("caches not listed, last ones checked", reason=error)
        self._forget_others(self._listed)
        looking = [Deferred.fromCoroutine(self._look_at_with_permit(cache)) for cache in self._listed]
        await DeferredList(looking, consumeErrors=True)  # an error is one who has been told to stop

    async def _look_at_with_permit(self, cache: Cache) -> None:
        release = await self._semaphore.acquire(None)
        try:
            await self.look_at(cache)
        finally:
            release()

    async def _renew(self, cache: Cache) -> None:
        with suppress(CancelledError):  # we have been stopped
            await self.look_at(cache)

    async def _find_out(self, cache: Cache) -> State:
        probe = Deferred.fromCoroutine(self._why_not(cache))
        self._running_probes.add(probe)
        try:
            return self._note(cache, await probe)
        finally:
            self._running_probes.discard(probe)

    async def _why_not(self, cache: Cache) -> str | None:
        """What is wrong with a cache; ``None`` if nothing is."""
        try:
            await self._probe(cache.host)
        except NotAlive as error:
            return str(error)
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  # a defect of the probe must not stop the others
            _log.failure("cache probe failed", cache=cache.name, host=cache.host)
            return "it could not be asked"
        return None

    def _begin(self) -> None:
        due = self._timer.seconds() + self._interval
        self._round = Deferred.fromCoroutine(self.look_at_all())
        self._round.addErrback(
            lambda failure: _log.failure("cache check round failed", failure) if self._running else None
        )
        self._round.addCallback(lambda _none: self._wait(due))

    def _wait(self, due: float) -> None:
        self._round = None
        if self._running:
            self._next = self._timer.callLater(max(0.0, due - self._timer.seconds()), self._begin)

    def _note(self, cache: Cache, why: str | None) -> State:
        now = self._wall()
        before = self._known.get(cache.id)
        known = before.state if before is not None and before.host == cache.host else None
        state = State.first(now, why) if known is None else known.after(now, why)
        answered = self._timer.seconds() if why is None else float("-inf")
        self._known[cache.id] = _Known(cache.host, state, answered)
        # Once for each state, and once more where another thing is wrong.
        if known is None or known.alive != state.alive or why not in {None, known.why}:
            if state.alive:
                _log.info("cache healthy", cache=cache.name, host=cache.host)
            else:
                _log.info("cache unhealthy", cache=cache.name, host=cache.host, reason=why)
        return state

    def _forget_others(self, caches: Sequence[Cache]) -> None:
        for cache_id in self._known.keys() - {cache.id for cache in caches}:
            del self._known[cache_id]
