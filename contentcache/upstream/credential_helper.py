"""
The account that a program knows: Docker's credential helpers.

``command get`` reads a server's URL, and writes ``{"ServerURL", "Username", "Secret"}`` in JSON. It writes an
error to either output, and exits with a status that is not 0. The protocol knows no expiry of an answer, so
the operator says how long one is valid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.aio.reactor import ProcessReactor
from contentcache.aio.single_flight import SingleFlight
from contentcache.config.model import Account, CredentialHelper
from contentcache.upstream.account import IdentityToken, NoTokenError
from contentcache.upstream.program import ProgramFailed, ProgramResult, run_program

#: Seconds that a program may take, and bytes that it may write.
TIME_LIMIT: Final = 20.0
OUTPUT_LIMIT: Final = 64 << 10

#: An answer is renewed before it expires: this part of its life, and at most so many seconds.
_EARLY: Final = 0.1
_EARLIEST: Final = 60.0
#: Seconds between two runs because of an upstream's refusals.
_REFUSED_AGAIN: Final = 10.0
#: Seconds until a program that failed is run again: the first backoff, and the longest.
_FIRST_BACKOFF: Final = 1.0
_LONGEST_BACKOFF: Final = 30.0
#: Seconds in which the same failure is not logged again.
_QUIET: Final = 60.0

#: Sentences of Docker's own helpers on standard output; nothing else may be logged.
_NOT_FOUND: Final = "credentials not found in native keychain"
_KNOWN: Final = frozenset({_NOT_FOUND, "no credentials server URL", "no credentials username"})
#: The name that says that the secret is an identity token.
_TOKEN: Final = "<token>"  # noqa: S105  # no password

#: Docker Hub has one name among helpers, which is none of its registry's.
_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_KEY: Final = "https://index.docker.io/v1/"


class CredentialHelperError(NoTokenError):
    """A credential helper returned no account."""


@frozen
class _CachedAccount:
    """An answer, used until ``fresh``, or until ``valid`` where the program fails."""

    account: Account | IdentityToken
    fresh: float
    valid: float


class CredentialHelperAccount:
    """
    A :class:`contentcache.upstream.account.AccountSource` that asks a program.

    Callers share one running program. It gets ``environ`` without ``REGISTRY_…``, where this daemon's own
    secrets are; what it writes is never logged. ``server`` is the origin's URL.
    """

    _log = Logger()

    def __init__(
        self, program: CredentialHelper, server: str, environ: Mapping[str, str], reactor: ProcessReactor
    ) -> None:
        self._command = (*program.command, "get")
        self._lifetime = program.lifetime
        self._keys = keys(server)
        self._environ = {name: value for name, value in environ.items() if not name.startswith("REGISTRY_")}
        self._reactor = reactor
        self._cached: _CachedAccount | None = None
        self._runs: SingleFlight[None, Account | IdentityToken] = SingleFlight()
        self._ran_at = float("-inf")
        self._error: CredentialHelperError | None = None
        self._backoff = 0.0
        self._not_before = float("-inf")
        self._logged = ("", float("-inf"))

    async def account(self) -> Account | IdentityToken:
        """
        The account that the program knows, cached.

        :raises CredentialHelperError: it failed; it is not run again for a second, doubling to 30 s.
        """
        now = self._reactor.seconds()
        if self._cached is not None and now < self._cached.fresh:
            return self._cached.account
        if self._error is not None and now < self._not_before and None not in self._runs:
            return self._cached_or_raise(self._error)
        return await self._runs.run(None, self._renew)

    def refused(self, account: Account | IdentityToken) -> None:
        """Upstream refused ``account``: the program runs again when one is needed, at most once in 10 s."""
        if self._cached is None or self._cached.account != account:
            return
        if self._reactor.seconds() - self._ran_at >= _REFUSED_AGAIN:
            self._cached = None

    async def _renew(self) -> Account | IdentityToken:
        self._ran_at = self._reactor.seconds()
        try:
            account = await self._run()
        except Exception as error:  # noqa: BLE001  # callers get another one, without what the program wrote
            reason = str(error) if isinstance(error, ProgramFailed) else "cannot be understood"
            return self._cached_or_raise(self._failed(reason))
        self._error, self._backoff = None, 0.0
        self._cached = self._with_expiry(account)
        return account

    async def _run(self) -> Account | IdentityToken:
        """Ask for one name after another until the program knows the server."""
        for key in self._keys[:-1]:
            result = await self._run_with(key)
            if result.status == 0 or _said(result) != _NOT_FOUND:
                return _account_of(result)
        return _account_of(await self._run_with(self._keys[-1]))

    def _run_with(self, key: str) -> Deferred[ProgramResult]:
        return run_program(
            self._reactor,
            self._command,
            self._environ,
            key.encode("utf-8"),
            seconds=TIME_LIMIT,
            most=OUTPUT_LIMIT,
        )

    def _with_expiry(self, account: Account | IdentityToken) -> _CachedAccount | None:
        if self._lifetime is None:
            return _CachedAccount(account, float("inf"), float("inf"))
        if self._lifetime <= 0:
            return None
        # Its life may have begun as soon as the program had.
        valid = self._ran_at + self._lifetime
        return _CachedAccount(account, valid - min(self._lifetime * _EARLY, _EARLIEST), valid)

    def _cached_or_raise(self, error: CredentialHelperError) -> Account | IdentityToken:
        if self._cached is not None and self._reactor.seconds() < self._cached.valid:
            return self._cached.account
        raise error

    def _failed(self, reason: str) -> CredentialHelperError:
        now = self._reactor.seconds()
        self._backoff = min(max(_FIRST_BACKOFF, self._backoff * 2), _LONGEST_BACKOFF)
        self._not_before = now + self._backoff
        self._error = CredentialHelperError(
            "the cache's own account is not to be had: the program that knows it has failed;"
            " the cache's log says how"
        )
        logged, at = self._logged
        if reason != logged or now - at >= _QUIET:
            self._logged = (reason, now)
            self._log.error(
                "credential helper failed", program=self._command[0], server=self._keys[-1], reason=reason
            )
        return self._error


def keys(server: str) -> Sequence[str]:
    """
    The names by which helpers may know a server: its URL, and what ``docker login`` makes of it.

    >>> keys("https://registry.example.com:5000")
    ('https://registry.example.com:5000', 'registry.example.com:5000')
    >>> keys("https://registry-1.docker.io")
    ('https://index.docker.io/v1/',)
    """
    host = urlsplit(server).netloc or server
    return (_HUB_KEY,) if host in _HUB else (server, host)


def _account_of(result: ProgramResult) -> Account | IdentityToken:
    if result.status != 0:
        raise ProgramFailed(_why(result))
    try:
        reply = json.loads(result.output)
        name, secret = reply["Username"], reply["Secret"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ProgramFailed("did not write JSON with Username and Secret") from None
    if not _is_one_line(name) or not _is_one_line(secret):
        raise ProgramFailed("wrote a Username or a Secret that is empty, or not text in one line")
    if name == _TOKEN:
        return IdentityToken(secret)
    if ":" in name:
        # RFC 7617 §2: the first colon ends the name.
        raise ProgramFailed("wrote a Username with a colon, which no user name may have")
    return Account(name, secret)


def _is_one_line(value: object) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _why(result: ProgramResult) -> str:
    how = (
        f"ended with status {result.status}" if result.status > 0 else f"was ended by signal {-result.status}"
    )
    said = _said(result)
    if said == _NOT_FOUND:
        return f"{how}: it knows no account for this server"
    # Its errors are not repeated: a script that is traced writes its secrets there.
    return f"{how}: {said or 'run it by hand, with get, to see why'}"


def _said(result: ProgramResult) -> str:
    """Its standard output, if that is one of the sentences of Docker's helpers."""
    said = result.output[:OUTPUT_LIMIT].decode("utf-8", "replace").strip()
    return said if said in _KNOWN else ""
