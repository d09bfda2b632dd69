"""
Which cache a client is sent to: its account's choice, else the default of its network, else none.

Rules:

* a choice wins over the network, also where the chosen cache is dead: then the registry serves;
* of several networks the one with the longest prefix counts;
* an IPv4 address is the same whether it is written alone or inside an IPv6 address (``::ffff:10.0.0.1``,
  RFC 4291 §2.5.5.2), in a client's address and in a network;
* nobody is sent to a cache that is not known to be alive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from uuid import UUID

from attrs import frozen

Network = IPv4Network | IPv6Network

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


@frozen
class Networks:
    """Defaults by network: the names of caches, longest prefixes first."""

    defaults: tuple[tuple[Network, str], ...] = ()

    @classmethod
    def of(cls, defaults: Mapping[str, str]) -> Networks:
        """
        From what is written, ``{"10.2.0.0/16": "region-us"}``; bits behind the prefix do not matter.

        :raises ValueError: a key is no network.
        """
        read = {_plain(ip_network(network, strict=False)): name for network, name in defaults.items()}
        return cls(tuple(sorted(read.items(), key=lambda entry: -entry[0].prefixlen)))

    def default(self, address: str) -> str | None:
        """
        The name of the cache for a client's address; ``None`` where no network has it, or it is none.

        >>> Networks.of({"10.0.0.0/8": "us", "10.2.0.0/16": "eu"}).default("::ffff:10.2.3.4")
        'eu'
        """
        found = _address(address)
        if found is None:
            return None
        return next((name for network, name in self.defaults if found in network), None)


def chosen(choice: UUID | None, default: UUID | None, is_alive: Callable[[UUID], bool]) -> UUID | None:
    """The cache to send a client to; ``None`` means that the registry's bytes come from here."""
    wanted = default if choice is None else choice
    return wanted if wanted is not None and is_alive(wanted) else None


def _address(written: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(written.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _plain(network: Network) -> Network:
    """A network inside ``::ffff:0:0/96`` as the IPv4 network that it is."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        start = IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return IPv4Network((start, network.prefixlen - _MAPPED.prefixlen))
    return network
