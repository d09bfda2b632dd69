"""URLs, hosts and addresses, each in one spelling, so that equal ones are equal texts."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

import idna

from contentcache.config.document import Scalar
from contentcache.config.faults import InvalidValueError, Origin, Report
from contentcache.config.model import Address
from contentcache.config.readers import text
from contentcache.config.tables import Item
from contentcache.persist.unix_socket import LONGEST_SOCKET

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
LARGEST_PORT: Final = 65535
LONGEST_HOST: Final = 253

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")


def base_url(item: Item) -> str:
    """A URL that consists of scheme, host and port, such as ``https://registry.example.com``."""
    parts = _split(item)
    if parts.path not in {"", "/"}:
        raise InvalidValueError(f"{item.described()} has a path; registries stand at the root of their host")
    return f"{parts.scheme}://{_authority(parts, item)}"


def base_url_of(written: str) -> str:
    """
    The same for a text that does not stand in a file.

    >>> base_url_of("https://Cache.example.com:443/")
    'https://cache.example.com'

    :raises InvalidValueError: it is something else; the message repeats no password.
    """
    return base_url(Item(Scalar(Origin(), written, written), "", Report()))


def url(item: Item) -> str:
    """A URL that may have a path."""
    parts = _split(item)
    return f"{parts.scheme}://{_authority(parts, item)}{parts.path.rstrip('/')}"


def realm_url(item: Item) -> str:
    """A URL that clients are given as it is written, perhaps with a path and a query."""
    written = text(item)
    _authority(_split(item, query=True), item)
    if not re.fullmatch(r"[!#-\[\]-~]+", written):
        raise InvalidValueError(f"{item.described()} must be ASCII without quotes, since a header carries it")
    return written


def url_or_authority(item: Item) -> str:
    """A URL, or a host with or without a port."""
    return url(item) if "://" in text(item) else authority(item)


def network(item: Item) -> str:
    """An address or a range of addresses, as a range."""
    try:
        return str(ip_network(text(item).strip("[]"), strict=False))
    except ValueError:
        raise InvalidValueError(
            f"{item.described()} is neither an address nor a network; write e.g. 10.0.0.0/8"
        ) from None


def authority(item: Item) -> str:
    """A host, with a port or without, in lower case and ASCII."""
    written = text(item)
    match = _AUTHORITY.fullmatch(written)
    if match is None or not match["host"] or "/" in written:
        raise InvalidValueError(
            f"{item.described()} is not a host; write e.g. registry.example.com or registry.example.com:5000"
        )
    port = "" if match["port"] is None else f":{_port(match['port'], item, least=1)}"
    return _host(match["host"], item) + port


def authority_of(base: str) -> str:
    """
    Host and port of a URL that :func:`base_url` made.

    >>> authority_of("https://[::1]:5000")
    '[::1]:5000'
    """
    return base.partition("://")[2]


def without_default_port(name: str, scheme: str) -> str:
    """
    A host without the port that its scheme has anyway.

    >>> without_default_port("quay.io:443", "https")
    'quay.io'
    """
    return name.removesuffix(f":{DEFAULT_PORTS[scheme]}")


def nat64_prefix(item: Item) -> str:
    """A range of IPv6 addresses, as in ``2001:db8:64::/96``."""
    try:
        return str(IPv6Network(text(item)))
    except ValueError:
        raise InvalidValueError(
            f"{item.described()} is not a range of IPv6 addresses; write e.g. 2001:db8:64::/96"
        ) from None


def redirect_target(item: Item) -> str:
    """
    A host name, an IP address, or a range of addresses as in ``10.0.0.0/8``; or a scheme, a host and maybe a
    port, as in ``http://storage.internal:9000``.
    """
    written = text(item)
    scheme, mark, authority = written.partition("://")
    if not mark:
        return host_or_network(item)
    match = _AUTHORITY.fullmatch(authority.removesuffix("/"))
    if scheme.lower() not in DEFAULT_PORTS or match is None or not match["host"] or "/" in authority[:-1]:
        raise InvalidValueError(
            f"{item.described()} is not a place to redirect to; write e.g. http://storage.internal:9000, with"
            " nothing behind the port"
        )
    port = "" if match["port"] is None else f":{_port(match['port'], item, least=1)}"
    # A name may have "*." or "." before it, for every host below it.
    name = match["host"].removeprefix("*").removeprefix(".")
    before = match["host"].removesuffix(name)
    return f"{scheme.lower()}://{before}{_host(name, item)}{port}"


