"""
One origin: its pool of hosts, rate limits, refusals.

* A 4xx of the registry is its answer, raised as :class:`OriginRefused` and passed on as it is;
* anything else that keeps an answer from coming makes the host unhealthy, and the next one is asked;
* a host that does not answer is probed, and not asked by every request
  (:mod:`contentcache.upstream.circuit_breaker`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from twisted.logger import Logger

from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.config.model import Upstream
from contentcache.core.credentials import Credential, Subject
from contentcache.core.errors import (
    CacheError,
    LoopDetected,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.header_policy import first, lines_of
from contentcache.core.live import Live
from contentcache.core.ports import Clock, Timer
from contentcache.core.retry_after import RateLimits, ratelimit_remaining, retry_after_seconds
from contentcache.core.what_passes import LONGEST_REFUSAL
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.account import AccountSource, NoTokenError
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.answers import Answer
from contentcache.upstream.circuit_breaker import CircuitBreaker
from contentcache.upstream.client import UpstreamClient, is_range_refusal
from contentcache.upstream.health import UpstreamHealth
from contentcache.upstream.pool import UpstreamPool
from contentcache.upstream.redirects import TargetFailed
from contentcache.upstream.request import Request, UpstreamLimits

#: Seconds in which the same warning is not repeated.
_QUIET: Final = 60.0
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429
#: The first status of a refusal, and of a failure.
_REFUSAL: Final = 400
_BROKEN: Final = 500


class Registry:
    """
    An origin.

    ``transports`` has one entry for each base URL of ``upstream.hosts`` and ``upstream.fallback``. ``source``
    knows the account that is not in the configuration. Times are monotonic seconds, but for ``wall``.
    """

    _log = Logger()

    def __init__(
        self,
        upstream: Upstream,
        transports: Mapping[str, UpstreamTransport],
        *,
        reactor: Timer,
        wall: Clock,
        secret: bytes,
        limits: Live[UpstreamLimits],
        per_host: SemaphorePerKey[str] | None = None,
        meter: Meter,
        source: AccountSource | None = None,
    ) -> None:
        self.upstream = upstream
        self._transports = transports
        self._reactor = reactor
        self._wall = wall
        self._secret = secret
        self._per_host: SemaphorePerKey[str] = per_host or SemaphorePerKey(None)
        self._meter = meter
        circuits = CircuitBreaker(self._probe, self._probe_failed)
        self._pool = UpstreamPool(upstream.hosts, upstream.fallback, circuits)
        self._rate_limits = RateLimits()
        self._warned = "", float("-inf")
        self._closed = False
        #: What operators are told of its hosts.
        self.upstream_health = UpstreamHealth(transports, self._pool, circuits, reactor, wall)
        self.client = UpstreamClient(
            upstream,
            transports,
            circuits,
            reactor=reactor,
            wall=wall,
            limits=limits,
            source=source,
        )
        self.behind = self.client.behind

    def configure(self, upstream: Upstream) -> None:
        """Use other options of the same origin from now on."""
        self.upstream = upstream
        self.client.configure(upstream)

    def close(self) -> None:
        """The daemon stops, and cuts its connections: what fails from now on says nothing of any host."""
        self._closed = True

    def subject(self, repository: str | None, credential: Credential) -> Subject:
        """Whom a decision of this origin is about."""
        return Subject.of(self._secret, self.upstream.origin, repository, credential)

    # Which host.

    def order(self, kind: str = "blobs") -> Sequence[str]:
        """The hosts to ask, in their order, for a request of this kind (:attr:`Request.kind`)."""
        return self._pool.order(kind, self._reactor.seconds())

    def failed(
        self,
        host: str,
        reason: str,
        kind: str = "blobs",
        began: int | None = None,
        *,
        repository: str | None = None,
        reference: str | None = None,
    ) -> None:
        """
        ``host`` has closed the connection early, stalled, or sent wrong bytes, for a request of this kind that
        was sent after event ``began`` of the pool, for a tag or a digest (``reference``) of a repository.
        """
        if self._closed or host not in self._transports:
            return
        self._meter.asked(host, "failed")
        now = self._reactor.seconds()
        known = self._pool.is_ejected(host, kind, now)
        seconds = self._pool.failed(host, kind, now, began)
        is_new = self.upstream_health.failed(host, reason)
        # Probes of a host that stays away say nothing new.
        if not known and (repository is not None or is_new):
            is_digest = ":" in (reference or "")
            self._log.warn(
                "upstream unhealthy",
                upstream=host,
                kind=kind,
                repository=repository,
                tag=None if is_digest else reference,
                digest=reference if is_digest else None,
                for_=f"{seconds:.0f}s",
                reason=reason,
            )

    def health(self) -> Sequence[tuple[str, bool]]:
        """Every host, and whether it is healthy: one that answers some kind of request is."""
        return [(known.host, known.healthy) for known in self.upstream_health.hosts()]

    def may_lead_back(self, via: str, host: str | None = None) -> bool:
        """
        Whether a request that is sent to ``host``, or to any host, with this ``Via`` may come back to a cache
        that it has passed: then it must not wait for what was asked in another one's name.
        """
        hosts = self._transports if host is None else (host,)
        return self.behind.may_lead_back(via, hosts)

    async def _probe(self, host: str) -> None:
        began = self._reactor.seconds()
        status = await self.client.probe(host)
        if status < _BROKEN:
            self.upstream_health.answered(host, began)
        else:
            self.upstream_health.failed_again(host, f"{host} answered {status}")

    def _probe_failed(self, host: str, kind: str, error: CacheError) -> None:
        self.failed(host, error.message, kind)

    # Asking.

    async def ask(self, request: Request, *, only: Callable[[str], bool] = lambda _host: True) -> Answer:
        """
        Ask the hosts in turn until one answers, ``only`` those that may be asked this.

        A host that has found a loop is healthy: the next one may lead elsewhere.

        :raises OriginRefused: a 4xx of the registry.
        :raises LoopDetected: every host has found a loop of caches.
        :raises UpstreamUnavailable: none can be reached.
        :raises UpstreamTimeout: the last one did not answer in time.
        :raises UpstreamBroken: the last one answered 5xx, or nonsense.
        """
        loop: LoopDetected | None = None
        error: CacheError | None = None
        for host in filter(only, self.order(request.kind)):
            try:
                return await self.ask_host(host, request)
            except LoopDetected as failure:
                loop = failure
            except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as failure:
                error = failure
        raise error or loop or UpstreamUnavailable("no upstream that may be asked this is configured")

    async def ask_host(self, host: str, request: Request) -> Answer:
        """
        Ask one host; a download waits for a permit of the host first, which its body then holds.

        Raises as :meth:`ask` does.
        """
        if not request.is_fetch or self.may_lead_back(request.via, host):
            # In a loop of caches those that hold the permits would wait for this request, and it for them.
            return await self._ask_host(host, request)
        release = await self._per_host.acquire(host)
        try:
            answer = await self._ask_host(host, request)
        except BaseException:
            release()
            raise
        return answer.then(release)

    async def _ask_host(self, host: str, request: Request) -> Answer:
        key = request.subject.identity
        limits = [key, _parallel_key(host)] if request.parallel else [key]
        for limited in limits:
            remaining = self._rate_limits.remaining(limited, self._reactor.seconds())
            if remaining is not None:
                raise _too_many(remaining)
        began, asked = self._pool.events, self._reactor.seconds()
        try:
            answer = await self.client.send(host, request)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            # The request was slow, while the host answers others of the same kind.
            slow = isinstance(error, UpstreamTimeout) and self._pool.has_answered(host, request.kind, began)
            if slow or isinstance(error, TargetFailed | NoTokenError):
                self._warn(error.message)
                self.upstream_health.failed_again(host, error.message)
            else:
                self.failed(
                    host,
                    error.message,
                    request.kind,
                    began,
                    repository=request.repository,
                    reference=request.reference,
                )
            raise
        self._meter.asked(host, str(answer.status))
        self._pool.answered(host, request.kind)
        self.upstream_health.answered(host, asked)
        remaining = ratelimit_remaining(answer.header("ratelimit-remaining"))
        if remaining is not None:
            self._meter.ratelimit_remaining(host, remaining)
        if answer.status < _REFUSAL or is_range_refusal(answer, request):
            return self._counted(answer, request.kind)
        raise await self._refusal(answer, request, key)

    def _counted(self, answer: Answer, kind: str) -> Answer:
        """Have the body counted, unless it is no content: pings, tokens and keys are not."""
        if kind == "other":
            return answer
        return answer.counted_by(self._meter.received_counter(self.upstream.origin, kind))

    def _warn(self, sentence: str) -> None:
        """Log what makes no host unhealthy, and not with every request."""
        if self._closed:
            return
        now = self._reactor.seconds()
        said, when = self._warned
        if sentence != said or now - when >= _QUIET:
            self._warned = sentence, now
            self._log.warn("upstream request failed", origin=self.upstream.origin, reason=sentence)

    async def _refusal(self, answer: Answer, request: Request, key: bytes) -> OriginRefused:
        signed = request.credential.signed
        headers = {
            name: value
            for name, value in answer.passed_headers().items()
            # Some servers quote the URL that was asked for.
            if signed is None or not any(signed in line for line in lines_of(value))
        }
        if answer.status == _TOO_MANY:
            seconds = retry_after_seconds(first(headers, "Retry-After"), self._wall())
            # Parallel ranges are not the client's own requests: their rate limit is not the client's.
            limited = _parallel_key(answer.host) if request.parallel else key
            self._rate_limits.limit(limited, self._reactor.seconds() + seconds)
            headers["Retry-After"] = str(round(seconds))
            self._log.warn(
                "rate limit of upstream reached",
                upstream=answer.host,
                repository=request.repository,
                retry_in=f"{seconds:.0f}s",
            )
        if answer.redirected:
            # No other host may ask for credentials in the registry's name.
            headers.pop("WWW-Authenticate", None)
        try:
            is_text = request.method == "GET" and answer.is_readable
            body = await answer.read(LONGEST_REFUSAL) if is_text else b""
        except (UpstreamBroken, UpstreamTimeout):
            body = b""  # the status and the headers say enough
        if not is_text:
            answer.abandon()
        if signed is not None:
            # A client that was redirected to us must not begin to authenticate here.
            headers.pop("WWW-Authenticate", None)
            if answer.status == _UNAUTHORIZED or signed.encode("ascii") in body:
                body = b""
        if answer.status == _UNAUTHORIZED and request.credential.has_password:
            self._log.warn(
                "password refused by upstream",
                upstream=answer.host,
                repository=request.repository,
                account="own" if request.credential.own else "client",
            )
        if answer.status == _UNAUTHORIZED and (request.credential.own or signed is not None):
            # The client cannot answer a challenge that was meant for the cache's account.
            headers.pop("WWW-Authenticate", None)
            return OriginRefused(_FORBIDDEN, headers, body)
        return OriginRefused(answer.status, headers, body)


def _parallel_key(host: str) -> bytes:
    return b"parallel " + host.encode()  # no key of a credential: those are hashes


def _too_many(seconds: float) -> OriginRefused:
    return OriginRefused(_TOO_MANY, {"Retry-After": str(max(1, round(seconds)))})
