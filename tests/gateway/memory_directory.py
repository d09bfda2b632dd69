"""The store of the cache directory in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

from contentcache.gateway.directory import Cache, NameTakenError


class MemoryDirectory:
    """A :class:`~contentcache.gateway.directory.DirectoryStore` that ends with the process."""

    def __init__(self) -> None:
        self._caches: dict[UUID, Cache] = {}
        self._choices: dict[str, UUID | None] = {}

    def caches(self) -> Sequence[Cache]:
        """All caches, by name."""
        return sorted(self._caches.values(), key=lambda cache: cache.name.lower())

    def cache(self, cache_id: UUID) -> Cache | None:
        """One cache."""
        return self._caches.get(cache_id)

    def add(self, cache: Cache) -> None:
        """Add a cache."""
        self._check_name(cache)
        self._caches[cache.id] = cache

    def change(self, cache: Cache) -> bool:
        """Give a cache another name or host."""
        self._check_name(cache)
        if cache.id not in self._caches:
            return False
        self._caches[cache.id] = cache
        return True

    def _check_name(self, cache: Cache) -> None:
        for other in self._caches.values():
            if other.id != cache.id and other.name.lower() == cache.name.lower():
                raise NameTakenError(cache.name)

    def remove(self, cache_id: UUID) -> None:
        """Remove a cache, and all choices of it."""
        self._caches.pop(cache_id, None)
        for account, choice in self._choices.items():
            if choice == cache_id:
                self._choices[account] = None

    def users(self) -> Mapping[UUID, int]:
        """How many accounts have chosen each cache."""
        return Counter(choice for choice in self._choices.values() if choice is not None)

    def choice(self, account: str) -> UUID | None:
        """The cache that an account has chosen."""
        return self._choices.get(account)

    def choose(self, account: str, cache_id: UUID | None) -> bool:
        """Set or unset an account's choice."""
        if cache_id is not None and cache_id not in self._caches:
            return False
        self._choices[account] = cache_id
        return True

    def add_account(self, account: str) -> None:
        """Add an account."""
        self._choices.setdefault(account, None)

    def has_account(self, account: str) -> bool:
        """Whether an account was added, or has ever chosen."""
        return account in self._choices

    def close(self) -> None:
        """Nothing."""
