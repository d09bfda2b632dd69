"""
The public scheme and host of this server, and the addresses of its clients, behind trusted proxies.

A proxy that terminates TLS (nginx, a load balancer, an ingress) says in ``X-Forwarded-*`` what the client asked
for. Only trusted addresses are believed: any client can send such headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from attrs import frozen

from contentcache.core.client_address import counted_address, shown_address
from contentcache.server.framing import is_host

_MOST_HOPS: Final = 32
_SCHEMES: Final = frozenset({"http", "https"})


@frozen
class Caller:
    """
    The client of a request: its ``address``, the ``host`` it asked for, and ``base``, the URL of this server for
    it, without a path. ``proxies`` are the trusted proxies in between, the nearest one last.
    """

    address: str
    host: str
    base: str
    proxies: Sequence[str] = ()

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, as the client asked."""
        return self.base.partition("://")[0]


class PublicName:
    """
    How clients name this server.

    ``configured`` is ``http.host``: a URL, a host, or nothing; ``scheme`` is the listener's; ``trusted`` are the
    networks of ``http.trustedproxies``.
    """

    def __init__(self, configured: str | None, scheme: str, trusted: Iterable[str]) -> None:
        self._scheme = scheme
        self.configure(configured, trusted)

    def configure(self, configured: str | None, trusted: Iterable[str]) -> None:
        """Use another ``http.host`` and other trusted proxies from now on."""
        first, slashes, rest = (configured or "").partition("://")
        self._configured_scheme = first if slashes else None
        self._configured_host = (rest if slashes else first).partition("/")[0]
        self._trusted: list[IPv4Network | IPv6Network] = [ip_network(each) for each in trusted]

    def caller(
        self,
        peer: str,
        host: str,
        *,
        forwarded_for: Sequence[str] = (),
        forwarded_proto: str | None = None,
        forwarded_host: str | None = None,
    ) -> Caller:
        """
        The client of a request: ``peer`` is the address at the other end of the connection, ``host`` that of the
        request; the others are the values of ``X-Forwarded-*``.
        """
        scheme, hops = self._scheme, [shown_address(peer)]
        if self._is_trusted(peer):
            hops = self._trusted_hops(hops[0], forwarded_for)
            # Each of several proxies appends its value: the first one is about the client.
            proto = (forwarded_proto or "").partition(",")[0].strip().lower()
            scheme = proto if proto in _SCHEMES else scheme
            name = (forwarded_host or "").partition(",")[0].strip().lower()
            host = name if name and is_host(name) else host
        base = f"{self._configured_scheme or scheme}://{self._configured_host or host}"
        return Caller(hops[0], host, base, tuple(hops[1:]))

    def _trusted_hops(self, peer: str, forwarded: Sequence[str]) -> list[str]:
        """
        The addresses from the client to ``peer``. The client's is the last one that is not a trusted proxy's:
        everything before it may be made up by the client.
        """
        hops = [peer]
        forwarded_hops = [hop.strip() for value in forwarded for hop in value.split(",")][-_MOST_HOPS:]
        for hop in reversed(forwarded_hops):
            try:
                address = str(ip_address(_without_port(hop)))
            except ValueError:
                break
            hops.insert(0, shown_address(address))
            if not self._is_trusted(hops[0]):
                break
        return hops

    def address_key(self, peer: str) -> str:
        """
        What connections of ``peer`` are counted by for limits per address: its IPv4 address, or its IPv6 /64.
        Empty for a trusted proxy, whose connections are those of many clients.

        >>> name = PublicName(None, "http", ["192.0.2.0/24"])
        >>> name.address_key("192.0.2.1"), name.address_key("198.51.100.1"), name.address_key("2001:db8::1")
        ('', '198.51.100.1', '2001:db8::/64')
        """
        return "" if self._is_trusted(peer) else counted_address(peer)

    def _is_trusted(self, peer: str) -> bool:
        if not peer:
            return True  # a Unix socket: its file's permissions say who may connect
        try:
            address = ip_address(shown_address(peer).partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def _without_port(hop: str) -> str:
    """
    An address of ``X-Forwarded-For`` without the client's port, which some proxies append.

    >>> [_without_port(hop) for hop in ("192.0.2.1:99", "[2001:db8::1]:99", "2001:db8::1", "[2001:db8::1]")]
    ['192.0.2.1', '2001:db8::1', '2001:db8::1', '2001:db8::1']
    """
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
