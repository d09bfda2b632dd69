"""The directory as the API, the pages and the redirects use it: without blocking, and with the rules applied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

from twisted.logger import Logger

from contentcache.aio.tasks import in_background
from contentcache.core.ports import Given, Result, Run
from contentcache.gateway.choosing import Networks, chosen
from contentcache.gateway.directory import Cache, Directory, NameTaken, host_of, name_of
from contentcache.gateway.errors import DirectoryAway, InvalidContentCache, NoSuchContentCache
from contentcache.gateway.liveness import Liveness, State

_log = Logger()

#: Accounts whose last choice is remembered, for when the database fails.
_MOST_CHOICES: Final = 10_000
#: In place of a choice that cannot be read and was never read before.
_UNKNOWN: Final = UUID(int=0)


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
        self._last_caches: Sequence[Cache] = ()
        self._last_choices: OrderedDict[str, UUID | None] = OrderedDict()
        self._faults: dict[str, str] = {}

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
        if self._networks.default(address) is None:
            return None
        return self._default(address, await self.caches())

    async def cache_for(self, account: str | None, address: str) -> Cache | None:
        """
        The cache to send a client to; ``None``: the bytes come from here.

        ``address`` is the client's. ``account`` is whom the client says that it is. Where the database fails,
        what was last read from it counts.
        """
        choice = await self._choice_or_last(account)
        if choice is _UNKNOWN:
            return None
        caches = await self._caches_or_last()
        default = self._default(address, caches) if choice is None else None
        found = chosen(choice, None if default is None else default.id, self._liveness.is_alive)
        return next((cache for cache in caches if cache.id == found), None)

    async def is_answering(self, cache: Cache) -> bool:
        """Whether a client may be sent to a cache now. It may have to be asked first."""
        return await self._liveness.is_answering(cache)

    def _default(self, address: str, caches: Sequence[Cache]) -> Cache | None:
        name = self._networks.default(address)
        if name is None:
            return None
        return next((cache for cache in caches if cache.name.lower() == name.lower()), None)

    async def _choice_or_last(self, account: str | None) -> UUID | None:
        """What an account chose, as far as is known; ``_UNKNOWN`` where that cannot be said."""
        if account is None:
            return None
        try:
            choice = await self.choice(account)
        except DirectoryAway:
            return self._last_choices.get(account, _UNKNOWN)
        self._last_choices[account] = choice
        self._last_choices.move_to_end(account)
        while len(self._last_choices) > _MOST_CHOICES:
            self._last_choices.popitem(last=False)
        return choice

    async def _caches_or_last(self) -> Sequence[Cache]:
        with suppress(DirectoryAway):
            self._last_caches = await self.caches()
        return self._last_caches

    async def _look(self, cache: Cache) -> None:
        await self._liveness.look_at(cache)

    async def _do(
        self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        name = function.__name__
        try:
            result = await self._run(function, *args, **kwargs)
        except OSError as error:
            if self._faults.get(name) != str(error):  # every pull meets it
                self._faults[name] = str(error)
                _log.warn("gateway database failed", operation=name, reason=error)
            raise DirectoryAway(
                "the database of caches does not work now; try again soon", headers={"Retry-After": "5"}
            ) from error
        if self._faults.pop(name, None) is not None:
            _log.info("gateway database works again", operation=name)
        return result
