"""
Which caches serve what this gateway signs: each is probed every ten seconds, and again before a client is sent
to one that has not answered for a moment.

Rules:

* one failed probe makes a cache dead: so it fails no pull for longer than one round;
* two successful ones in a row make it alive again, so that an unstable one is left out; of a cache that was
  never probed before one is enough;
* a cache that was not probed yet is not alive: the gateway can always serve its blobs itself;
* a client is sent only where the last success is at most :data:`FRESH` seconds old. Where it is older the cache
  is probed first, once for all clients that come meanwhile (single-flight), and none waits for longer than
  :data:`LONGEST_WAIT`. A success that is half as old is renewed in the background;
* each gateway probes by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger

from contentcache.aio.fair_semaphore import FairSemaphore
from contentcache.aio.single_flight import SingleFlight
from contentcache.aio.tasks import DeadlineError, in_background, with_timeout
from contentcache.core.host_health import HostHealth
from contentcache.core.ports import Clock, DelayedCall, Run, Timer
from contentcache.gateway.directory import Cache, DirectoryStore
from contentcache.gateway.probe import ProbeError

#: How old the last success of a cache may be when a client is sent there, in seconds.
FRESH: Final = 2.0
#: How long a client waits for a probe, in seconds: then the gateway serves it.
LONGEST_WAIT: Final = 2.0
_SUCCESSES: Final = 2
_log = Logger()


#: Probes the cache at a host in bounded time; raises :class:`ProbeError` where it does not answer as it should.
Probe = Callable[[str], Awaitable[None]]


@frozen
class CacheState:
    """
    What is known of a cache. ``since`` is when it became so and ``probed`` when the last probe ended, both
    seconds since the epoch; ``why`` says what was wrong with that, ``None`` if nothing was.
    """

    alive: bool
    since: float
    probed: float
    why: str | None = None
    successes: int = 0

    def after(self, now: float, why: str | None) -> CacheState:
        """
        What is known after one more probe.

        >>> state = CacheState.first(0.0, None).after(10.0, "no answer").after(20.0, None)
        >>> state.alive, state.after(30.0, None).alive
        (False, True)
        """
        successes = 0 if why is not None else self.successes + 1
        alive = why is None and (self.alive or successes >= _SUCCESSES)
        since = self.since if alive == self.alive else now
        return evolve(self, alive=alive, since=since, probed=now, why=why, successes=successes)

    @classmethod
    def first(cls, now: float, why: str | None) -> CacheState:
        """What is known after the first probe."""
        return cls(why is None, now, now, why, 0 if why is not None else 1)


@frozen
class _Known:
    """
    What is known of the cache ``name`` at ``host``; the last success was at ``succeeded`` (monotonic seconds),
    which is ``last_success`` since the epoch, and took ``round_trip`` seconds.
    """

    name: str
    host: str
    state: CacheState
    succeeded: float
    last_success: float | None
    round_trip: float | None

    def health(self, interval: float) -> HostHealth:
        """The same as of any host; probes begin every ``interval`` seconds."""
        state = self.state
        next_try = None if state.alive else state.probed + interval
        return HostHealth(
            self.host, state.since, state.alive, state.why, self.last_success, next_try, self.round_trip
        )


class Liveness:
    """Probes every cache of the directory every ``interval`` seconds, ``concurrency`` at a time."""

    def __init__(
        self,
        store: DirectoryStore,
        probe: Probe,
        *,
        run: Run,
        timer: Timer,
        wall: Clock,
        interval: float = 10.0,
        concurrency: int = 16,
    ) -> None:
        self._store = store
        self._probe = probe
        self._run = run
        self._timer = timer
        self._wall = wall
        self._interval = interval
        self._semaphore: FairSemaphore[None] = FairSemaphore(concurrency)
        self._known: dict[UUID, _Known] = {}
        self._probes: SingleFlight[Cache, CacheState] = SingleFlight()
        self._running_probes: set[Deferred[str | None]] = set()
        self._listed: Sequence[Cache] = ()
        self._next: DelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._running = False
        self._stopped = False

    @property
    def states(self) -> Mapping[UUID, CacheState]:
        """What is known of each cache that was probed."""
        return {cache_id: known.state for cache_id, known in self._known.items()}

    @property
    def listed(self) -> Sequence[Cache]:
        """The caches of the last round."""
        return self._listed

    def hosts(self) -> Mapping[str, HostHealth]:
        """What is known of each cache that was probed, by its name."""
        return {known.name: known.health(self._interval) for known in self._known.values()}

    def health(self) -> Mapping[str, bool]:
        """Whether clients may be sent there, by the name of each cache that was probed."""
        return {name: host.healthy for name, host in self.hosts().items()}

    def is_alive(self, cache_id: UUID) -> bool:
        """Whether clients may be sent to a cache, if it answers now."""
        known = self._known.get(cache_id)
        return known is not None and known.state.alive

    async def is_answering(self, cache: Cache) -> bool:
        """Whether a client may be sent to a cache now. It may have to be probed first."""
        known = self._known.get(cache.id)
        if known is None or known.host != cache.host or not known.state.alive or self._stopped:
            return False
        age = self._timer.seconds() - known.succeeded
        if age <= FRESH:
            if age > FRESH / 2 and cache not in self._probes:
                in_background(self._renew(cache))
            return True
        try:
            return (await with_timeout(self._timer, LONGEST_WAIT, self.check(cache))).alive
        except DeadlineError:
            return False
        except CancelledError:
            if self._stopped:
                return False
            raise  # the client has left

    def start(self) -> None:
        """Probe all caches now, and then in rounds."""
        if not self._running:
            self._running = True
            self._start_round()

    def stop(self) -> None:
        """Probe no more, and cancel running probes."""
        self._running = False
        self._stopped = True
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._round is not None:
            self._round.cancel()
        for probe in list(self._running_probes):
            probe.cancel()

    async def check(self, cache: Cache) -> CacheState:
        """Probe one cache now, or wait for the running probe."""
        return await self._probes.run(cache, lambda: self._run_probe(cache))

    async def check_all(self) -> None:
        """Probe all caches once, and forget those that were removed."""
        try:
            self._listed = await self._run(self._store.caches)
        except OSError as error:
            # Those that are known are probed all the same.
            _log.warn("caches not listed, last ones checked", reason=error)
        self._forget_others(self._listed)
        looking = [Deferred.fromCoroutine(self._check_in_round(cache)) for cache in self._listed]
        await DeferredList(looking, consumeErrors=True)  # an error is a cancelled probe

    async def _check_in_round(self, cache: Cache) -> None:
        release = await self._semaphore.acquire(None)
        try:
            await self.check(cache)
        finally:
            release()

    async def _renew(self, cache: Cache) -> None:
        with suppress(CancelledError):  # stopped
            await self.check(cache)

    async def _run_probe(self, cache: Cache) -> CacheState:
        probe = Deferred.fromCoroutine(self._fault_of(cache))
        self._running_probes.add(probe)
        began = self._timer.seconds()
        try:
            why = await probe
            return self._note(cache, why, self._timer.seconds() - began)
        finally:
            self._running_probes.discard(probe)

    async def _fault_of(self, cache: Cache) -> str | None:
        """Return what is wrong with a cache; ``None`` if nothing is."""
        try:
            await self._probe(cache.host)
        except ProbeError as error:
            return str(error)
        except CancelledError:
            raise
        except Exception:  # noqa: BLE001  # a defect of the probe must not stop the others
            _log.failure("cache probe failed", cache=cache.name, host=cache.host)
            return "it could not be asked"
        return None

    def _start_round(self) -> None:
        due = self._timer.seconds() + self._interval
        self._round = Deferred.fromCoroutine(self.check_all())
        self._round.addErrback(
            lambda failure: _log.failure("cache check round failed", failure) if self._running else None
        )
        self._round.addCallback(lambda _none: self._schedule_round(due))

    def _schedule_round(self, due: float) -> None:
        self._round = None
        if self._running:
            self._next = self._timer.callLater(max(0.0, due - self._timer.seconds()), self._start_round)

    def _note(self, cache: Cache, why: str | None, took: float) -> CacheState:
        now = self._wall()
        before = self._known.get(cache.id)
        if before is not None and before.host != cache.host:
            before = None
        known = None if before is None else before.state
        state = CacheState.first(now, why) if known is None else known.after(now, why)
        succeeded = self._timer.seconds() if why is None else float("-inf")
        last, round_trip = (None, None) if before is None else (before.last_success, before.round_trip)
        if why is None:
            last, round_trip = now, took
        self._known[cache.id] = _Known(cache.name, cache.host, state, succeeded, last, round_trip)
        # Once for each state, and once more where another thing is wrong.
        if known is None or known.alive != state.alive or why not in {None, known.why}:
            if state.alive:
                _log.info("cache healthy", cache=cache.name, host=cache.host)
            else:
                _log.warn("cache unhealthy", cache=cache.name, host=cache.host, reason=why)
        return state

    def _forget_others(self, caches: Sequence[Cache]) -> None:
        for cache_id in self._known.keys() - {cache.id for cache in caches}:
            del self._known[cache_id]
