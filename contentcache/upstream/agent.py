"""Agents for one upstream: persistent connections, TLS, proxies, and the guard on redirects."""

from __future__ import annotations

from collections.abc import Callable
from http.cookiejar import Cookie
from typing import Any, Final, NoReturn, Self, cast

from attrs import evolve, field, frozen
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, Agent, HTTPConnectionPool, ProxyAgent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from contentcache import __version__
from contentcache.aio.reactor import Endpoint, HttpAgent, Reactor, Trust
from contentcache.core.errors import CacheError, UpstreamBroken
from contentcache.core.live import Live
from contentcache.core.shown import show_place
from contentcache.upstream.addresses import Place
from contentcache.upstream.answers import CODINGS
from contentcache.upstream.endpoints import PlaceEndpoint, check_name
from contentcache.upstream.proxies import Proxies, Proxy, TunnelEndpoint
from contentcache.upstream.redirects import (
    MOST_HOPS,
    REDIRECTS,
    Followed,
    RedirectPolicy,
    RedirectRefused,
    TargetFailed,
    discard,
    harmless,
    without,
)
from contentcache.upstream.responses import OwnedResponse, bound_heads
from contentcache.wire.client import EarlyResponseReactor, use_large_reads

USER_AGENT: Final = f"contentcache/{__version__}".encode("ascii")

#: Idle connections for each host, and for how many seconds: fewer than servers keep them.
IDLE_CONNECTIONS: Final = 64
IDLE_SECONDS: Final = 55


class NoCookies(IndexableCookieJar):
    """
    A cookie jar that stays empty.

    The requests of many clients are sent by one HTTP client: a cookie that was set for one would be sent for
    the others.
    """

    def set_cookie(self, cookie: Cookie) -> None:
        """Store nothing."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Read nothing."""

    def add_cookie_header(self, request: Any) -> None:
        """Send nothing."""


@implementer(IAgentEndpointFactory)
@frozen
class _Endpoints:
    """
    Endpoints of places, directly or through a proxy, with a timeout.

    With a ``guard`` those of hosts that an upstream redirects to. ``registry`` notes the kinds of address that
    the upstream itself has.
    """

    reactor: Reactor
    trust: Trust
    proxies: Proxies
    timeout: Live[float]
    guard: RedirectPolicy | None = None
    registry: RedirectPolicy | None = None

    def endpointForURI(self, uri: URI) -> Endpoint:
        """The endpoint of a URL's host (``IAgentEndpointFactory``)."""
        place = Place.of(uri.toBytes().decode("ascii"))
        proxy = self.proxies.before(place)
        if proxy is None:
            registry = self.registry
            if registry is not None and not registry.is_registry(place):
                registry = None
            endpoint: Endpoint = PlaceEndpoint(self.reactor, place, self.timeout, self.guard, registry)
        else:
            endpoint = TunnelEndpoint(self.to_proxy(proxy), proxy, place)
        return self._bounded(endpoint, place)

    def to_proxy(self, proxy: Proxy) -> Endpoint:
        """The endpoint of a proxy; its address is the operator's own choice and needs no guard."""
        direct = PlaceEndpoint(self.reactor, proxy.place, self.timeout, None)
        return self._bounded(direct, proxy.place)

    def _bounded(self, endpoint: Endpoint, place: Place) -> Endpoint:
        endpoint = _TimeoutEndpoint(endpoint, place, self.timeout, self.reactor)
        if place.scheme != "https":
            return endpoint
        creator = self.trust.creatorForNetloc(place.host.encode("ascii"), place.port)
        return wrapClientTLS(creator, cast("Any", endpoint), clock=cast("Any", self.reactor))


@implementer(IStreamClientEndpoint)
@frozen
class _TimeoutEndpoint:
    """An endpoint with a timeout over name lookups, proxies and every address."""

    inner: Endpoint
    place: Place
    seconds: Live[float]
    reactor: Reactor

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect, or fail with Twisted's ``TimeoutError``."""

        seconds = self.seconds.now

        def late(_outcome: object, _seconds: float) -> NoReturn:
            raise ConnectTimeout(string=f"{self.place.netloc} does not answer within {seconds:g} s")

        connecting: Deferred[Any] = self.inner.connect(protocolFactory)
        connecting.addCallback(use_large_reads)
        return connecting.addTimeout(seconds, cast("Any", self.reactor), onTimeoutCancel=late)


