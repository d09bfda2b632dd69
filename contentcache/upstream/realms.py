"""
Where a password may be sent for a token.

A challenge names the place to go with the password, and whoever can answer a request can write
a challenge. So a realm gets one only on the registry's own host or site, or where the operator
has listed it: a challenge must not be able to steal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from publicsuffixlist import PublicSuffixList

from contentcache.upstream.addresses import Listed, Place, literal_address

_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)


def may_have_password(realm: str, registry: str, listed: Sequence[str] = ()) -> bool:
    """
    Whether the realm of a bearer challenge may be sent the account's password.

    ``realm`` is the URL in the challenge, ``registry`` the one we asked. ``listed`` holds URLs,
    which permit all that lies below their path, and hosts with or without a port. A realm has to
    be ``https`` unless the registry itself is not, or a listed URL says ``http``.

    >>> may_have_password("https://auth.docker.io/token", "https://registry-1.docker.io")
    True
    >>> may_have_password("https://registry.example.com@evil.com/", "https://registry.example.com")
    False
    """
    try:
        there, here = Place.of(realm), Place.of(registry)
    except ValueError:
        return False
    if not realm.isascii():  # RFC 3986 §2: nothing honest needs more, and look-alikes do
        return False
    if any(_below(realm, there, entry) for entry in listed if "://" in entry):
        return True
    if there.scheme != "https" and here.scheme != "http":
        return False
    hosts = Listed(tuple(entry for entry in listed if "://" not in entry))
    return there.host == here.host or hosts.names(there.host, there.port) or _one_site(there.host, here.host)


def is_listed(realm: str, listed: Sequence[str]) -> bool:
    """
    Whether the operator has listed the realm, and answers for the address that it is at.

    >>> is_listed("https://auth.example/token", ["auth.example"]), is_listed("https://auth.example/token", [])
    (True, False)
    """
    place = Place.of(realm)
    hosts = Listed(tuple(entry for entry in listed if "://" not in entry))
    return hosts.names(place.host, place.port) or any(
        _below(realm, place, entry) for entry in listed if "://" in entry
    )


def _below(realm: str, there: Place, entry: str) -> bool:
    """Whether a realm is the listed URL or lies below it, whole path components counting."""
    try:
        if Place.of(entry) != there:
            return False
    except ValueError:
        return False
    wanted, path = _path(entry).rstrip("/"), _path(realm)
    if not wanted:
        return True
    if any(_DOTS.fullmatch(component) for component in path.split("/")):
        return False
    return path == wanted or path.startswith(wanted + "/")


def _path(url: str) -> str:
    """The path of a URL that ``Place`` has understood, without query and fragment."""
    rest = url.split("://", 1)[1]
    before = re.split(r"[?#]", rest, maxsplit=1)[0]
    _, slash, path = before.partition("/")
    return slash + path


def _one_site(one: str, other: str) -> bool:
    """Whether two hosts have the same registrable domain; addresses and single labels have none."""
    if literal_address(one) is not None or literal_address(other) is not None:
        return False
    site = _suffixes().privatesuffix(one)
    return site is not None and site == _suffixes().privatesuffix(other)


@cache
def _suffixes() -> PublicSuffixList:
    """The public suffix list that comes with the package: some 50 ms to read, so once."""
    return PublicSuffixList()
