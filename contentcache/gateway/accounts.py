"""
Who is asking, by the word of the registry alone: the gateway has no passwords of its own.

Rules:

* credentials are shown to the registry, and its yes is remembered for ``ttl`` seconds under a keyed hash;
  the yes to a token never outlives the token's ``exp``;
* a yes counts only if the same registry says no to credentials of the same kind that cannot be good: an
  open registry says yes to everybody, and that proves nothing of anybody;
* a user name counts only if the same password is refused under another one, or if the registry's own token
  says whose it is: there are registries for which a password alone is somebody, whatever the name beside it;
* the account is the user name, or the ``sub`` of a token that the registry has accepted: its signature was
  checked there. A token without one is anonymous;
* administrators are the accounts that are named in ``admins``, and those whose accepted token lists
  ``admingroup`` in its claim ``groups``. A registry that gives no such tokens says nothing of groups, and
  then only ``admins`` counts;
* wrong credentials are counted by address (IPv6 by its /64), by account, and by both together, and too many
  are not even looked at. An account alone has the widest bound, so that one stranger cannot lock it for its
  owner.
"""

from __future__ import annotations

import base64
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Final, Protocol

from attrs import field, frozen
from twisted.logger import Logger

from contentcache.core.client_address import counted_address
from contentcache.core.credentials import Credential
from contentcache.core.errors import CacheError
from contentcache.core.ports import Clock, Run
from contentcache.gateway.credentials import (
    BasicCredentials,
    BearerCredentials,
    account_in,
    groups_in,
    parse_credentials,
)
from contentcache.gateway.directory import Choices
from contentcache.gateway.errors import NotAuthenticated, RegistryAway, TooManyAttempts
from contentcache.gateway.throttle import Throttle
from contentcache.jose.bearer_tokens import unverified_expiry

_MOST_REMEMBERED: Final = 10_000
_JWT_DOTS: Final = 2
_log = Logger()

#: Random bytes, so many.
Randomness = Callable[[int], bytes]


@frozen
class Verdict:
    """
    What the registry says to a credential.

    ``account`` and ``groups`` are what the port knows better than the credential says: those of the token
    that a token server gave for a password. ``challenge`` is the registry's ``WWW-Authenticate``.
    """

    accepted: bool
    account: str | None = None
    challenge: str | None = None
    groups: frozenset[str] = frozenset()


class Registry(Protocol):
    """The registry behind, as far as it knows who somebody is."""

    async def accepts(self, authorization: str) -> Verdict:
        """
        ``GET /v2/`` with this ``Authorization``. Where the registry wants a token, a user name and a
        password are changed for one first, as ``docker login`` does it.

        :raises CacheError: the registry, or its token server, did not answer with a yes or a no.
        """


@frozen
class Account:
    """Somebody whom the registry knows."""

    name: str
    is_admin: bool = False


@frozen
class _Yes:
    account: Account = field()
    given: float
    ends: float