def endpoint_of(
    url: str, *, reactor: Reactor, trust: Trust, proxies: Proxies, connect_timeout: Live[float]
) -> Endpoint:
    """
    The endpoint of the host of ``url``, for HTTP without an agent; the host may answer before it has received
    the whole request.
    """
    endpoints = _Endpoints(EarlyResponseReactor(reactor), trust, proxies, connect_timeout, None)
    return endpoints.endpointForURI(URI.fromBytes(url.encode("ascii")))


@implementer(IAgent)
class UpstreamAgent:
    """
    An agent for one upstream, or with a ``guard`` for hosts that it redirects to. ``registry`` notes the kinds
    of address that the upstream itself has.

    Every request is sent with ``Accept-Encoding: identity`` and our ``User-Agent``, whatever the caller set.
    Connections are persistent. An idle one that the server has closed meanwhile is replaced once, which is safe
    for ``GET`` and ``HEAD``.
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        trust: Trust,
        proxies: Proxies,
        connect_timeout: Live[float],
        guard: RedirectPolicy | None = None,
        registry: RedirectPolicy | None = None,
    ) -> None:
        self._reactor = reactor
        self._proxies = proxies
        self._guard = guard
        self._pool: Any = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = IDLE_CONNECTIONS
        self._pool.cachedConnectionTimeout = IDLE_SECONDS
        bound_heads(self._pool)
        endpoints = _Endpoints(reactor, trust, proxies, connect_timeout, guard, registry)
        self._agent: HttpAgent = Agent.usingEndpointFactory(reactor, endpoints, self._pool)
        self._plain_by_proxy: HttpAgent | None = None
        if proxies.http is not None:
            self._plain_by_proxy = ProxyAgent(endpoints.to_proxy(proxies.http), reactor, self._pool)

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: Any = None,
    ) -> Deferred[Any]:
        """
        Send a request (``IAgent``).

        Fails with ``RedirectRefused`` where the guard refuses every address, and otherwise as
        ``Agent`` does.
        """
        return Deferred.fromCoroutine(self._request(method, uri, headers, bodyProducer))

    async def _request(self, method: bytes, uri: bytes, headers: Headers | None, body: object) -> Any:
        place = Place.of(uri.decode("ascii"))
        sent = Headers() if headers is None else headers.copy()
        sent.setRawHeaders(b"Accept-Encoding", [b"identity"])
        sent.setRawHeaders(b"User-Agent", [USER_AGENT])
        sent.removeHeader(b"Proxy-Authorization")
        proxy = self._proxies.before(place)
        if proxy is not None and self._guard is not None:
            # The proxy resolves the name, so only the name can be checked here.
            await check_name(self._reactor, self._guard, place)
        agent = self._agent
        if proxy is not None and place.scheme == "http" and self._plain_by_proxy is not None:
            agent = self._plain_by_proxy
            if proxy.authorization is not None:
                sent.setRawHeaders(b"Proxy-Authorization", [proxy.authorization])
        response = await agent.request(method, uri, sent, body)
        # treq would decode a body that says gzip though identity was asked for, and without a bound: Answer does
        # that, by another header.
        codings = response.headers.getRawHeaders(b"Content-Encoding")
        response.headers.removeHeader(b"Content-Encoding")
        response.headers.removeHeader(CODINGS)
        if codings:
            response.headers.setRawHeaders(CODINGS, codings)
        return OwnedResponse(response, self._reactor)

    def close(self) -> Deferred[None]:
        """Close idle connections; fires once they are closed."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed


