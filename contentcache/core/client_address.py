"""Client addresses: as they are logged, and as limits count them."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final

_MAPPED: Final = "::ffff:"
_PREFIX: Final = 64
_BITS: Final = 128


def shown_address(address: str) -> str:
    """
    An address without the IPv6 form that a dual-stack socket gives to IPv4.

    >>> shown_address("::ffff:192.0.2.1"), shown_address("2001:db8::1")
    ('192.0.2.1', '2001:db8::1')
    """
    return address.removeprefix(_MAPPED)


def counted_address(address: str) -> str:
    """
    What limits count: an IPv4 address, or the /64 of an IPv6 address, since a client has that many of those.
    Anything else (a Unix socket has no address) counts as it is.

    >>> counted_address("2001:db8:1:2:3::4%eth0"), counted_address("::ffff:192.0.2.1"), counted_address("")
    ('2001:db8:1:2::/64', '192.0.2.1', '')
    """
    address = shown_address(address)
    if ":" not in address:
        return address
    try:
        number = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return f"{IPv6Address(int(number) >> (_BITS - _PREFIX) << (_BITS - _PREFIX))}/{_PREFIX}"


def is_loopback(address: str) -> bool:
    """
    Whether an address is this machine's own. A Unix socket has none, and is not asked from elsewhere.

    >>> [is_loopback(address) for address in ("127.0.0.7", "::1", "::ffff:127.0.0.1", "192.0.2.1", "")]
    [True, True, True, False, True]
    """
    try:
        return not address or ip_address(shown_address(address)).is_loopback
    except ValueError:
        return False
