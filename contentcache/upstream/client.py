"""
Requests to one host of an origin: the cache's account, timeouts, and what a status means.

What the registry itself says is kept apart from what happens on the way: a 4xx of the registry is an answer,
a 4xx of the host that it redirects to is a failed request (:class:`TargetRefused`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionClosed
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.web.client import RequestTransmissionFailed, ResponseFailed
from twisted.web.http_headers import Headers

from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.config.model import Upstream
from contentcache.core.errors import (
    CacheError,
    LoopDetected,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.http_auth import parse_challenges
from contentcache.core.live import Live
from contentcache.core.ports import Clock, Timer
from contentcache.core.ranges import is_range_refused
from contentcache.core.retry_after import retry_after_seconds
from contentcache.core.via import CachesBehind
from contentcache.telemetry.request_ids import HEADER, TRACE, current_id
from contentcache.upstream.account import (
    REFUSALS,
    AccountSource,
    NoTokenError,
    OwnAccount,
    TokenRefused,
    is_listed,
)
from contentcache.upstream.addresses import Place
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.answers import Answer, check_coding
from contentcache.upstream.circuit_breaker import CircuitBreaker
from contentcache.upstream.redirects import REDIRECTS, Followed, TargetFailed, discard
from contentcache.upstream.request import Request, UpstreamLimits, WholeBody
from contentcache.upstream.responses import is_malformed, why

T = TypeVar("T")

#: Header by which a cache tells the next one which origin it means, by the origin's URL.
MEANT_ORIGIN: Final = "Contentcache-Origin"
#: Statuses of a registry that has no catalogue: it need not have one.
NO_CATALOG: Final = frozenset({404, 405, 501})
_NOT_FOUND: Final = 404
#: Kinds of request that a registry may redirect to another registry, and the statuses by which that one says,
#: in the first one's name, that it does not have what is asked for.
_ABSENCES: Final[Mapping[str, frozenset[int]]] = {
    "manifests": frozenset({_NOT_FOUND}),
    "tags": frozenset({_NOT_FOUND}),
    "referrers": frozenset({_NOT_FOUND}),
    "catalog": NO_CATALOG,
}
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_RANGE_NOT_SATISFIABLE: Final = 416
_UNAVAILABLE: Final = 503
_GATEWAY_TIMEOUT: Final = 504
_LOOP: Final = 508
#: What Twisted raises where a connection was lost that a request was sent over.
_DISCONNECTED: Final = (ResponseFailed, RequestTransmissionFailed, ConnectionClosed)


class TargetRefused(TargetFailed):
    """The host that the registry redirects to refuses."""


class RangeRefused(UpstreamBroken):
    """A request for a part got no part, or another one: see :func:`is_range_refused`."""


class UpstreamClient:
    """
    Sends requests to the hosts of one origin.

    ``transports`` has one entry for each of them. ``source`` knows the account that is not in the configuration.
    """

    def __init__(
        self,
        upstream: Upstream,
        transports: Mapping[str, UpstreamTransport],
        circuits: CircuitBreaker,
        *,
        reactor: Timer,
        wall: Clock,
        limits: Live[UpstreamLimits],
        source: AccountSource | None,
    ) -> None:
        self._upstream = upstream
        self._transports = transports
        self._circuits = circuits
        self._reactor = reactor
        self._wall = wall
        self._limits = limits
        #: Learned from the ``Via`` of the hosts' answers.
        self.behind = CachesBehind()
        self._source = source
        self._account = self._own_account(upstream)

    def configure(self, upstream: Upstream) -> None:
        """Use other options of the same origin, and another account, from now on."""
        old, self._upstream = self._upstream, upstream
        if (old.account, old.realms) != (upstream.account, upstream.realms):
            self._account = self._own_account(upstream)

    def _own_account(self, upstream: Upstream) -> OwnAccount | None:
        if not upstream.own:
            return None
        account, origin, realms = upstream.account, upstream.origin, upstream.realms
        return OwnAccount(
            account, origin, realms, self.fetch_token, self._reactor.seconds, source=self._source
        )

    async def probe(self, host: str) -> int:
        """
        Send a cheap request of our own, without any credential; returns the status of the answer.

        :raises CacheError: there was none.
        """
        # A cache answers its root by itself; of a registry this is the one path that the API promises.
        path = "/v2/" if self._upstream.is_origin(host) else "/"
        response = await self._in_time(
            host,
            self._transports[host].client.request("GET", host + path, unbuffered=True, allow_redirects=False),
        )
        discard(response, self._reactor)
        return int(response.code)

    async def send(self, host: str, request: Request) -> Answer:
        """
        Send a request to ``host``; its answer may be a 4xx of the registry.

        Where a part is refused, everything is asked for: some storage refuses parts with signed URLs. That is
        answered as by a host that ignores ``Range``, so the caller picks its part out of it.

        :raises LoopDetected: the host has found a loop of caches.
        :raises NoTokenError: there is no account or token to be had.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: there is no usable answer.
        """
        try:
            return await self._send_authorized(host, request)
        except RangeRefused:
            return await self._send_authorized(host, evolve(request, range=None))

    async def _send_authorized(self, host: str, request: Request) -> Answer:
        authorization = request.credential.authorization
        # A registry that knows no signed URLs may still know the cache's own account; those that know them, and
        # caches, ignore the account.
        speaks_for_us = request.credential.own or request.credential.signed is not None
        account = self._account if speaks_for_us else None
        if account is not None:
            authorization = await account.authorization(request.repository)
        answer = await self._send_once(host, request, authorization)
        if answer.status == _UNAUTHORIZED and account is not None:
            challenges = parse_challenges(answer.values("WWW-Authenticate"))
            better = await account.answer(challenges, request.repository, authorization)
            if better is not None:
                answer.abandon()
                answer = await self._send_once(host, request, better)
        return answer

    async def _send_once(self, host: str, request: Request, authorization: str | None) -> Answer:
        headers = Headers()
        for value in request.accept:
            headers.addRawHeader("Accept", value)
        if request.via:
            headers.addRawHeader("Via", request.via)
        if request.range is not None:
            headers.addRawHeader("Range", request.range)
        if request.no_cache:
            headers.addRawHeader("Cache-Control", "no-cache")
        if self._upstream.issuer is not None and not self._upstream.is_origin(host):
            # A cache may have several origins, and cannot know which of them is ours.
            headers.addRawHeader(MEANT_ORIGIN, self._upstream.issuer)
        request_id = current_id()
        if request_id and (not self._upstream.is_origin(host) or self.behind.is_cache(host)):
            headers.addRawHeader(HEADER, request_id)
        if authorization is not None:
            headers.addRawHeader("Authorization", authorization)
        transport = self._transports[host]
        followed = await self._circuits.run(
            host,
            request.kind,
            lambda heard: self._in_time(host, _follow(transport, request, host, headers, heard)),
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
            self._limits.now.stall_timeout,
            is_head=request.method == "HEAD",
            moved=followed.redirected,
            target=Place.of(followed.url).netloc if followed.crossed else None,
        )
        trace = TRACE.get()
        if trace is not None:
            trace.answered_by = host
        _check_status(answer, request, self._wall())
        return answer

    async def _in_time(self, host: str, exchange: Awaitable[T]) -> T:
        """Await an exchange's head, for no longer than an upstream may be silent."""
        stall_timeout = self._limits.now.stall_timeout
        try:
            return await with_timeout(self._reactor, stall_timeout, exchange)
        except (CacheError, CancelledError):
            raise
        except DeadlineError as error:
            connected = isinstance(error.__cause__, _DISCONNECTED)
            late = f"sent no answer for {stall_timeout:g} s" if connected else "did not answer in time"
            raise UpstreamTimeout(f"{host} {late}") from error
        except ConnectTimeout as error:
            raise UpstreamTimeout(f"{host} did not answer in time") from error
        except _DISCONNECTED as error:
            if is_malformed(error):
                raise UpstreamBroken(f"{host} sent no valid HTTP response") from error
            raise UpstreamBroken(f"{host} broke the connection off: {why(error)}") from error
        except Exception as error:
            raise UpstreamUnavailable(f"{host} cannot be reached: {why(error)}") from error

    async def fetch_token(self, url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
        """Ask a token server (:class:`contentcache.upstream.account.FetchToken`)."""
        server = f"the token server {Place.of(url).host}"
        transport = next(iter(self._transports.values()))
        # Whoever answers challenges chooses the realm: its address is checked, unless the operator listed it.
        own = transport.policy.is_registry(Place.of(url)) or is_listed(url, self._upstream.realms)
        agent = transport.agent if own else transport.guarded
        sent = Headers({name: [value] for name, value in headers.items()})
        method = b"GET" if body is None else b"POST"
        producer = None if body is None else WholeBody(body)

        async def fetch() -> Followed:
            return Followed(await agent.request(method, url.encode("ascii"), sent, producer), url)

        try:
            followed = await self._in_time(server, fetch())
            answer = Answer(
                server,
                followed.response.code,
                False,
                followed.response,
                self._reactor,
                self._limits.now.stall_timeout,
            )
            if answer.status != _OK:
                answer.abandon()
                refused = answer.status in REFUSALS
                raise (TokenRefused if refused else NoTokenError)(f"{server} answered {answer.status}")
            answer.decode()
            return await answer.read(self._limits.now.token_limit)
        except NoTokenError:
            raise
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            raise NoTokenError(error.message) from error


async def _follow(
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
        # It leads to the registry itself, which has not answered yet.
        discard(response, transport.reactor)
        return await transport.fetch_following(request.method, url, headers, secret=secret)
    return Followed(response, target, hops=1, crossed=True)


def is_range_refusal(answer: Answer, request: Request) -> bool:
    """Whether the answer says that the range that was asked for cannot be (RFC 9110 §15.5.17)."""
    return answer.status == _RANGE_NOT_SATISFIABLE and request.range is not None


def _check_status(answer: Answer, request: Request, wall: float) -> None:
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
    if answer.redirected and status >= 400 and not (missing or is_range_refusal(answer, request)):  # noqa: PLR2004
        answer.abandon()
        raise TargetRefused(f"the storage behind {answer.host} answered {status}")
    check_coding(answer, request.method, request.kind)
