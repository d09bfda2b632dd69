"""
The name and scheme by which clients call this cache, and who they are, where a proxy stands before it.

A proxy that has the TLS (nginx, a load balancer, an ingress) tells in ``X-Forwarded-*`` what the client has
asked for. That is believed from trusted addresses only: anybody can write such fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from attrs import frozen

from contentcache.core.client_address import shown_address
from contentcache.web.heads import is_host

_MOST_HOPS: Final = 32
_SCHEMES: Final = frozenset({"http", "https"})


@frozen
class Caller:
    """
    What a request says of its client: ``address`` is the client's, ``host`` the name that it has asked,
    ``base`` the URL of this cache for it, without a path.
    """

    address: str
    host: str
    base: str


class PublicName:
    """
    ``configured`` is ``http.host``: a URL, a host, or nothing; ``scheme`` that of the listener; ``trusted``
    the networks of ``http.trustedproxies``.
    """

    def __init__(self, configured: str | None, scheme: str, trusted: Iterable[str]) -> None:
        self._scheme = scheme
        given, slashes, rest = (configured or "").partition("://")
        self._given_scheme = given if slashes else None
        self._given_host = (rest if slashes else given).partition("/")[0]
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
        Who calls, and by which name. ``peer`` is the address at the other end of the connection, ``host``
        what the request itself says; the others are the values of ``X-Forwarded-*``.
        """
        scheme, address = self._scheme, shown_address(peer)
        if self._is_trusted(peer):
            address = self._client(address, forwarded_for)
            # Of several proxies each adds its own word: the first one is about the client.
            proto = (forwarded_proto or "").partition(",")[0].strip().lower()
            scheme = proto if proto in _SCHEMES else scheme
            name = (forwarded_host or "").partition(",")[0].strip().lower()
            host = name if name and is_host(name) else host
        base = f"{self._given_scheme or scheme}://{self._given_host or host}"
        return Caller(address, host, base)

    def _client(self, peer: str, forwarded: Sequence[str]) -> str:
        """
        The last address that no trusted proxy has: what stands before it may be the client's own invention.
        """
        hops = [hop.strip() for value in forwarded for hop in value.split(",")][-_MOST_HOPS:]
        for hop in reversed(hops):
            try:
                address = str(ip_address(hop.strip("[]")))
            except ValueError:
                break
            peer = shown_address(address)
            if not self._is_trusted(peer):
                break
        return peer

    def _is_trusted(self, peer: str) -> bool:
        if not peer:
            return True  # a Unix socket: only who may open it is there
        try:
            address = ip_address(shown_address(peer).partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._trusted)
