"""
The cache directory: which caches there are, and which one a client is sent to. Nothing blocks.

A client is sent to its account's choice, else to the default of its network, else nowhere:

* a choice precedes the network, also where the chosen cache is not alive: then the registry serves;
* of several networks the one with the longest prefix counts;
* an IPv4 address is the same whether it is written alone or inside an IPv6 address (``::ffff:10.0.0.1``,
  RFC 4291 §2.5.5.2), in a client's address and in a network;
* no client is sent to a cache that is not known to be alive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from uuid import UUID

from attrs import frozen
from twisted.logger import Logger

from contentcache.aio.tasks import in_background
from contentcache.core.live import Live
from contentcache.core.lru import LruCache
from contentcache.core.ports import Given, Result, Run
from contentcache.gateway.directory import Cache, DirectoryStore, NameTakenError, parse_host, parse_name
from contentcache.gateway.errors import DirectoryUnavailable, InvalidContentCache, NoSuchContentCache
from contentcache.gateway.liveness import CacheState, Liveness

_log = Logger()

Network = IPv4Network | IPv6Network

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
#: Accounts whose last choice is remembered, for when the database fails.
_MAX_CHOICES: Final = 10_000


@frozen
class NetworkDefaults:
    """Defaults by network: the names of caches, longest prefixes first."""

    defaults: tuple[tuple[Network, str], ...] = ()

    @classmethod
    def of(cls, defaults: Mapping[str, str]) -> NetworkDefaults:
        """
        Parse ``{"10.2.0.0/16": "region-us"}``; bits after the prefix are ignored.

        :raises ValueError: a key is no network.
        """
        parsed = {_plain(ip_network(network, strict=False)): name for network, name in defaults.items()}
        return cls(tuple(sorted(parsed.items(), key=lambda entry: -entry[0].prefixlen)))

    def default(self, address: str) -> str | None:
        """
        Return the name of the cache for a client's address; ``None`` where no network has it, or it is none.

        >>> NetworkDefaults.of({"10.0.0.0/8": "us", "10.2.0.0/16": "eu"}).default("::ffff:10.2.3.4")
        'eu'
        """
        parsed = _address(address)
        if parsed is None:
            return None
        return next((name for network, name in self.defaults if parsed in network), None)


def choose_cache(choice: UUID | None, default: UUID | None, is_alive: Callable[[UUID], bool]) -> UUID | None:
    """Return the cache to send a client to; ``None`` means that the gateway serves the registry's bytes."""
    wanted = default if choice is None else choice
    return wanted if wanted is not None and is_alive(wanted) else None


