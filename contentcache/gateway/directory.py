"""What the cache directory stores: which caches there are, and which of them each account has chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

from attrs import frozen

from contentcache.config.faults import InvalidValueError
from contentcache.config.urls import base_url_of
from contentcache.gateway.errors import InvalidContentCache

LONGEST_NAME: Final = 64
LONGEST_HOST: Final = 300
LONGEST_ACCOUNT: Final = 255

#: Letters, digits, and between them spaces, dots, dashes and underscores. It means the same in Python
#: and in ECMA-262, which JSON schemas are written in.
NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?$"
#: For the schema. :func:`parse_host` decides exactly what can be a host: names beyond ASCII can, too.
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


class NameTakenError(Exception):
    """Another cache has this name, in whichever case."""


class DirectoryStore(Protocol):
    """
    The caches, the accounts that have been seen, and what they have chosen. Names of caches are unique,
    whatever their case: people choose by name, and so does ``networks``.

    Methods may block, and raise ``OSError`` where the disk fails.
    """

    def caches(self) -> Sequence[Cache]:
        """All caches, by name."""

    def cache(self, cache_id: UUID) -> Cache | None:
        """One cache."""

    def add(self, cache: Cache) -> None:
        """
        Add a cache.

        :raises NameTakenError: its name is that of another one.
        """

    def change(self, cache: Cache) -> bool:
        """
        Give the cache with this id another name or host; choices of it stay. ``False`` if there is none.

        :raises NameTakenError: the name is that of another one.
        """

    def remove(self, cache_id: UUID) -> None:
        """Remove a cache, and all choices of it; nothing happens if there is none."""

    def users(self) -> Mapping[UUID, int]:
        """How many accounts have chosen each cache that any has chosen."""

    def choice(self, account: str) -> UUID | None:
        """The cache that an account has chosen, if it has chosen one that still exists."""

    def choose(self, account: str, cache_id: UUID | None) -> bool:
        """Set or unset an account's choice, and add the account; ``False`` if there is no such cache."""

    def add_account(self, account: str) -> None:
        """Add an account that the registry has accepted."""

    def has_account(self, account: str) -> bool:
        """Whether an account was added, or has ever chosen."""

    def close(self) -> None:
        """Release everything. May be called twice."""


def parse_name(text: str) -> str:
    """
    Return a cache's name, if it can be one.

    >>> parse_name("region-us")
    'region-us'

    :raises InvalidContentCache: it cannot.
    """
    if _NAME.match(text) is None:
        raise InvalidContentCache(
            f"a name has 1 to {LONGEST_NAME} letters, digits, and between them spaces, dots, dashes and"
            " underscores, such as region-us",
            detail={"field": "name"},
        )
    return text


def parse_host(text: str) -> str:
    """
    Return a cache's host in its one spelling: scheme, host, and the port unless it is the scheme's own.

    >>> parse_host("https://Cache.Example.com:443/")
    'https://cache.example.com'

    :raises InvalidContentCache: it is something else.
    """
    if not text:
        raise InvalidContentCache(
            "host: it is missing; write e.g. https://us.cache.example.com", detail={"field": "host"}
        )
    try:
        return base_url_of(text[: LONGEST_HOST + 1])
    except InvalidValueError as wrong:
        raise InvalidContentCache(f"host: {wrong}", detail={"field": "host"}) from None


def parse_id(text: str) -> UUID | None:
    """
    Return a cache's id in the usual spelling of UUIDs, in whichever case; ``None`` for anything else.

    >>> parse_id("not-a-uuid") is None
    True
    """
    return UUID(text) if _UUID.fullmatch(text) else None