class Accounts:
    """Asks the registry, and remembers for a moment."""

    def __init__(
        self,
        registry: Registry,
        choices: Choices,
        *,
        run: Run,
        monotonic: Clock,
        wall: Clock,
        secret: bytes,
        admins: Collection[str] = (),
        admin_group: str | None = None,
        ttl: float = 60.0,
        randomness: Randomness = secrets.token_bytes,
    ) -> None:
        self._registry = registry
        self._choices = choices
        self._run = run
        self._monotonic = monotonic
        self._wall = wall
        self._secret = secret
        self._admins = frozenset(admins)
        self._admin_group = admin_group
        self._ttl = ttl
        self._randomness = randomness
        self._remembered: OrderedDict[bytes, _Yes] = OrderedDict()
        self._throttles = (
            Throttle(burst=10, seconds=15.0),  # of an account from an address
            Throttle(burst=20, seconds=15.0),  # of an address
            Throttle(burst=100, seconds=3.0),  # of an account
        )
        self._checks_passwords_until = float("-inf")

    async def who(self, authorization: str | None, address: str) -> Account:
        """
        Whom the registry takes the owner of this ``Authorization`` for. ``address`` is the client's.

        :raises NotAuthenticated: for nobody.
        :raises TooManyAttempts: there were too many wrong ones.
        :raises RegistryAway: it cannot be asked.
        """
        said = parse_credentials(authorization)
        if said is None:
            raise NotAuthenticated("sign in with an account of the registry")
        key = Credential(said.authorization).key(self._secret, "account")
        known = self._recall(key)
        if known is not None:
            return known
        name = said.username if isinstance(said, BasicCredentials) else account_in(said.claims)
        if name is None:
            raise NotAuthenticated("this token names no account (its sub is empty)")
        now = self._monotonic()
        self._slow_down(address, name, now)
        try:
            account = await self._ask(said, name)
        except RegistryAway:
            self._forgive(address, name)
            raise
        if account is None:
            raise NotAuthenticated("the registry does not accept this account, or not with this password")
        self._forgive(address, name)
        self._remember(key, account, now, said.authorization)
        await self._note(account.name)
        return account

    async def _ask(self, said: BasicCredentials | BearerCredentials, name: str) -> Account | None:
        try:
            verdict = await self._registry.accepts(said.authorization)
            if not verdict.accepted:
                return None
            if not await self._proves_something(said):
                _log.warn(
                    "registry accepts any credentials, sign-in refused",
                    account=name,
                    hint="the registry has no accounts that could sign in",
                )
                return None
            if verdict.account is None and not await self._proves_name(said):
                _log.warn("registry accepts a password under any name, sign-in refused", account=name)
                return None
        except CacheError as error:
            raise RegistryAway(
                "the registry cannot be asked who you are; try again soon", headers={"Retry-After": "5"}
            ) from error
        found = groups_in(said.claims) if isinstance(said, BearerCredentials) else verdict.groups
        name = verdict.account or name
        return Account(
            name, name in self._admins or (self._admin_group is not None and self._admin_group in found)
        )

    async def _proves_something(self, said: BasicCredentials | BearerCredentials) -> bool:
        """
        Whether the registry refuses what is impossible.

        For a token this is asked each time: it may take no notice of some, and of others it does. Passwords
        look alike to it, and each question is a failed sign-in in its log: once in ``ttl`` seconds.
        """
        now = self._monotonic()
        if isinstance(said, BasicCredentials) and now < self._checks_passwords_until:
            return True
        refused = not (await self._registry.accepts(self._impossible(said))).accepted
        if refused and isinstance(said, BasicCredentials):
            self._checks_passwords_until = now + self._ttl
        return refused

    async def _proves_name(self, said: BasicCredentials | BearerCredentials) -> bool:
        """Whether it matters to the registry who shows a password."""
        if not isinstance(said, BasicCredentials):
            return True
        other = BasicCredentials(self._nobody(), said.password)
        return not (await self._registry.accepts(other.authorization)).accepted

    def _nobody(self) -> str:
        """The name of a user that there is not."""
        return "nobody-" + base64.b32encode(self._randomness(10)).decode().lower()

    def _impossible(self, said: BasicCredentials | BearerCredentials) -> str:
        """
        Credentials of the same kind that nobody can have been given: a user of a random name, or the same
        token with another signature.
        """
        noise = base64.urlsafe_b64encode(self._randomness(33)).decode()
        if isinstance(said, BasicCredentials):
            return BasicCredentials(self._nobody(), noise).authorization
        head, dot, _signature = said.token.rpartition(".")
        return BearerCredentials(
            head + dot + noise if head.count(".") + 1 == _JWT_DOTS else noise
        ).authorization

    def _slow_down(self, address: str, name: str, now: float) -> None:
        buckets = self._buckets(address, name)
        wait = max(throttle.wait(key, now) for throttle, key in buckets)
        if wait:
            raise TooManyAttempts(
                f"too many wrong credentials; try again in {wait} s", headers={"Retry-After": str(wait)}
            )
        for throttle, key in buckets:
            throttle.count(key, now)

    def _forgive(self, address: str, name: str) -> None:
        for throttle, key in self._buckets(address, name):
            throttle.take_back(key, self._monotonic())

    def _buckets(self, address: str, name: str) -> list[tuple[Throttle, Hashable]]:
        counted = counted_address(address)
        keys: tuple[Hashable, ...] = ((counted, name), counted, name)
        found = zip(self._throttles, keys, strict=True)
        # Clients of a Unix socket have no address, and are not one.
        return [(throttle, key) for throttle, key in found if key]

    def _recall(self, key: bytes) -> Account | None:
        yes = self._remembered.get(key)
        if yes is None:
            return None
        if self._monotonic() - yes.given >= self._ttl or self._wall() >= yes.ends:
            del self._remembered[key]
            return None
        return yes.account

    def _remember(self, key: bytes, account: Account, now: float, authorization: str) -> None:
        ends = unverified_expiry(authorization)
        self._remembered[key] = _Yes(account, now, float("inf") if ends is None else ends)
        self._remembered.move_to_end(key)
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _note(self, name: str) -> None:
        try:
            await self._run(self._choices.note, name)
        except OSError as error:  # it is somebody all the same
            _log.warn("account not stored", account=name, reason=error)
