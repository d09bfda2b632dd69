"""
Local authentication by a file of Apache's ``htpasswd -B`` (section ``auth.htpasswd``).

Rules:

* only bcrypt counts; a line with anything else is logged by its number and authenticates nobody;
* a changed file is read within a second, and a user that it no longer has is refused from then on;
* while the file cannot be read every request is refused: its owner may have removed it to that end. A broken
  line excludes its user only: to use the old file instead would admit users that the new one no longer has;
* the semaphore of checks is fair by address: hundreds of tries from one delay the others by one check each;
* an unknown user takes as long as a known one;
* a password that was right is in memory for a minute, as a keyed hash: a pull costs one bcrypt, not hundreds.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Final

import bcrypt
from attrs import field, frozen
from twisted.logger import Logger

from contentcache.aio.fair_semaphore import FairSemaphore, QueueBounds
from contentcache.aio.single_flight import SingleFlight
from contentcache.auth.interfaces import Scope, Unauthorized, UsersUnavailable, quoted, read_file
from contentcache.config.model import HtpasswdAuth
from contentcache.core.client_address import counted_address
from contentcache.core.errors import Overloaded
from contentcache.core.grants import Grants
from contentcache.core.http_auth import MAX_CREDENTIALS, credentials_for, decode_basic
from contentcache.core.ports import Run, Timer
from contentcache.persist.atomic_file import UnusableFileError
from contentcache.persist.watched_file import WatchedFiles

_log = Logger()

#: Seconds for which a right password is in memory after it was checked, and the number of them.
PASSWORD_TTL: Final = 60.0
_MOST_PASSWORDS: Final = 10_000

#: Checks in threads at once, and how many more may wait: wrong passwords must not take every thread.
CHECKS: Final = 2
MOST_WAITERS: Final = 64
MOST_WAITERS_OF_AN_ADDRESS: Final = 32

#: bcrypt reads no more. ``htpasswd`` and the registry truncate silently; the module here would raise.
_BCRYPT_BYTES: Final = 72
#: What ``htpasswd`` writes, at costs up to its highest: a check at 17 takes seconds, at 31 a day.
_BCRYPT = re.compile(rb"\$2[aby]\$(?P<cost>0[4-9]|1[0-7])\$[./A-Za-z0-9]{53}")
_DEFAULT_COST: Final = b"05"  # that of htpasswd
_RETRY_AFTER: Final = {"Retry-After": "2"}


@frozen
class HtpasswdUsers:
    """
    The users of a file and their hashes. ``unusable`` are the numbers of lines without a usable hash;
    ``fault`` says why there is no file at all.
    """

    hashes: Mapping[bytes, bytes] = field(factory=dict, repr=False)
    unusable: tuple[int, ...] = ()
    fault: str | None = None

    @property
    def unknown_user(self) -> bytes:
        """A hash to check unknown users against, as costly as most in the file. Its result does not count."""
        costs = Counter(hashed.split(b"$")[2] for hashed in self.hashes.values())
        return b"$2b$%s$" % (costs.most_common(1)[0][0] if costs else _DEFAULT_COST) + b"." * 53


def read_users(path: str) -> HtpasswdUsers:
    """
    Read a file of users: ``name:hash`` a line; blank lines and those that begin with ``#`` are ignored.

    Of two lines for a user the last one counts, as in the registry.

    :raises AuthFault: there is no such file, or it cannot be read.
    """
    hashes: dict[bytes, bytes] = {}
    unusable: list[int] = []
    for number, line in enumerate(read_file(path).split(b"\n"), start=1):
        entry = line.strip()
        if not entry or entry.startswith(b"#"):
            continue
        name, _, hashed = entry.partition(b":")
        hashes.pop(name, None)
        if _BCRYPT.fullmatch(hashed):
            hashes[name] = hashed
        else:
            unusable.append(number)
    return HtpasswdUsers(hashes, tuple(unusable))


def parse_basic(authorization: str | None) -> tuple[bytes, bytes] | None:
    """
    A user's name and password (RFC 7617), ``None`` where the header is something else.

    >>> parse_basic("Basic YWxpY2U6YTpi")
    (b'alice', b'a:b')
    """
    encoded = credentials_for("Basic", authorization)
    if encoded is None or len(encoded) > MAX_CREDENTIALS:
        return None
    given = decode_basic(encoded)
    # A NUL ends a password for some and not for others.
    return None if given is None or b"\0" in b"".join(given) else given


class HtpasswdAuthenticator:
    """
    A :class:`contentcache.auth.interfaces.LocalAuthenticator` for users and passwords.

    Each user may pull everything.

    :param secret: at most 64 bytes that nobody else knows.
    :raises AuthFault: the file cannot be read.
    """

    def __init__(self, settings: HtpasswdAuth, *, run: Run, timer: Timer, secret: bytes) -> None:
        self._challenge = f"Basic realm={quoted(settings.realm)}"
        self._path = settings.path
        self._run = run
        self._timer = timer
        self._secret = secret
        self._right = Grants(ttl=PASSWORD_TTL, capacity=_MOST_PASSWORDS)
        self._checks: SingleFlight[bytes, bool] = SingleFlight()
        self._semaphore: FairSemaphore[str] = FairSemaphore(
            CHECKS, bounds=QueueBounds(MOST_WAITERS, MOST_WAITERS_OF_AN_ADDRESS), refusal=_too_many
        )
        self._warned: tuple[int, ...] = ()
        self._users = WatchedFiles(
            [settings.path],
            partial(read_users, settings.path),
            run=run,
            timer=timer,
            fallback=_unusable,
            meanwhile="nobody is let in",
        )
        self._warn(self._users.latest)

    async def authenticate(
        self,
        authorization: str | None,
        scope: Scope | None,
        base: str,  # noqa: ARG002  # the challenge is the same everywhere
        address: str = "",
    ) -> str:
        """
        Authenticate a user by its password.

        :raises Unauthorized: it is no password of this user.
        :raises UsersUnavailable: the file cannot be read.
        :raises Overloaded: too many passwords are being checked.
        """
        given = parse_basic(authorization)
        if given is None:
            raise Unauthorized("the request has no name and password", self._challenge, scope)
        users = await self._users.current()
        self._warn(users)
        if users.fault is not None:
            raise UsersUnavailable(
                "this cache cannot read its list of users now; tell its operator", headers=_RETRY_AFTER
            )
        name, password = given
        if not await self._is_right(name, password, users, address):
            raise Unauthorized("name and password do not match", self._challenge, scope)
        return name.decode("utf-8", "replace")

    def allows_cached(self, authorization: str | None, scope: Scope) -> bool:  # noqa: ARG002  # see above
        """Whether this password was right lately, with the hash that the file has now."""
        given, users = parse_basic(authorization), self._users.at_hand()
        if given is None or users is None or users.fault is not None:
            return False
        name, password = given
        hashed = users.hashes.get(name)
        return hashed is not None and self._right.is_valid(
            _key(self._secret, name, password, hashed), self._timer.seconds()
        )

    async def _is_right(self, name: bytes, password: bytes, users: HtpasswdUsers, address: str) -> bool:
        """Whether it is the user's password, from memory or checked now."""
        hashed = users.hashes.get(name)
        # The hash is part of the key: it is never asked for again once a user is deleted or changes its password.
        key = _key(self._secret, name, password, hashed or b"")
        if hashed is not None and self._right.is_valid(key, self._timer.seconds()):
            return True
        against = users.unknown_user if hashed is None else hashed
        matches = await self._checks.run(key, partial(self._check, password, against, address))
        # The check may have waited for a permit, and the file may have changed since.
        if not matches or hashed is None or self._users.latest.hashes.get(name) != hashed:
            return False
        self._right.add(key, self._timer.seconds())
        return True

    async def _check(self, password: bytes, hashed: bytes, address: str) -> bool:
        release = await self._semaphore.acquire(counted_address(address))
        try:
            return await self._run(_matches, password, hashed)
        finally:
            release()

    def _warn(self, users: HtpasswdUsers) -> None:
        """Log the lines without a usable hash, once."""
        if users.unusable and users.unusable != self._warned:
            _log.warn(
                "htpasswd lines without a usable hash, their users are refused",
                path=self._path,
                lines=users.unusable[:20],
                hint="store bcrypt hashes of cost 4 to 17: htpasswd -B",
            )
        self._warned = users.unusable


def _too_many() -> Overloaded:
    return Overloaded("too many passwords are being checked; try again soon", headers={"Retry-After": "2"})


def _unusable(error: UnusableFileError) -> HtpasswdUsers:
    return HtpasswdUsers(fault=error.message)


def _matches(password: bytes, hashed: bytes) -> bool:
    """The slow part, in constant time as far as the hashes are compared."""
    try:
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed)
    except ValueError:  # a malformed salt
        return False


def _key(secret: bytes, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(key=secret, digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
