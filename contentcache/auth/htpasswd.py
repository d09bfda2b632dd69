"""
Users and passwords in a file of Apache's ``htpasswd -B`` (section ``auth.htpasswd``).

Rules:

* only bcrypt counts; a line that is something else is logged by its number, and lets nobody in;
* a changed file is seen within a second; what is gone from it is gone, also for those who were let in before;
* a file that cannot be read lets nobody in: its owner may have removed it to that end, and an old list would
  keep doors open that were closed. A broken line costs its user only, for the same reason: to keep the whole
  old file because of it would keep users who are no longer in the new one;
* addresses take turns: who tries passwords by the hundred delays others by their own turns only;
* an unknown user takes as long as a known one;
* a password that was right is remembered for a minute, so that a pull costs one hash and not hundreds.
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
from contentcache.auth.files import read_file
from contentcache.auth.interfaces import (
    AccountsUnavailable,
    Identity,
    Need,
    Unauthorized,
    quoted,
)
from contentcache.config.model import HtpasswdAuth
from contentcache.core.client_address import counted_address
from contentcache.core.errors import Overloaded
from contentcache.core.grants import Grants
from contentcache.core.http_auth import MAX_CREDENTIALS, credentials_for, decode_basic
from contentcache.core.ports import Run, Timer
from contentcache.persist.atomic_file import UnusableFileError
from contentcache.persist.watched_file import WatchedFiles

_log = Logger()

#: Seconds for which a right password is remembered after it was checked.
REMEMBERED: Final = 60.0
MOST_REMEMBERED: Final = 10_000

#: Checks in threads at once, and how many more may wait: wrong passwords must not take every thread.
CHECKS: Final = 2
MOST_WAITERS: Final = 64
MOST_WAITERS_OF_AN_ADDRESS: Final = 32

#: bcrypt looks no further. ``htpasswd`` and the registry cut silently; the module here would raise.
_BCRYPT_BYTES: Final = 72
#: What ``htpasswd`` makes, at costs up to its highest: a check at 17 takes seconds, at 31 a day.
_BCRYPT = re.compile(rb"\$2[aby]\$(?P<cost>0[4-9]|1[0-7])\$[./A-Za-z0-9]{53}")
_NAMELESS_COST: Final = b"05"  # what htpasswd does if nothing is said
_RETRY_AFTER: Final = {"Retry-After": "2"}


@frozen
class Accounts:
    """
    The users of a file and their hashes. ``unusable`` are the numbers of lines that let nobody in; ``fault``
    says why there is no file at all.
    """

    hashes: Mapping[bytes, bytes] = field(factory=dict, repr=False)
    unusable: tuple[int, ...] = ()
    fault: str | None = None

    @property
    def nobody(self) -> bytes:
        """A hash for users that there are not, as costly as most in the file. What it answers does not count."""
        costs = Counter(hashed.split(b"$")[2] for hashed in self.hashes.values())
        return b"$2b$%s$" % (costs.most_common(1)[0][0] if costs else _NAMELESS_COST) + b"." * 53


def read_accounts(path: str) -> Accounts:
    """
    Read a file of users: ``name:hash`` a line, blank lines and those that begin with ``#`` aside.

    Of a user who stands there twice the last line counts, as in the registry.

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
    return Accounts(hashes, tuple(unusable))


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


