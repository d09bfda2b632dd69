"""
Who a client is, decided by the registry alone: the gateway has no passwords of its own.

Rules:

* credentials are shown to the registry; that it accepts them is remembered for ``ttl`` seconds under a keyed
  hash, and for a token not beyond its ``exp``;
* to be accepted counts only if the same registry refuses credentials of the same kind that cannot be valid: an
  open registry accepts everything, and that proves nothing;
* a user name counts only if the same password is refused under another one, or if the registry's own token
  names the account: for some registries a password alone is an account, whatever the name beside it;
* the account is the user name, or the ``sub`` of a token that the registry has accepted: its signature was
  checked there. A token without one is anonymous;
* administrators are the accounts that are named in ``admins``, and those whose accepted token lists
  ``admingroup`` in its claim ``groups``. A registry that issues no such tokens states no groups, and then only
  ``admins`` counts;
* wrong credentials are counted by address (IPv6 by its /64), by account, and by both together, and after too
  many further ones are not checked. An account alone has the widest bound, so that one unknown client cannot
  lock it for its owner.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Hashable
from typing import Final

from attrs import field, frozen
from twisted.logger import Logger

from contentcache.core.base64url import base64url_encode
from contentcache.core.client_address import counted_address
from contentcache.core.credentials import Credential
from contentcache.core.errors import CacheError
from contentcache.core.live import Live
from contentcache.core.lru import LruCache
from contentcache.core.ports import Clock, Run
from contentcache.gateway.credentials import (
    BasicCredentials,
    BearerCredentials,
    account_in,
    groups_in,
    parse_credentials,
)
from contentcache.gateway.directory import DirectoryStore
from contentcache.gateway.errors import AuthenticationUnavailable, NotAuthenticated, TooManyAttempts
from contentcache.gateway.registry_login import RegistryLogin
from contentcache.jose.claims import unverified_expiry

_MAX_REMEMBERED: Final = 10_000
_MAX_BUCKETS: Final = 50_000
_JWT_DOTS: Final = 2
_log = Logger()

#: Returns so many random bytes.
Randomness = Callable[[int], bytes]


@frozen
class User:
    """An account of the registry."""

    name: str
    is_admin: bool = False


@frozen
class AccountPolicy:
    """Who is an administrator, and for how many seconds what the registry said of credentials is remembered."""

    admins: Collection[str] = ()
    admin_group: str | None = None
    ttl: float = 60.0

    def is_admin(self, name: str, groups: Collection[str]) -> bool:
        """Whether this account is an administrator."""
        return name in self.admins or (self.admin_group is not None and self.admin_group in groups)


@frozen
class _Accepted:
    user: User = field()
    since: float
    expires: float


class Authenticator:
    """Asks the registry who a client is, and remembers it."""

    def __init__(
        self,
        login: RegistryLogin,
        store: DirectoryStore,
        policy: Live[AccountPolicy],
        *,
        run: Run,
        monotonic: Clock,
        wall: Clock,
        secret: bytes,
        randomness: Randomness,
    ) -> None:
        self._login = login
        self._store = store
        self._run = run
        self._monotonic = monotonic
        self._wall = wall
        self._secret = secret
        self._policy = policy
        self._randomness = randomness
        self._remembered: LruCache[bytes, _Accepted] = LruCache(_MAX_REMEMBERED)
        self._throttles = (
            Throttle(burst=10, seconds=15.0),  # of an account from an address
            Throttle(burst=20, seconds=15.0),  # of an address
            Throttle(burst=100, seconds=3.0),  # of an account
        )
        self._checks_passwords_until = float("-inf")

    async def authenticate(self, authorization: str | None, address: str) -> User:
        """
        Return whose credentials are in this ``Authorization``. ``address`` is the client's.

        :raises NotAuthenticated: the registry refuses them, or there are none.
        :raises TooManyAttempts: there were too many wrong ones.
        :raises AuthenticationUnavailable: the registry cannot be asked.
        """
        credentials = parse_credentials(authorization)
        if credentials is None:
            raise NotAuthenticated("sign in with an account of the registry")
        key = Credential(credentials.authorization).key(self._secret, "account")
        remembered = self._recall(key)
        if remembered is not None:
            return remembered
        if isinstance(credentials, BasicCredentials):
            name: str | None = credentials.username
        else:
            name = account_in(credentials.claims)
        if name is None:
            raise NotAuthenticated("this token names no account (its sub is empty)")
        now = self._monotonic()
        self._throttle(address, name, now)
        try:
            user = await self._ask(credentials, name)
        except AuthenticationUnavailable:
            self._forgive(address, name)
            raise
        if user is None:
            raise NotAuthenticated("the registry does not accept this account, or not with this password")
        self._forgive(address, name)
        expires = unverified_expiry(credentials.authorization)
        self._remembered.put(key, _Accepted(user, now, float("inf") if expires is None else expires))
        await self._add_account(user.name)
        return user

    async def _ask(self, credentials: BasicCredentials | BearerCredentials, name: str) -> User | None:
        try:
            decision = await self._login.decide(credentials.authorization)
            if not decision.accepted:
                return None
            if not await self._refuses_impossible(credentials):
                _log.warn(
                    "registry accepts any credentials, sign-in refused",
                    account=name,
                    hint="the registry has no accounts that could sign in",
                )
                return None
            if decision.account is None and not await self._checks_name(credentials):
                _log.warn("registry accepts a password under any name, sign-in refused", account=name)
                return None
        except CacheError as error:
            raise AuthenticationUnavailable(
                "the registry cannot be asked who you are; try again soon", headers={"Retry-After": "5"}
            ) from error
        groups = decision.groups
        if isinstance(credentials, BearerCredentials):
            groups = groups_in(credentials.claims)
        name = decision.account or name
        return User(name, self._policy.now.is_admin(name, groups))

    async def _refuses_impossible(self, credentials: BasicCredentials | BearerCredentials) -> bool:
        """
        Whether the registry refuses credentials that cannot be valid.

        For a token this is asked each time: the registry may ignore some and check others. For passwords each
        such question is a failed sign-in in its log: once in ``ttl`` seconds.
        """
        now = self._monotonic()
        if isinstance(credentials, BasicCredentials) and now < self._checks_passwords_until:
            return True
        refused = not (await self._login.decide(self._impossible(credentials))).accepted
        if refused and isinstance(credentials, BasicCredentials):
            self._checks_passwords_until = now + self._policy.now.ttl
        return refused

    async def _checks_name(self, credentials: BasicCredentials | BearerCredentials) -> bool:
        """Whether the registry refuses the same password under another name."""
        if not isinstance(credentials, BasicCredentials):
            return True
        other = BasicCredentials(self._random_name(), credentials.password)
        return not (await self._login.decide(other.authorization)).accepted

    def _random_name(self) -> str:
        return "nobody-" + base64.b32encode(self._randomness(10)).decode().lower()

    def _impossible(self, credentials: BasicCredentials | BearerCredentials) -> str:
        """
        Credentials of the same kind that were never issued: a user of a random name, or the same
        token with another signature.
        """
        noise = base64url_encode(self._randomness(33))
        if isinstance(credentials, BasicCredentials):
            return BasicCredentials(self._random_name(), noise).authorization
        head, dot, _signature = credentials.token.rpartition(".")
        return BearerCredentials(
            head + dot + noise if head.count(".") + 1 == _JWT_DOTS else noise
        ).authorization

    def _throttle(self, address: str, name: str, now: float) -> None:
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
            throttle.forgive(key, self._monotonic())

    def _buckets(self, address: str, name: str) -> list[tuple[Throttle, Hashable]]:
        counted = counted_address(address)
        keys: tuple[Hashable, ...] = ((counted, name), counted, name)
        found = zip(self._throttles, keys, strict=True)
        # Clients of a Unix socket have no address, and are not counted by it.
        return [(throttle, key) for throttle, key in found if key]

    def _recall(self, key: bytes) -> User | None:
        accepted = self._remembered.get(key)
        if accepted is None:
            return None
        if self._monotonic() - accepted.since >= self._policy.now.ttl or self._wall() >= accepted.expires:
            self._remembered.remove(key)
            return None
        return accepted.user

    async def _add_account(self, name: str) -> None:
        try:
            await self._run(self._store.add_account, name)
        except OSError as error:  # the account is accepted all the same
            _log.warn("account not stored", account=name, reason=error)


@frozen
class _Bucket:
    level: float
    when: float


class Throttle:
    """
    Leaky buckets: each key may fail ``burst`` times at once, and once more every ``seconds``.

    Times are monotonic seconds, passed by the caller.
    """

    def __init__(self, *, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._buckets: LruCache[Hashable, _Bucket] = LruCache(_MAX_BUCKETS)

    def wait(self, key: Hashable, now: float) -> int:
        """Return the seconds until the next attempt is allowed; 0 if one may be made now."""
        excess = self._level(key, now) + 1 - self._burst
        return max(0, math.ceil(excess * self._seconds))

    def count(self, key: Hashable, now: float) -> None:
        """Count an attempt as a failure, until it is forgiven."""
        self._set(key, self._level(key, now) + 1, now)

    def forgive(self, key: Hashable, now: float) -> None:
        """The attempt was no failure."""
        self._set(key, self._level(key, now) - 1, now)

    def _level(self, key: Hashable, now: float) -> float:
        bucket = self._buckets.peek(key)
        return 0.0 if bucket is None else max(0.0, bucket.level - (now - bucket.when) / self._seconds)

    def _set(self, key: Hashable, level: float, now: float) -> None:
        self._buckets.remove(key)
        if level > 0:
            self._buckets.put(key, _Bucket(level, now))