class CacheDirectory:
    """
    The caches with their states, and the accounts' choices.

    Every method that is asynchronous raises ``DirectoryUnavailable`` where the database fails. ``run`` calls the
    store in a thread, ``new_id`` makes ids for new caches.
    """

    def __init__(
        self,
        store: DirectoryStore,
        liveness: Liveness,
        *,
        run: Run,
        new_id: Callable[[], UUID],
        networks: Live[NetworkDefaults],
    ) -> None:
        self._store = store
        self._liveness = liveness
        self._run = run
        self._new_id = new_id
        self._networks = networks
        self._last_caches: Sequence[Cache] = ()
        self._last_choices: LruCache[str, tuple[UUID | None]] = LruCache(_MAX_CHOICES)
        self._faults: dict[str, str] = {}

    @property
    def states(self) -> Mapping[UUID, CacheState]:
        """What is known of each cache."""
        return self._liveness.states

    async def caches(self) -> Sequence[Cache]:
        """Return all caches, by name."""
        return await self._run_on_store(self._store.caches)

    async def cache(self, cache_id: UUID | None) -> Cache:
        """
        Return one cache.

        :raises NoSuchContentCache: there is none.
        """
        cache = None if cache_id is None else await self._run_on_store(self._store.cache, cache_id)
        if cache is None:
            raise NoSuchContentCache("no cache has this id")
        return cache

    async def add(self, name: str, host: str) -> Cache:
        """
        Add a cache, and probe it at once.

        :raises InvalidContentCache: name or host cannot be what they are, or the name is taken.
        """
        cache = Cache(self._new_id(), parse_name(name), parse_host(host))
        try:
            await self._run_on_store(self._store.add, cache)
        except NameTakenError:
            raise _name_taken(name) from None
        in_background(self._liveness.check(cache))
        return cache

    async def change(self, cache_id: UUID | None, name: str, host: str) -> Cache:
        """
        Give a cache another name or host, and probe it at once. Choices of it stay.

        :raises InvalidContentCache: see :meth:`add`.
        :raises NoSuchContentCache: there is none.
        """
        cache = Cache((await self.cache(cache_id)).id, parse_name(name), parse_host(host))
        try:
            changed = await self._run_on_store(self._store.change, cache)
        except NameTakenError:
            raise _name_taken(name) from None
        if not changed:
            raise NoSuchContentCache("no cache has this id")
        in_background(self._liveness.check(cache))
        return cache

    async def faults(self, name: str, host: str, cache_id: UUID | None = None) -> Mapping[str, str]:
        """All that is wrong with name and host of a new cache, or of the one with this id, by field."""
        named = [cache for cache in await self.caches() if cache.name.lower() == name.lower()]
        is_taken = any(cache.id != cache_id for cache in named)
        faults = {
            "name": _name_taken(name).message if is_taken else _fault_of(parse_name, name),
            "host": _fault_of(parse_host, host),
        }
        return {field: fault for field, fault in faults.items() if fault is not None}

    async def check(self, cache_id: UUID | None) -> tuple[Cache, CacheState]:
        """
        Probe a cache now.

        :raises NoSuchContentCache: there is none.
        """
        cache = await self.cache(cache_id)
        return cache, await self._liveness.check(cache)

    async def remove(self, cache_id: UUID | None) -> None:
        """Remove a cache, if it is there."""
        if cache_id is not None:
            await self._run_on_store(self._store.remove, cache_id)

    async def users(self) -> Mapping[UUID, int]:
        """How many accounts have chosen each cache that any has chosen."""
        return await self._run_on_store(self._store.users)

    async def choice(self, account: str) -> UUID | None:
        """Return what an account has chosen."""
        return await self._run_on_store(self._store.choice, account)

    async def choose(self, account: str, cache_id: UUID | None) -> bool:
        """Set or unset a choice; ``False`` if there is no such cache."""
        return await self._run_on_store(self._store.choose, account, cache_id)

    async def has_account(self, account: str) -> bool:
        """Whether an account has been seen."""
        return await self._run_on_store(self._store.has_account, account)

    async def default(self, address: str) -> Cache | None:
        """Return the cache of those who have chosen nothing, by their address."""
        if self._networks.now.default(address) is None:
            return None
        return self._default(address, await self.caches())

    async def cache_for(self, account: str | None, address: str) -> Cache | None:
        """
        Return the cache to send a client to; ``None`` where the gateway serves it.

        ``address`` is the client's, ``account`` is whom it claims to be. Where the database fails, what was
        last read from it counts.
        """
        try:
            choice = await self._choice_or_last(account)
        except DirectoryUnavailable:
            return None
        caches = await self._caches_or_last()
        default = self._default(address, caches) if choice is None else None
        found = choose_cache(choice, None if default is None else default.id, self._liveness.is_alive)
        return next((cache for cache in caches if cache.id == found), None)

    async def is_answering(self, cache: Cache) -> bool:
        """Whether a client may be sent to a cache now. It may have to be probed first."""
        return await self._liveness.is_answering(cache)

    def _default(self, address: str, caches: Sequence[Cache]) -> Cache | None:
        name = self._networks.now.default(address)
        if name is None:
            return None
        return next((cache for cache in caches if cache.name.lower() == name.lower()), None)

    async def _choice_or_last(self, account: str | None) -> UUID | None:
        """:raises DirectoryUnavailable: it cannot be read, and was never read before."""
        if account is None:
            return None
        try:
            choice = await self.choice(account)
        except DirectoryUnavailable:
            last = self._last_choices.get(account)
            if last is None:
                raise
            return last[0]
        self._last_choices.put(account, (choice,))
        return choice

    async def _caches_or_last(self) -> Sequence[Cache]:
        with suppress(DirectoryUnavailable):
            self._last_caches = await self.caches()
        return self._last_caches

    async def _run_on_store(
        self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Result:
        name = function.__name__
        try:
            result = await self._run(function, *args, **kwargs)
        except OSError as error:
            if self._faults.get(name) != str(error):  # every pull meets it
                self._faults[name] = str(error)
                _log.warn("gateway database failed", operation=name, reason=error)
            raise DirectoryUnavailable(
                "the database of caches does not work now; try again soon", headers={"Retry-After": "5"}
            ) from error
        if self._faults.pop(name, None) is not None:
            _log.info("gateway database works again", operation=name)
        return result


def _fault_of(parse: Callable[[str], str], text: str) -> str | None:
    try:
        parse(text)
    except InvalidContentCache as error:
        return error.message.removeprefix("host: ")
    return None


def _name_taken(name: str) -> InvalidContentCache:
    return InvalidContentCache(f"there is a cache called {name} already", detail={"field": "name"})


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _plain(network: Network) -> Network:
    """A network inside ``::ffff:0:0/96`` as the IPv4 network that it is."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        start = IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return IPv4Network((start, network.prefixlen - _MAPPED.prefixlen))
    return network
