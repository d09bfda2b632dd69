"""
Where a URL leads, and what kind of address that is.

Resolvers accept many spellings (``0x7f.1`` is loopback), so what looks like an address is read as ``inet_aton``
would; and IPv6 has several ways to carry an IPv4 address, so the one inside counts. The URLs come from others:
what is in doubt is refused.
"""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

import idna
from attrs import frozen

from contentcache.core.shown import show_place

Address = IPv4Address | IPv6Address

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]{2,45}\]|[^\s/?#@:\\\[\]%\"<>^`{|}]{1,255})"
    r"(?::(?P<port>[0-9]{0,5}))?(?P<rest>[/?#].*)?",
    re.IGNORECASE | re.ASCII | re.DOTALL,
)
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*", re.ASCII)
_NUMBER = re.compile(r"0x(?P<hex>[0-9a-f]{1,16})|0+(?P<octal>[0-7]{0,16})|(?P<decimal>[1-9][0-9]{0,15})")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\\]")


class Kind(Enum):
    """The kind of an address: it decides whether a redirect may lead there."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    PRIVATE = "private"
    UNUSABLE = "unspecified, multicast or reserved"


@frozen
class Place:
    """
    Scheme, host and port of a URL.

    ``host`` is in lower case and ASCII, without brackets and without a dot at the end.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """
        Where ``url`` leads. Raises ``ValueError`` where that is in doubt.

        >>> Place.of("HTTPS://Registry.Example.COM./v2/")
        Place(scheme='https', host='registry.example.com', port=443)
        >>> Place.of("https://registry.example.com@evil.com/")
        Traceback (most recent call last):
        ...
        ValueError: 'https://evil.com' is not a plain http or https URL
        """
        match = _URL.fullmatch(url)
        if match is None or _UNPRINTABLE.search(url):
            raise ValueError(f"{show_place(url)!r} is not a plain http or https URL")
        scheme = match["scheme"].lower()
        port = int(match["port"]) if match["port"] else DEFAULT_PORTS[scheme]
        if not 0 < port < 1 << 16:
            raise ValueError(f"{show_place(url)!r} has no port between 1 and 65535")
        return cls(scheme, _host(match["host"], url), port)

    @property
    def netloc(self) -> str:
        """
        Host and port as they stand in a URL.

        >>> Place.of("https://[::1]:8443/").netloc
        '[::1]:8443'
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@frozen
class Listed:
    """
    Hosts and blocks of addresses that an operator has listed.

    An entry is a host name (with ``.`` or ``*.`` before it: every host below it), an address,
    a block in CIDR form, or a name or address with a port. With a scheme before it
    (``http://storage.internal:9000``) it is for that scheme, and for its default port if it has none.
    """

    entries: tuple[str, ...] = ()

    def names(self, host: str, port: int, scheme: str | None = None) -> bool:
        """
        Whether the host itself, as it is written, is listed. An entry with a scheme is for that scheme.

        >>> Listed(("storage.internal", "*.s3.internal:9000")).names("a.s3.internal", 9000)
        True
        """
        for entry in self.entries:
            wanted, _, authority = entry.lower().rpartition("://")
            if wanted in {"", scheme} and _names(_with_port(wanted, authority), host, port):
                return True
        return False

    def names_with_scheme(self, place: Place) -> bool:
        """
        Whether a place is listed with its scheme.

        >>> Listed(("http://s3.internal:9000",)).names_with_scheme(Place("http", "s3.internal", 9000))
        True
        >>> Listed(("s3.internal",)).names_with_scheme(Place("http", "s3.internal", 80))
        False
        """
        schemed = Listed(tuple(entry for entry in self.entries if "://" in entry))
        return schemed.names(place.host, place.port, place.scheme)

    def contains(self, address: Address) -> bool:
        """Whether a block or an address without a port that is listed contains ``address``."""
        address = unwrapped(address)
        return any(address in block for entry in self.entries if (block := _block(entry)) is not None)


def _with_port(scheme: str, authority: str) -> str:
    """
    What stands after a scheme, with its port.

    >>> _with_port("http", "a.example"), _with_port("http", "[::1]"), _with_port("", "a.example")
    ('a.example:80', '[::1]:80', 'a.example')
    """
    authority = authority.rstrip("/")
    if not scheme or re.search(r":[0-9]++\Z", authority.rpartition("]")[2]):
        return authority
    return f"{authority}:{DEFAULT_PORTS.get(scheme, 0)}"


def _names(entry: str, host: str, port: int) -> bool:
    """Whether one entry, in lower case, names ``host`` at ``port``."""
    name, colon, wanted = entry.rpartition(":")
    if colon and wanted.isdigit() and (":" not in name or name.endswith("]")):
        if wanted != str(port):
            return False
        entry = name
    entry = entry.strip("[]").rstrip(".")
    if not entry.isascii():
        try:
            entry = idna.encode(entry, uts46=True).decode("ascii")
        except idna.IDNAError:
            return False
    below = entry.removeprefix("*")
    if below.startswith("."):
        return len(below) > 1 and host.endswith(below)
    literal = literal_address(host)
    return entry == host or (literal is not None and literal == literal_address(entry))


def _block(entry: str) -> IPv4Network | IPv6Network | None:
    """The block that an entry stands for, if it is one."""
    try:
        return ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def literal_address(host: str) -> Address | None:
    """
    The address that ``host`` spells out, in any way that a resolver takes for one.

    >>> literal_address("0x7f.1"), literal_address("2130706433"), literal_address("::1")
    (IPv4Address('127.0.0.1'), IPv4Address('127.0.0.1'), IPv6Address('::1'))
    >>> literal_address("example.com") is None
    True
    """
    try:
        return ip_address(host)
    except ValueError:
        return _odd_address(host.lower().removesuffix("."))


def _odd_address(host: str) -> IPv4Address | None:
    """One to four numbers, decimal, octal or hexadecimal, the last one filling what is left."""
    parts = [_NUMBER.fullmatch(part) for part in host.split(".", 4)]
    if len(parts) > 4:  # noqa: PLR2004 - IPv4 has four bytes
        return None
    numbers = []
    for part in parts:
        if part is None:
            return None
        if part["hex"]:
            numbers.append(int(part["hex"], 16))
        elif part["decimal"]:
            numbers.append(int(part["decimal"]))
        else:
            numbers.append(int(part["octal"] or "0", 8))
    *leading, last = numbers
    if any(number >> 8 for number in leading) or last >= 1 << 8 * (4 - len(leading)):
        return None
    value = last
    for place, number in enumerate(leading):
        value |= number << 8 * (3 - place)
    return IPv4Address(value)


def unwrapped(address: Address) -> Address:
    """
    The IPv4 address inside an IPv6 one, where a network may deliver to it: mapped, compatible, translated
    (RFC 2765), NAT64, 6to4, ISATAP.

    >>> unwrapped(ip_address("64:ff9b::7f00:1"))
    IPv4Address('127.0.0.1')
    """
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or address in _TRANSLATED or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if (int(address) >> 32) & 0xFCFFFFFF == _ISATAP:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


_NAT64: Final = IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
#: The first half of an interface identifier of RFC 5214, but for its bits u and g.
_ISATAP: Final = 0x00005EFE
#: Blocks that Python's table, which depends on its version, may have as global.
_PRIVATE: Final = (
    IPv4Network("100.64.0.0/10"),  # carrier-grade NAT (RFC 6598)
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments (RFC 6890)
    IPv4Network("192.88.99.0/24"),  # 6to4 relays (RFC 7526)
    IPv4Network("198.18.0.0/15"),  # benchmarking (RFC 2544)
    IPv4Network("168.63.129.16/32"),  # the host of a virtual machine at Azure
    IPv6Network("2001::/23"),  # Teredo, ORCHID and other protocol assignments (RFC 2928)
    IPv6Network("2001:db8::/32"),  # documentation (RFC 3849)
    IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
#: All that is assigned to anybody (RFC 4291 §2.4); local NAT64 (``64:ff9b:1::/48``, RFC 8215), segment
#: routing (``5f00::/16``), site-local addresses (``fec0::/10``) and what is not assigned are outside.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")


def kind_of(address: Address) -> Kind:
    """
    The kind of ``address``. What is not known to be public is private.

    >>> kind_of(ip_address("169.254.169.254")), kind_of(ip_address("::ffff:10.0.0.1"))
    (<Kind.LINK_LOCAL: 'link-local'>, <Kind.PRIVATE: 'private'>)
    """
    address = unwrapped(address)
    if address.is_loopback:
        return Kind.LOOPBACK
    if address.is_link_local:
        return Kind.LINK_LOCAL
    if address in _LOCAL_NAT64:
        return Kind.PRIVATE
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        return Kind.UNUSABLE
    if not address.is_global or any(address in block for block in _PRIVATE):
        return Kind.PRIVATE
    is_public = isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST
    return Kind.PUBLIC if is_public else Kind.PRIVATE


def _host(host: str, url: str) -> str:
    """A host of a URL in its one spelling."""
    bare = host.lower()
    if bare.startswith("["):
        try:
            return str(IPv6Address(bare.strip("[]")))
        except ValueError as error:
            raise ValueError(f"{show_place(url)!r} has a host that is no IPv6 address") from error
    if not bare.isascii():
        try:
            bare = idna.encode(bare, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"{show_place(url)!r} has a host that is no name") from error
    bare = bare.removesuffix(".")
    if not _HOST.fullmatch(bare):
        raise ValueError(f"{show_place(url)!r} has a host that is no name")
    return bare