def host_or_network(item: Item) -> str:
    """A host name, an IP address, or a range of addresses as in ``10.0.0.0/8``."""
    written = text(item)
    if "/" in written or ":" in written:
        try:
            network = ip_network(written.strip("[]"), strict=False)
        except ValueError:
            raise InvalidValueError(
                f"{item.described()} is not a host name, an IP address or a range such as 10.0.0.0/8"
            ) from None
        return str(network) if "/" in written else str(network.network_address)
    return _host(written, item)


def address(item: Item) -> Address:
    """Where to listen over TCP: ``:5000``, ``host:5000``, ``[::1]:5000``."""
    match = _AUTHORITY.fullmatch(text(item))
    if match is None or match["port"] is None:
        raise InvalidValueError(
            f"{item.described()} is not an address to listen on; write e.g. :5000, 127.0.0.1:5000 or [::1]:5000"
        )
    host = _host(match["host"], item).strip("[]") if match["host"] else ""
    return Address(host, _port(match["port"], item, least=0))


def socket_file(item: Item) -> Address:
    """Where to listen with ``net: unix``: the path of a socket."""
    path = text(item)
    if len(path.encode()) > LONGEST_SOCKET:
        raise InvalidValueError(
            f"{item.described()} is longer than the {LONGEST_SOCKET} bytes that a socket's path may have"
        )
    return Address("", 0, path)


def _split(item: Item, *, query: bool = False) -> SplitResult:
    written = text(item)
    try:
        parts = urlsplit(written)
    except ValueError:
        raise InvalidValueError(
            f"{item.described()} is not a URL; write e.g. https://registry.example.com"
        ) from None
    if "@" in parts.netloc:
        # What stands there may be a password: it is not repeated.
        raise InvalidValueError("the URL holds a user name or a password; use the keys username and password")
    if parts.scheme not in DEFAULT_PORTS or not written[len(parts.scheme) :].startswith("://"):
        raise InvalidValueError(
            f"{item.described()} is not a URL of http or https; write e.g. https://registry.example.com"
        )
    if ("?" in written and not query) or "#" in written:
        raise InvalidValueError(
            f"{item.described()} has a query or a fragment; leave out what follows ? or #"
        )
    if re.search(r"[\s\\]", written):
        raise InvalidValueError(f"{item.described()} is not a URL: it holds a space or a backslash")
    return parts


def _authority(parts: SplitResult, item: Item) -> str:
    match = _AUTHORITY.fullmatch(parts.netloc)
    if match is None or not match["host"]:
        raise InvalidValueError(
            f"{item.described()} is a URL without a proper host; write e.g. https://registry.example.com"
        )
    host = _host(match["host"], item)
    if not match["port"]:
        return host
    return without_default_port(f"{host}:{_port(match['port'], item, least=1)}", parts.scheme)


def _port(digits: str, item: Item, *, least: int) -> int:
    if not _PORT.fullmatch(digits) or not least <= int(digits) <= LARGEST_PORT:
        raise InvalidValueError(
            f"{item.described()} has no port between {least} and {LARGEST_PORT} at its end"
        )
    return int(digits)


def _host(written: str, item: Item) -> str:
    """A host in lower case: IPv6 addresses in brackets, names in ASCII (IDNA 2008, UTS #46)."""
    try:
        if written.startswith("[") and "%" not in written:
            return f"[{IPv6Address(written[1:-1])}]"
        name = written if written.isascii() else idna.encode(written, uts46=True).decode()
        name = name.lower().removesuffix(".")
        labels = name.split(".")
        if labels[-1].isdigit():
            return str(IPv4Address(name))
    except (AddressValueError, UnicodeError) as error:
        raise InvalidValueError(f"{item.described()} has no proper host name or address") from error
    if len(name) > LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidValueError(f"{item.described()} has no proper host name or address")
    return name
