"""
By which names the operator's listener may be asked: a browser that visits somebody else's page must not read it
(DNS rebinding).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from contentcache.config.model import Address
from contentcache.core.client_address import is_loopback, shown_address

_LOOPBACK_NAMES: Final = ("localhost", "localhost.localdomain", "ip6-localhost")
_EVERY_ADDRESS: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  # compared, not bound


class KnownHosts:
    """
    Names of the loopback, of this machine, of the listener itself and of the configuration. A name of DNS can be
    made to lead here by anybody, an address cannot: where the daemon listens on all addresses, each is known, since
    it may be asked by one that is translated on the way.

    >>> hosts = KnownHosts(Address("127.0.0.1", 5001), ["cache.internal"])
    >>> [hosts.has(host, "127.0.0.1") for host in ("localhost:5001", "Cache.Internal", "[::1]", "evil.example")]
    [True, True, True, False]
    >>> KnownHosts(Address("", 5001)).has("", "127.0.0.1")
    False
    """

    def __init__(self, address: Address, names: Iterable[str] = ()) -> None:
        own = (*_LOOPBACK_NAMES, socket.gethostname(), address.host, *names)
        self._names = frozenset(_without_port(name) for name in own if name)
        self._any_address = address.host in _EVERY_ADDRESS

    def has(self, host: str, local: str) -> bool:
        """Whether a request with this ``Host``, to the ``local`` address, is answered."""
        name = _without_port(host)
        if name in self._names:
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return self._any_address or is_loopback(str(address)) or str(address) == shown_address(local)


def _without_port(host: str) -> str:
    """
    A host in lower case, without port, brackets and final dot.

    >>> _without_port("[::1]:5001"), _without_port("::1"), _without_port("A.example.:80")
    ('::1', '::1', 'a.example')
    """
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.rpartition(":")
    if name and ":" not in name and port.isdecimal():
        host = name
    return host.removesuffix(".")
