"""
The directory as the API, the pages and the redirects use it: without blocking, and with the rules applied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from twisted.logger import Logger

from contentcache.core.ports import Given, Result, Run
from contentcache.delivery.tasks import in_background
from contentcache.gateway.choosing import Networks, chosen
from contentcache.gateway.directory import Cache, Directory, NameTaken, host_of, name_of
from contentcache.gateway.errors import DirectoryAway, InvalidContentCache, NoSuchContentCache
from contentcache.gateway.liveness import Liveness, State

_log = Logger()


class Roster:
    """
    The caches with their states, and the accounts' choices.

    Every method that is asynchronous raises ``DirectoryAway`` where the database fails.
    ``new_id`` makes ids for new caches.
    """

    def __init__(
        self,
        directory: Directory,
        liveness: Liveness,
        *,
        run: Run,
        new_id: Callable[[], UUID],
        networks: Networks,
    ) -> None:
        self._directory = directory
        self._liveness = liveness
        self._run = run
        self._new_id = new_id
        self._networks = networks

    @property
    def states(self) -> Mapping[UUID, State]:
        """What is known of each cache."""
        return self._liveness.states

    async def caches(self) -> Sequence[Cache]:
        """All of them, by name."""
        return await self._do(self._directory.caches)

    async def cache(self, cache_id: UUID | None) -> Cache:
        """
        One of them.

        :raises NoSuchContentCache: there is none.
        """
        cache = None if cache_id is None else await self._do(self._directory.cache, cache_id)
        if cache is None:
            raise NoSuchContentCache("no cache has this id")
        return cache

    async def add(self, name: str, host: str) -> Cache:
        """
        One more; it is asked at once whether it lives.

        :raises InvalidContentCache: name or host cannot be what they are, or the name is taken.
        """
        cache = Cache(self._new_id(), name_of(name), host_of(host))
        try:
            await self._do(self._directory.add, cache)
        except NameTaken:
            raise InvalidContentCache(
                f"there is a cache called {name} already", detail={"field": "name"}
            ) from None
        in_background(self._look(cache))
        return cache

    async def test(self, cache_id: UUID | None) -> tuple[Cache, State]:
        """
        Ask a cache now.

        :raises NoSuchContentCache: there is none.
        """
        cache = await self.cache(cache_id)
        return cache, await self._liveness.look_at(cache)

    async def remove(self, cache_id: UUID | None) -> None:
        """One less, if it is there."""
        if cache_id is not None:
            await self._do(self._directory.remove, cache_id)

    async def choice(self, account: str) -> UUID | None:
        """What an account chose."""
        return await self._do(self._directory.choice, account)

    async def choose(self, account: str, cache_id: UUID | None) -> bool:
        """Set or unset a choice; ``False`` if there is no such cache."""
        return await self._do(self._directory.choose, account, cache_id)

    async def is_known(self, account: str) -> bool:
        """Whether an account has been seen."""
        return await self._do(self._directory.is_known, account)

    async def default(self, address: str) -> Cache | None:
        """The cache of those who chose nothing, by their address."""
        name = self._networks.default(address)
        if name is None:
            return None
        return next((cache for cache in await self.caches() if cache.name.lower() == name.lower()), None)

    async def cache_for(self, account: str | None, address: str) -> str | None:
        """
        The host to send a client to; ``None``, also where the database fails: the bytes come from here.

        ``address`` is the client's. ``account`` is whom the registry has just said yes to.
        """
        try:
            choice = None if account is None else await self.choice(account)
            default = await self.default(address) if choice is None else None
            found = chosen(choice, None if default is None else default.id, self._liveness.is_alive)
            cache = None if found is None else await self._do(self._directory.cache, found)
        except DirectoryAway:
            return None
        return None if cache is None else cache.host

    async def _look(self, cache: Cache) -> None:
        await self._liveness.look_at(cache)

    async def _do(
        self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        try:
            return await self._run(function, *args, **kwargs)
        except OSError as error:
            _log.warn("the database of caches: {error}", error=str(error))
            raise DirectoryAway(
                "the database of caches does not work now; try again soon", headers={"Retry-After": "5"}
            ) from error
