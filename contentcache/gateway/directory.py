"""Which caches there are, and which of them each account has chosen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

from attrs import frozen

from contentcache.config.faults import Wrong
from contentcache.config.urls import base_url_of
from contentcache.gateway.errors import InvalidContentCache

LONGEST_NAME: Final = 64
LONGEST_HOST: Final = 300
LONGEST_ACCOUNT: Final = 255

#: Letters, digits, and between them spaces, dots, dashes and underscores. It means the same in Python
#: and in ECMA-262, which JSON schemas are written in.
NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?$"
#: For the schema. What can be a host exactly is decided by :func:`host_of`: names beyond ASCII can, too.
HOST_PATTERN: Final = (
    r"^https?://([A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?"
    r"|([0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$"
)

_NAME: Final = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@frozen
class Cache:
    """A cache: ``host`` is a URL of scheme, host and port."""

    id: UUID
    name: str
    host: str


class NameTaken(Exception):
    """Another cache has this name, in whichever case."""


class Caches(Protocol):
    """
    The caches. Names are unique, whatever their case: people choose by name, and so do ``networks``.

    Methods may block, and raise ``OSError`` where the disk fails.
    """

    def caches(self) -> Sequence[Cache]:
        """All of them, by name."""

    def cache(self, cache_id: UUID) -> Cache | None:
        """One of them."""

    def add(self, cache: Cache) -> None:
        """
        One more.

        :raises NameTaken: its name is that of another one.
        """

    def remove(self, cache_id: UUID) -> None:
        """One less. Whoever had chosen it has chosen nothing now; nothing happens if there is none."""


class Choices(Protocol):
    """The accounts that have been seen, and what they chose. Methods may block, and raise ``OSError``."""

    def choice(self, account: str) -> UUID | None:
        """The cache that an account chose, if it has chosen one that is still there."""

    def choose(self, account: str, cache_id: UUID | None) -> bool:
        """
        Set or unset an account's choice; the account is then known. ``False``, and nothing is changed,
        if there is no such cache.
        """

    def note(self, account: str) -> None:
        """The registry has accepted this account: it exists."""

    def is_known(self, account: str) -> bool:
        """Whether an account has been noted, or has ever chosen."""


class Directory(Caches, Choices, Protocol):
    """Both, over one file."""

    def close(self) -> None:
        """Give everything back. May be called twice."""


def name_of(written: str) -> str:
    """
    A cache's name, if it can be one.

    >>> name_of("region-us")
    'region-us'

    :raises InvalidContentCache: it cannot.
    """
    if _NAME.match(written) is None:
        raise InvalidContentCache(
            f"a name has 1 to {LONGEST_NAME} letters, digits, and between them spaces, dots, dashes and"
            " underscores, such as region-us",
            detail={"field": "name"},
        )
    return written


def host_of(written: str) -> str:
    """
    A cache's host in its one spelling: scheme, host, and the port unless it is the scheme's own.

    >>> host_of("https://Cache.Example.com:443/")
    'https://cache.example.com'

    :raises InvalidContentCache: it is something else.
    """
    try:
        return base_url_of(written[: LONGEST_HOST + 1])
    except Wrong as wrong:
        raise InvalidContentCache(f"host: {wrong}", detail={"field": "host"}) from None


def id_of(written: str) -> UUID | None:
    """
    A cache's id in the usual spelling of UUIDs, in whichever case; ``None`` for anything else.

    >>> id_of("not-a-uuid") is None
    True
    """
    return UUID(written) if _UUID.fullmatch(written) else None
