"""
Which hosts are asked directly though a proxy is configured: ``NO_PROXY``.

The meaning is that of Go's ``httpproxy``, which the other programs of a container host use:

==================  ==========================================================
``*``               every host
``example.com``     that host and every host below it
``.example.com``    every host below it only; ``*.example.com`` is the same
``192.0.2.1``       that address
``192.0.2.0/24``    every address in the block
``…:8080``          any of these (blocks excepted), on that port only
==================  ==========================================================

``localhost`` and loopback addresses never go through a proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from attrs import frozen

_ENDS_WITH_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>[0-9]{1,5})", re.ASCII)


@frozen
class _Name:
    """A domain, with or without the host of that very name."""

    domain: str
    itself: bool
    port: int | None

    def covers(self, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
        """Whether ``host`` lies in the domain."""
        if address is not None or self.port not in (None, port):
            return False
        return host.endswith("." + self.domain) or (self.itself and host == self.domain)


@frozen
class _Block:
    """A block of addresses; a single one is the smallest block."""

    network: IPv4Network | IPv6Network
    port: int | None

    def covers(self, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:  # noqa: ARG002
        """Whether ``address`` lies in the block."""
        return address is not None and address in self.network and self.port in (None, port)


@frozen
class Exemptions:
    """A value of ``NO_PROXY``, understood."""

    everything: bool = False
    entries: tuple[_Name | _Block, ...] = ()

    def covers(self, host: str, port: int) -> bool:
        """
        Whether ``host`` is asked directly at ``port``.

        >>> direct = Exemptions.parse("example.com, 10.0.0.0/8, [2001:db8::1]:443")
        >>> direct.covers("registry.example.com", 443), direct.covers("notexample.com", 443)
        (True, False)
        >>> direct.covers("10.1.2.3", 80), direct.covers("2001:db8::1", 80), direct.covers("localhost", 80)
        (True, False, True)
        """
        name = host.strip("[]").rstrip(".").lower()
        address = _address(name)
        if name == "localhost" or (address is not None and address.is_loopback):
            return True
        return self.everything or any(entry.covers(name, address, port) for entry in self.entries)

    @classmethod
    def parse(cls, value: str) -> Exemptions:
        """Read a value of ``NO_PROXY``: entries between commas or blanks; what means nothing is passed over."""
        words = value.lower().replace(",", " ").split()
        if "*" in words:
            return cls(everything=True)
        return cls(entries=tuple(_entries(words)))


def _entries(words: Iterable[str]) -> Iterable[_Name | _Block]:
    """One entry for each word that means something."""
    for word in words:
        if "/" in word:
            with suppress(ValueError):
                yield _Block(ip_network(word, strict=False), None)
            continue
        host, port = word, None
        if (with_port := _ENDS_WITH_PORT.fullmatch(word)) is not None:
            host, port = with_port["host"], int(with_port["port"])
        host = host.strip("[]").rstrip(".")
        if (address := _address(host)) is not None:
            yield _Block(ip_network(address), port)
            continue
        domain = host.removeprefix("*").removeprefix(".")
        if domain:
            yield _Name(_ascii(domain), itself=domain == host, port=port)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that ``text`` is; an IPv4 address inside IPv6 counts as the IPv4 one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _ascii(domain: str) -> str:
    """A domain as it stands in the DNS."""
    try:
        return domain if domain.isascii() else domain.encode("idna").decode("ascii")
    except UnicodeError:
        return domain
