"""
Requests to a host that did not answer wait for one cheap probe, and not each for its own timeout.

There is a circuit for each host and kind of request (manifests, blobs, tags, …). It opens when a request of
that kind got no response header, and the host answered nothing else in the meantime. While it is open,
requests of that kind wait for a half-open probe: a request of our own that every registry answers at once. So
neither a slow kind of request nor a client with a slow request makes others wait or fail; and a host that is
down costs a timeout once for each kind, and not once for each request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable

T = TypeVar("T")

#: A host and a kind of request.
Circuit: TypeAlias = tuple[str, str]

_SILENCE: Final = (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken)


class CircuitBreaker:
    """
    The circuits of one upstream.

    ``probe(host)`` returns once ``host`` has sent any response header, and raises :class:`CacheError` where
    it did not. ``failed(host, kind, error)`` is called for a probe that failed.
    """

    _log = Logger()

    def __init__(
        self, probe: Callable[[str], Awaitable[None]], failed: Callable[[str, str, CacheError], None]
    ) -> None:
        self._send_probe = probe
        self._failed = failed
        self._open: set[Circuit] = set()
        self._waiters: dict[Circuit, list[Deferred[None]]] = {}
        self._count = 0
        self._answered: dict[str, int] = {}

    def is_open(self, host: str, kind: str) -> bool:
        """Whether requests of this kind wait for a probe."""
        return (host, kind) in self._open

    def is_suspect(self, host: str) -> bool:
        """Whether requests of any kind wait for a probe: the host has answered nothing since."""
        return any(circuit[0] == host for circuit in self._open)

    async def run(self, host: str, kind: str, call: Callable[[Callable[[], None]], Awaitable[T]]) -> T:
        """
        Await ``call(heard)``, which calls ``heard`` as soon as ``host`` has answered.

        :raises CacheError: what ``call`` raises, or the probe that this request has waited for.
        """
        if self.is_open(host, kind):
            await self._until_probed(host, kind)
        began = self._count
        try:
            return await call(lambda: self.answered(host))
        except _SILENCE:
            if self._answered.get(host, 0) <= began:
                self._open.add((host, kind))
            raise

    def answered(self, host: str) -> None:
        """``host`` has sent a response header, whatever it says: no kind of request need wait for a probe."""
        self._count += 1
        self._answered[host] = self._count
        for circuit in sorted(circuit for circuit in self._open if circuit[0] == host):
            self._open.discard(circuit)
            self._notify(circuit, None)

    def probe(self, host: str, kind: str) -> None:
        """Send a probe, unless one is under way."""
        self._subscribe((host, kind), [])

    async def _until_probed(self, host: str, kind: str) -> None:
        # The probe belongs to no client: one that disconnects ends only its own waiting.
        circuit = (host, kind)
        waiting: Deferred[None] = Deferred(lambda mine: self._unsubscribe(circuit, mine))
        self._subscribe(circuit, [waiting])
        await waiting

    def _subscribe(self, circuit: Circuit, waiting: list[Deferred[None]]) -> None:
        waiters = self._waiters.get(circuit)
        if waiters is not None:
            waiters += waiting
            return
        self._waiters[circuit] = waiting
        Deferred.fromCoroutine(self._run(circuit, waiting)).addErrback(
            lambda failure: self._log.failure(
                "upstream probe failed", failure, upstream=circuit[0], kind=circuit[1]
            )
        )

    async def _run(self, circuit: Circuit, waiters: list[Deferred[None]]) -> None:
        host, kind = circuit
        try:
            await self._send_probe(host)
        except CacheError as error:
            if self._waiters.get(circuit) is waiters:  # else something else was answered in the meantime
                self._failed(host, kind, error)
                self._notify(circuit, error)
        except Exception:
            self._notify(circuit, UpstreamUnavailable(f"{host} could not be probed"))
            raise
        else:
            self.answered(host)

    def _unsubscribe(self, circuit: Circuit, waiting: Deferred[None]) -> None:
        waiters = self._waiters.get(circuit, [])
        if waiting in waiters:
            waiters.remove(waiting)

    def _notify(self, circuit: Circuit, error: CacheError | None) -> None:
        waiters = self._waiters.pop(circuit, [])
        while waiters:  # a waiter that is notified may cancel another one
            waiting = waiters.pop(0)
            if error is None:
                waiting.callback(None)
            else:
                # Each gets its own: an exception that several coroutines raise collects all their tracebacks.
                waiting.errback(type(error)(error.message, detail=error.detail, headers=error.headers))
