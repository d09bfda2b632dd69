"""
From a place to a connection: names are resolved, addresses checked, and the fastest one is used.

Names are resolved once. Where a redirect leads there, the addresses are checked, and exactly these are connected
to: so a name whose address changes in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from attrs import frozen
from twisted.internet import address as twisted_address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from contentcache.aio.reactor import Reactor
from contentcache.core.live import Live
from contentcache.upstream.addresses import Address, Kind, Place, literal_address
from contentcache.upstream.redirects import RedirectPolicy, RedirectRefused

SocketAddress = twisted_address.IPv4Address | twisted_address.IPv6Address


@implementer(IStreamClientEndpoint)
@frozen
class PlaceEndpoint:
    """
    Connects to a place over TCP, to whichever of its addresses answers first (RFC 8305).

    ``timeout`` is for each attempt, in seconds. With a ``guard`` only addresses that it permits are tried, and
    ``connect`` fails with ``RedirectRefused`` where there is none. With ``registry`` the place is the registry's
    own, whose kinds of address are noted.
    """

    reactor: Reactor
    place: Place
    timeout: Live[float]
    guard: RedirectPolicy | None = None
    registry: RedirectPolicy | None = None

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """A protocol of ``protocolFactory``, connected (``IStreamClientEndpoint``)."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: Any) -> Any:
        addresses = await resolve(self.reactor, self.place)
        if self.guard is not None:
            addresses = await _permitted(self.reactor, self.guard, self.place, addresses)
        # The first address stands in for the name: names with an underscore, as Docker's own
        # networks have them, are refused by HostnameEndpoint though every resolver knows them.
        racing = HostnameEndpoint(
            _Resolved(self.reactor, addresses), addresses[0].host, self.place.port, timeout=self.timeout.now
        )
        if self.registry is not None:
            kinds = [self.registry.kind_of(ip_address(address.host)) for address in addresses]
            self.registry.reached.update(kinds)
        return await racing.connect(factory)


async def resolve(reactor: Reactor, place: Place) -> Sequence[SocketAddress]:
    """The addresses of a place, at least one. Raises ``DNSLookupError``."""
    literal = literal_address(place.host)
    if literal is not None:
        kind = twisted_address.IPv4Address if literal.version == 4 else twisted_address.IPv6Address  # noqa: PLR2004
        return [kind("TCP", str(literal), place.port)]
    found = _Found()
    reactor.nameResolver.resolveHostName(found, place.host, portNumber=place.port)
    addresses = await found.complete
    if not addresses:
        raise DNSLookupError(f"the name {place.host} cannot be resolved")
    return addresses


async def check_name(reactor: Reactor, guard: RedirectPolicy, place: Place) -> None:
    """
    Check as much of a redirect's target as is known before a proxy resolves it.

    Raises ``RedirectRefused``.
    """
    host = place.host
    literal = ip_address("127.0.0.1") if f".{host}".endswith(".localhost") else literal_address(host)
    if literal is not None and not guard.permits(place, literal, ()):
        around = await _around(reactor, guard)
        if not guard.permits(place, literal, around):
            raise _refusal(guard, place, [literal])


async def _permitted(
    reactor: Reactor, guard: RedirectPolicy, place: Place, addresses: Sequence[SocketAddress]
) -> Sequence[SocketAddress]:
    """Those addresses that a redirect may lead to."""
    if all(guard.permits(place, ip_address(address.host), ()) for address in addresses):
        return addresses
    around = await _around(reactor, guard)
    permitted = [address for address in addresses if guard.permits(place, ip_address(address.host), around)]
    if not permitted:
        raise _refusal(guard, place, [ip_address(address.host) for address in addresses])
    return permitted


async def _around(reactor: Reactor, guard: RedirectPolicy) -> frozenset[Kind]:
    """The kind of the registry's own addresses, if they have one; none where only a proxy can resolve its name."""
    try:
        addresses = await resolve(reactor, guard.registry)
    except DNSLookupError:
        return frozenset()
    return guard.around([ip_address(address.host) for address in addresses])


def _refusal(guard: RedirectPolicy, place: Place, addresses: Sequence[Address]) -> RedirectRefused:
    """The error where no address is permitted."""
    kinds = " and ".join(sorted(kind.value for kind in set(map(guard.kind_of, addresses))))
    return RedirectRefused(
        f"the registry redirects to {place.netloc}, which is at a {kinds} address;"
        " list it in redirects if that is meant"
    )


@implementer(IResolutionReceiver)
class _Found:
    """Collects addresses while a name is resolved."""

    def __init__(self) -> None:
        self._addresses: list[SocketAddress] = []
        self._resolution: object = None
        self.complete: Deferred[list[SocketAddress]] = Deferred(self._cancel)

    def resolutionBegan(self, resolutionInProgress: object) -> None:
        self._resolution = resolutionInProgress

    def addressResolved(self, address: object) -> None:
        if isinstance(address, SocketAddress):
            self._addresses.append(address)

    def resolutionComplete(self) -> None:
        """The resolver has finished; the caller may have been cancelled."""
        if not self.complete.called:
            self.complete.callback(self._addresses)

    def _cancel(self, _cancelled: object) -> None:
        """The caller was cancelled. Twisted's own resolver cannot be: its thread ends by itself."""


@implementer(IReactorPluggableNameResolver)
class _Resolved:
    """A reactor that resolves every name to these addresses."""

    def __init__(self, reactor: Reactor, addresses: Sequence[SocketAddress]) -> None:
        self.callLater = reactor.callLater
        self.seconds = reactor.seconds
        self.connectTCP = reactor.connectTCP
        self.nameResolver = _FixedResolver(addresses)


@implementer(IHostnameResolver)
@frozen
class _FixedResolver:
    """A resolver with one answer."""

    addresses: Sequence[SocketAddress]

    def resolveHostName(
        self,
        resolutionReceiver: Any,
        hostName: str,
        portNumber: int = 0,  # noqa: ARG002
        addressTypes: object = None,  # noqa: ARG002
        transportSemantics: str = "TCP",  # noqa: ARG002
    ) -> Any:
        """Resolve at once (``IHostnameResolver``)."""
        resolution = _DoneResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for address in self.addresses:
            resolutionReceiver.addressResolved(address)
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IHostResolution)
@frozen
class _DoneResolution:
    """A resolution that has ended as soon as it begins."""

    name: str

    def cancel(self) -> None:
        """Too late."""