class PasswordJudge:
    """
    A :class:`contentcache.auth.interfaces.Judge` that knows users by their passwords.

    Each of them may have everything.

    :param secret: at most 64 bytes that nobody else knows.
    :raises AuthFault: the file cannot be read.
    """

    def __init__(self, settings: HtpasswdAuth, *, run: Run, timer: Timer, secret: bytes) -> None:
        self._challenge = f"Basic realm={quoted(settings.realm)}"
        self._path = settings.path
        self._run = run
        self._timer = timer
        self._secret = secret
        self._good = Grants(ttl=REMEMBERED, capacity=MOST_REMEMBERED)
        self._checks: SingleFlight[bytes, bool] = SingleFlight()
        self._semaphore: FairSemaphore[str] = FairSemaphore(
            CHECKS, bounds=QueueBounds(MOST_WAITERS, MOST_WAITERS_OF_AN_ADDRESS), refusal=_too_many
        )
        self._told: tuple[int, ...] = ()
        self._accounts = WatchedFiles(
            [settings.path],
            partial(read_accounts, settings.path),
            run=run,
            timer=timer,
            fallback=_none,
            meanwhile="nobody is let in",
        )
        self._warn(self._accounts.latest)

    async def admit(
        self,
        authorization: str | None,
        need: Need | None,
        base: str,  # noqa: ARG002  # the challenge is the same everywhere
        address: str = "",
    ) -> Identity:
        """
        Let in whoever knows a user's password.

        :raises Unauthorized: nobody else.
        :raises AccountsUnavailable: the file cannot be read.
        :raises Overloaded: too many passwords are being checked.
        """
        given = parse_basic(authorization)
        if given is None:
            raise Unauthorized("no name and password are shown", self._challenge, need)
        accounts = await self._accounts.current()
        self._warn(accounts)
        if accounts.fault is not None:
            raise AccountsUnavailable(
                "this cache cannot read its list of users now; tell its operator", headers=_RETRY_AFTER
            )
        name, password = given
        if not await self._is_right(name, password, accounts, address):
            raise Unauthorized("name and password do not fit", self._challenge, need)
        return Identity(name.decode("utf-8", "replace"))

    def remembers(self, authorization: str | None, need: Need) -> bool:  # noqa: ARG002  # all may have all
        """Whether this password was right lately, under the hash that the file has now."""
        given, accounts = parse_basic(authorization), self._accounts.at_hand()
        if given is None or accounts is None or accounts.fault is not None:
            return False
        name, password = given
        hashed = accounts.hashes.get(name)
        return hashed is not None and self._good.is_valid(
            _key(self._secret, name, password, hashed), self._timer.seconds()
        )

    async def _is_right(self, name: bytes, password: bytes, accounts: Accounts, address: str) -> bool:
        """Whether it is the password, from memory or checked anew."""
        hashed = accounts.hashes.get(name)
        # The hash is part of it: once a user is gone or has another password, this is never asked for again.
        key = _key(self._secret, name, password, hashed or b"")
        if hashed is not None and self._good.is_valid(key, self._timer.seconds()):
            return True
        against = accounts.nobody if hashed is None else hashed
        matches = await self._checks.run(key, partial(self._check, password, against, address))
        # They may have waited for a permit; the file may be another by now.
        if not matches or hashed is None or self._accounts.latest.hashes.get(name) != hashed:
            return False
        self._good.add(key, self._timer.seconds())
        return True

    async def _check(self, password: bytes, hashed: bytes, address: str) -> bool:
        release = await self._semaphore.acquire(counted_address(address))
        try:
            return await self._run(_matches, password, hashed)
        finally:
            release()

    def _warn(self, accounts: Accounts) -> None:
        """Name the lines that let nobody in, once."""
        if accounts.unusable and accounts.unusable != self._told:
            _log.warn(
                "{path}: line {lines} has no bcrypt hash of cost 4 to 17 and lets nobody in; use htpasswd -B",
                path=self._path,
                lines=", ".join(map(str, accounts.unusable[:20])),
            )
        self._told = accounts.unusable


def _too_many() -> Overloaded:
    return Overloaded("too many passwords are being checked; try again soon", headers={"Retry-After": "2"})


def _none(error: UnusableFileError) -> Accounts:
    return Accounts(fault=error.message)


def _matches(password: bytes, hashed: bytes) -> bool:
    """The slow part, in constant time as far as the hashes are compared."""
    try:
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed)
    except ValueError:  # a salt that no program has made
        return False


def _key(secret: bytes, *parts: bytes) -> bytes:
    digest = hashlib.blake2b(key=secret, digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
