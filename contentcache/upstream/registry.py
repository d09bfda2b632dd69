"""
One origin as the rest of the house sees it: several hosts as one, the cache's account, patience.

What the registry itself says is told apart from what happens on the way:

* a 4xx of the registry is its word, raised as :class:`OriginRefused` and passed on as it is;
* a 4xx of the place that it redirects to is a failed fetch, never a verdict;
* anything else that keeps an answer from coming sets the host back, and the next one is asked;
* a host that does not answer is probed, and not asked by every request
  (:mod:`contentcache.upstream.circuit_breaker`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionClosed
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.logger import Logger
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers

from contentcache.aio.fair_semaphore import SemaphorePerKey
from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.config.model import Upstream
from contentcache.core.challenges import parse_challenges
from contentcache.core.errors import (
    CacheError,
    LoopDetected,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.header_policy import first, lines_of
from contentcache.core.opening import is_range_refused
from contentcache.core.ports import Clock, Timer
from contentcache.core.retry_after import RateLimits, retry_after_seconds
from contentcache.core.via import CachesBehind
from contentcache.core.what_passes import LONGEST_REFUSAL
from contentcache.meter import Meter
from contentcache.upstream.account import (
    REFUSALS,
    AccountSource,
    NoTokenError,
    OwnAccount,
    TokenRefused,
    is_listed,
)
from contentcache.upstream.addresses import Place
from contentcache.upstream.agent import UpstreamTransport, why
from contentcache.upstream.answers import Answer
from contentcache.upstream.pool import UpstreamPool
from contentcache.upstream.redirects import REDIRECTS, Followed, TargetFailed, discard
from contentcache.upstream.request import Request, WholeBody

T = TypeVar("T")

#: With which a cache tells the next one which origin it means, by the origin's URL.
MEANT_ORIGIN: Final = "Contentcache-Origin"
#: For so many seconds the same complaint is not repeated.
_QUIET: Final = 60.0
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
#: What a registry answers that has no catalogue: it need not have one.
NO_CATALOG: Final = frozenset({404, 405, 501})
#: Kinds of request that a registry may redirect to another registry, and the statuses by which that one says,
#: in the first one's name, that it has not got what is asked for.
_ABSENCES: Final[Mapping[str, frozenset[int]]] = {
    "manifests": frozenset({_NOT_FOUND}),
    "tags": frozenset({_NOT_FOUND}),
    "referrers": frozenset({_NOT_FOUND}),
    "catalog": NO_CATALOG,
}
_OK: Final = 200
_TOO_MANY: Final = 429
_LOOP: Final = 508
_UNAVAILABLE: Final = 503
_GATEWAY_TIMEOUT: Final = 504
_RANGE_NOT_SATISFIABLE: Final = 416
#: What Twisted raises where a connection was lost that a request was sent over.
_DISCONNECTED: Final = (ResponseFailed, RequestTransmissionFailed, ConnectionClosed)


class TargetRefused(TargetFailed):
    """The place that the registry redirects to refuses."""


class RangeRefused(UpstreamBroken):
    """What was asked for a part answers none, or another one: see :func:`is_range_refused`."""


class Registry:
    """
    An origin and the way there.

    ``transports`` has one entry for each base URL of ``upstream.hosts`` and ``upstream.fallback``.
    ``per_host`` bounds the downloads from each of them. ``source`` knows the account that is not in the
    configuration. Times are monotonic seconds, but for ``wall``.
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
        stall_timeout: float,
        token_limit: int,
        per_host: SemaphorePerKey[str],
        meter: Meter,
        source: AccountSource | None = None,
    ) -> None:
        self.upstream = upstream
        self._transports = transports
        self._reactor = reactor
        self._wall = wall
        self._secret = secret
        self._stall_timeout = stall_timeout
        self._token_limit = token_limit
        self._per_host = per_host
        self._meter = meter
        self._pool = UpstreamPool(
            upstream.hosts, upstream.fallback, probe=self._probe, failed=self._probe_failed
        )
        self._rate_limits = RateLimits()
        self._complaint = "", float("-inf")
        #: Learned from the answers of the hosts.
        self.behind = CachesBehind()
        self._account: OwnAccount | None = None
        if upstream.own:
            self._account = OwnAccount(
                upstream.account,
                upstream.origin,
                upstream.realms,
                self.fetch_token,
                reactor.seconds,
                source=source,
            )

    # Which host.

    def order(self, kind: str = "blobs") -> Sequence[str]:
        """The hosts to ask, in the order of their turn, for a request of this kind (:attr:`Request.kind`)."""
        return self._pool.order(kind, self._reactor.seconds())

    def failed(self, host: str, reason: str, kind: str = "blobs", began: int | None = None) -> None:
        """
        ``host`` has closed the connection early, stalled, or sent wrong bytes, for a request of this kind; it
        was sent after event ``began`` of the pool.
        """
        if host not in self._transports:
            return
        self._meter.asked(host, "failed")
        now = self._reactor.seconds()
        known = self._pool.is_ejected(host, kind, now)
        seconds = self._pool.failed(host, kind, now, began)
        if not known:
            self._log.warn(
                "upstream unhealthy", upstream=host, kind=kind, for_=f"{seconds:.0f}s", reason=reason
            )

    def health(self) -> Sequence[tuple[str, bool]]:
        """Every host, and whether it is healthy."""
        return self._pool.health(self._reactor.seconds())

    def may_lead_back(self, via: str, host: str | None = None) -> bool:
        """
        Whether a request that is sent to ``host``, or to any host, with this ``Via`` may come back to a cache
        that it has passed: then it must not wait for what was asked in another one's name.
        """
        hosts = self._transports if host is None else (host,)
        return self.behind.may_lead_back(via, hosts)

    async def _probe(self, host: str) -> None:
        """Send a cheap request of our own, without any credential; any answer will do."""
        # A cache answers its root by itself; of a registry this is the one path that the API promises.
        path = "/v2/" if self.upstream.is_origin(host) else "/"
        response = await self._in_time(
            host,
            self._transports[host].client.request("GET", host + path, unbuffered=True, allow_redirects=False),
        )
        discard(response, self._reactor)

    def _probe_failed(self, host: str, kind: str, error: CacheError) -> None:
        self.failed(host, error.message, kind)

    # Asking.

    async def ask(self, request: Request, *, only: Callable[[str], bool] = lambda _host: True) -> Answer:
        """
        Ask the hosts in turn until one answers, ``only`` those that may be asked this.

        A host that has found a loop is not at fault: the next one may lead elsewhere.

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
        key = request.credential.key(self._secret, self.upstream.origin)
        limits = [key, _parallel_key(host)] if request.parallel else [key]
        for limited in limits:
            remaining = self._rate_limits.remaining(limited, self._reactor.seconds())
            if remaining is not None:
                raise _too_many(remaining)
        began = self._pool.events
        try:
            answer = await self._exchange_any(host, request)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            # Something slow was asked for, while the host answers the same kind of request to others.
            slow = isinstance(error, UpstreamTimeout) and self._pool.has_answered(host, request.kind, began)
            if slow or isinstance(error, TargetFailed | NoTokenError):
                self._complain(error.message)
            else:
                self.failed(host, error.message, request.kind, began)
            raise
        self._meter.asked(host, str(answer.status))
        self._pool.answered(host, request.kind)
        if answer.status < 400 or _is_about_range(answer, request):  # noqa: PLR2004
            return answer
        raise await self._refusal(answer, request, key)

    def _complain(self, sentence: str) -> None:
        """Say in the log what sets no host back, and not with every request."""
        now = self._reactor.seconds()
        said, when = self._complaint
        if sentence != said or now - when >= _QUIET:
            self._complaint = sentence, now
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
            # What is asked in parallel is our own idea: its rate limit is not the client's.
            limited = _parallel_key(answer.host) if request.parallel else key
            self._rate_limits.limit(limited, self._reactor.seconds() + seconds)
            headers["Retry-After"] = str(round(seconds))
        if answer.redirected:
            headers.pop("WWW-Authenticate", None)  # nobody may ask for credentials in the registry's name
        try:
            is_text = request.method == "GET" and answer.is_readable
            body = await answer.read(LONGEST_REFUSAL) if is_text else b""
        except (UpstreamBroken, UpstreamTimeout):
            body = b""  # the status and the headers say enough
        if not is_text:
            answer.abandon()
        if signed is not None:
            # Who was redirected to us must not begin to authenticate here.
            headers.pop("WWW-Authenticate", None)
            if answer.status == _UNAUTHORIZED or signed.encode("ascii") in body:
                body = b""
        if answer.status == _UNAUTHORIZED and (request.credential.own or signed is not None):
            # The client cannot answer a challenge that was meant for the cache's account.
            headers.pop("WWW-Authenticate", None)
            return OriginRefused(_FORBIDDEN, headers, body)
        return OriginRefused(answer.status, headers, body)

    async def _exchange_any(self, host: str, request: Request) -> Answer:
        """
        Ask for a part, and for everything where that is refused: some storage does with signed URLs. It is
        answered as by a host that ignores ``Range``, of which the caller takes its part.
        """
        try:
            return await self._exchange(host, request)
        except RangeRefused:
            return await self._exchange(host, evolve(request, range=None))

    async def _exchange(self, host: str, request: Request) -> Answer:
        authorization = request.credential.authorization
        # A registry that knows no signed URLs may still know the cache's own account; one that does, and the
        # caches, look at nothing else.
        speaks_for_us = request.credential.own or request.credential.signed is not None
        account = self._account if speaks_for_us else None
        if account is not None:
            authorization = await account.authorization(request.repository)
        answer = await self._send(host, request, authorization)
        if answer.status == _UNAUTHORIZED and account is not None:
            challenges = parse_challenges(answer.values("WWW-Authenticate"))
            better = await account.answer(challenges, request.repository, authorization)
            if better is not None:
                answer.abandon()
                answer = await self._send(host, request, better)
        return answer

    async def _send(self, host: str, request: Request, authorization: str | None) -> Answer:
        headers = Headers()
        for value in request.accept:
            headers.addRawHeader("Accept", value)
        if request.via:
            headers.addRawHeader("Via", request.via)
        if request.range is not None:
            headers.addRawHeader("Range", request.range)
        if request.anew:
            headers.addRawHeader("Cache-Control", "no-cache")
        if self.upstream.issuer is not None and not self.upstream.is_origin(host):
            # A cache may have several origins, and cannot know which of them is ours.
            headers.addRawHeader(MEANT_ORIGIN, self.upstream.issuer)
        if authorization is not None:
            headers.addRawHeader("Authorization", authorization)
        transport = self._transports[host]
        followed = await self._pool.circuits.ask(
            host,
            request.kind,
            lambda heard: self._in_time(host, _go(transport, request, host, headers, heard)),
        )
        if request.via:
            raw = followed.response.headers.getRawHeaders(b"Via") or ()
            self.behind.learn(host, [value.decode("latin-1") for value in raw])
        answer = Answer(
            host,
            followed.response.code,
            followed.crossed,
            followed.response,
            self._reactor,
            self._stall_timeout,
            is_head=request.method == "HEAD",
            moved=followed.redirected,
            target=Place.of(followed.url).netloc if followed.crossed else None,
        )
        _look_at_status(answer, request, self._wall())
        return answer

    async def _in_time(self, host: str, exchange: Awaitable[T]) -> T:
        """Await an exchange's head, for no longer than an upstream may be silent."""
        try:
            return await with_timeout(self._reactor, self._stall_timeout, exchange)
        except (CacheError, CancelledError):
            raise
        except DeadlineError as error:
            connected = isinstance(error.__cause__, _DISCONNECTED)
            late = f"sent no answer for {self._stall_timeout:g} s" if connected else "did not answer in time"
            raise UpstreamTimeout(f"{host} {late}") from error
        except ConnectTimeout as error:
            raise UpstreamTimeout(f"{host} did not answer in time") from error
        except _DISCONNECTED as error:
            raise UpstreamBroken(f"{host} broke the connection off: {why(error)}") from error
        except Exception as error:
            raise UpstreamUnavailable(f"{host} cannot be reached: {why(error)}") from error

    async def fetch_token(self, url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
        """Ask a token server (:class:`contentcache.upstream.account.FetchToken`)."""
        server = f"the token server {Place.of(url).host}"
        transport = next(iter(self._transports.values()))
        # Whoever answers challenges chooses the realm: its address is looked at, unless the operator did.
        own = transport.policy.is_registry(Place.of(url)) or is_listed(url, self.upstream.realms)
        agent = transport.agent if own else transport.guarded
        sent = Headers({name: [value] for name, value in headers.items()})
        method = b"GET" if body is None else b"POST"
        producer = None if body is None else WholeBody(body)

        async def fetch() -> Followed:
            return Followed(await agent.request(method, url.encode("ascii"), sent, producer), url)

        try:
            followed = await self._in_time(server, fetch())
            answer = Answer(
                server, followed.response.code, False, followed.response, self._reactor, self._stall_timeout
            )
            if answer.status != _OK:
                answer.abandon()
                refused = answer.status in REFUSALS
                raise (TokenRefused if refused else NoTokenError)(f"{server} answered {answer.status}")
            answer.decode()
            return await answer.read(self._token_limit)
        except NoTokenError:
            raise
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            raise NoTokenError(error.message) from error


async def _go(
    transport: UpstreamTransport, request: Request, host: str, headers: Headers, heard: Callable[[], None]
) -> Followed:
    url = host + request.target
    secret = request.credential.signed
    if request.follow:
        return await transport.fetch_following(request.method, url, headers, heard, secret=secret)
    response = await transport.client.request(
        request.method, url, headers=headers, unbuffered=True, allow_redirects=False
    )
    heard()
    if response.code not in REDIRECTS:
        return Followed(response, url)
    locations = response.headers.getRawHeaders(b"Location") or [b""]
    try:
        target = transport.policy.follow(url, locations[0])
    except CacheError:
        discard(response, transport.reactor)
        raise
    if transport.policy.is_registry(Place.of(target)):
        # It leads to the registry itself, which has not said anything yet.
        discard(response, transport.reactor)
        return await transport.fetch_following(request.method, url, headers, secret=secret)
    return Followed(response, target, hops=1, crossed=True)


def _parallel_key(host: str) -> bytes:
    return b"parallel " + host.encode()  # no key of a credential: those are hashes


def _is_about_range(answer: Answer, request: Request) -> bool:
    return answer.status == _RANGE_NOT_SATISFIABLE and request.range is not None


def _look_at_status(answer: Answer, request: Request, wall: float) -> None:
    status = answer.status
    if request.method == "GET" and request.range is not None:
        said = answer.header("Content-Range")
        if is_range_refused(status, said, request.range, redirected=answer.redirected):
            answer.abandon()
            raise RangeRefused(f"{answer.host} answered {status} to {request.range}")
    if status == _LOOP:
        answer.abandon()
        raise LoopDetected(f"{answer.host} has found a loop of caches")
    if status == _UNAVAILABLE:
        asked_for = answer.header("Retry-After")
        answer.abandon()
        seconds = None if asked_for is None else retry_after_seconds(asked_for, wall)
        raise UpstreamUnavailable(
            f"{answer.host} answered {status}",
            headers=None if seconds is None else {"Retry-After": str(round(seconds))},
        )
    if status == _GATEWAY_TIMEOUT:
        answer.abandon()
        raise UpstreamTimeout(f"{answer.host} answered {status}")
    missing = status in _ABSENCES.get(request.kind, ())
    if not (missing or 200 <= status < 500) or (300 <= status < 400 and status not in REDIRECTS):  # noqa: PLR2004
        answer.abandon()
        raise UpstreamBroken(f"{answer.host} answered {status}")
    if answer.redirected and status >= 400 and not (missing or _is_about_range(answer, request)):  # noqa: PLR2004
        answer.abandon()
        raise TargetRefused(f"the storage behind {answer.host} answered {status}")
    _look_at_coding(answer, request)


def _look_at_coding(answer: Answer, request: Request) -> None:
    """Let what is compressed be decoded, or refuse it."""
    if not answer.codings or request.method == "HEAD":
        return
    if answer.status >= 400:  # noqa: PLR2004
        with suppress(UpstreamBroken):  # then the status and the headers have to say enough
            answer.decode()
    elif request.kind != "blobs":
        try:
            answer.decode()
        except UpstreamBroken:
            answer.abandon()
            raise
    elif not answer.redirected:
        # Storage says so of objects that were stored compressed, and sends them as they are: right by the
        # digest. A proxy before a registry compresses on its way, and what it says of ranges and lengths is
        # about what nobody has asked for.
        codings = ", ".join(answer.codings)[:100]
        answer.abandon()
        raise UpstreamBroken(
            f"{answer.host} compresses blobs (Content-Encoding: {codings!r}) although it was asked not to, so"
            " that they have another digest; turn that off at the registry or the proxy before it"
        )


def _too_many(seconds: float) -> OriginRefused:
    return OriginRefused(_TOO_MANY, {"Retry-After": str(max(1, round(seconds)))})