@frozen
class UpstreamTransport:
    """
    The agents for the registry or cache at one base URL.

    ``client`` is treq's, for the registry itself; use it with ``unbuffered=True`` and ``allow_redirects=False``.
    The ``guarded`` agent has a connection pool of its own, since what one registry may redirect to need not be
    permitted to another; and so has the ``strict`` one, for targets of other hosts' redirects.
    """

    policy: RedirectPolicy
    agent: HttpAgent
    guarded: HttpAgent
    client: HTTPClient
    reactor: Reactor = field(repr=False)
    strict: HttpAgent | None = None
    _close: tuple[UpstreamAgent, ...] = field(default=(), repr=False)

    @classmethod
    def to(
        cls,
        url: str,
        *,
        reactor: Reactor,
        trust: Trust,
        redirect_trust: Trust,
        proxies: Proxies,
        connect_timeout: Live[float],
        redirects: tuple[str, ...] = (),
        nat64: tuple[str, ...] = (),
    ) -> Self:
        """
        The agents for the upstream at ``url``.

        ``trust`` is for the upstream itself, ``redirect_trust`` for hosts that it redirects to: the same without
        our client certificate. ``redirects`` are the targets that the operator permits, ``nat64`` the prefixes
        by which the network reaches IPv4. Raises ``ValueError`` where ``url`` is no URL.
        """
        policy = RedirectPolicy.of(url, redirects, nat64)
        own = UpstreamAgent(
            reactor, trust=trust, proxies=proxies, connect_timeout=connect_timeout, registry=policy
        )
        guarded, strict = (
            UpstreamAgent(
                reactor, trust=redirect_trust, proxies=proxies, connect_timeout=connect_timeout, guard=guard
            )
            for guard in (policy, evolve(policy, excuses=False))
        )
        client = HTTPClient(cast("Any", own), cookiejar=NoCookies())
        return cls(policy, own, guarded, client, reactor, strict, (own, guarded, strict))

    async def fetch_following(
        self,
        method: str,
        url: str,
        headers: Headers,
        heard: Callable[[], None] = lambda: None,
        *,
        secret: str | None = None,
    ) -> Followed:
        """
        Ask the registry for ``url``, and the hosts that it redirects to.

        ``method`` is ``GET`` or ``HEAD``. ``heard`` is called with every response header, the registry's first.
        ``secret`` is a part of ``url`` that only the registry may see: some servers redirect with the query that
        they were asked with. The body of the answer is unread. Raises ``RedirectRefused``, ``UpstreamBroken``,
        and what the agents raise.
        """
        policy, crossed, by_registry = self.policy, False, True
        for hops in range(MOST_HOPS + 1):
            place = Place.of(url)
            crossed = crossed or place != policy.registry
            guarded = self.guarded if by_registry or self.strict is None else self.strict
            by_registry = policy.is_registry(place)
            agent = self.agent if by_registry else guarded
            sent = harmless(headers) if crossed else headers
            response = await _ask(agent, method, url, sent, place if crossed else None)
            heard()
            if response.code not in REDIRECTS:
                return Followed(response, url, hops, crossed)
            locations = response.headers.getRawHeaders(b"location", [])
            discard(response, self.reactor)
            if len(set(locations)) != 1:
                raise UpstreamBroken(
                    f"{show_place(url)!r} redirects ({response.code}) without saying where to"
                )
            url = policy.follow(url, locations[0])
            if secret is not None and not policy.is_registry(Place.of(url)):
                url = without(secret, url)
        raise RedirectRefused(
            f"the registry redirects more than {MOST_HOPS} times, last to {show_place(url)!r}"
        )

    async def close(self) -> None:
        """Close every idle connection."""
        await gatherResults([agent.close() for agent in self._close])


async def _ask(agent: HttpAgent, method: str, url: str, headers: Headers, target: Place | None) -> Any:
    """Ask for ``url``, which is at ``target`` where that is not the registry's own place."""
    try:
        return await agent.request(method.encode("ascii"), url.encode("ascii"), headers, None)
    except (CacheError, CancelledError):
        raise
    except Exception as error:
        if target is None or _is_cancelled(error):
            raise
        raise TargetFailed(f"the storage at {target.netloc} behind the registry cannot be reached") from error


def _is_cancelled(error: Exception) -> bool:
    """Whether we have cancelled the request, at whichever stage of it."""
    reasons = getattr(error, "reasons", None)
    if isinstance(reasons, list) and reasons:
        return any(reason.check(CancelledError) is not None for reason in reasons)
    return isinstance(error, CancelledError | ConnectingCancelledError)
