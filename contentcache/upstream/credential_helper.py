"""
The account that a program knows: Docker's credential helpers.

``command get`` reads a server's URL, and writes ``{"ServerURL", "Username", "Secret"}`` in JSON. It says what
goes wrong on either output, with a status that is not 0. The protocol knows no expiry of an answer, so how
long one is good for is the operator's to say.
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
from contentcache.config.model import Account, CredentialHelper
from contentcache.upstream.account import IdentityToken, NoTokenError
from contentcache.upstream.program import Ended, ProgramFailed, run_program

#: Seconds that a program may take, and bytes that it may write.
TIME_LIMIT: Final = 20.0
OUTPUT_LIMIT: Final = 64 << 10

#: An answer is renewed so much of its life before it ends, and at most so many seconds.
_EARLY: Final = 0.1
_EARLIEST: Final = 60.0
#: Seconds between two runs that an upstream's refusals cause.
_REFUSED_AGAIN: Final = 10.0
#: Seconds until a program that failed is run again: the first time, and at most.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
#: Seconds for which a failure that is in the log already is not written again.
_QUIET: Final = 60.0

#: What Docker's own helpers say on standard output, where nothing else is fit to be shown.
_NOT_FOUND: Final = "credentials not found in native keychain"
_KNOWN: Final = frozenset({_NOT_FOUND, "no credentials server URL", "no credentials username"})
#: The name that says that the secret is an identity token.
_TOKEN: Final = "<token>"  # noqa: S105  # no password

#: Docker Hub goes by one name among helpers, and it is none of its registry's.
_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_KEY: Final = "https://index.docker.io/v1/"


class HelperFailed(NoTokenError):
    """A credential helper gave no account."""


@frozen
class _Kept:
    """An answer: used alone until ``fresh``, and until ``good`` where no new one is to be had."""

    account: Account | IdentityToken
    fresh: float
    good: float


class AccountOfHelper:
    """
    A :class:`contentcache.upstream.account.AccountSource` that asks a program.

    One run at a time serves all who wait, whoever of them leaves. The program has ``environ`` without
    ``REGISTRY_…``, which is where this daemon's own secrets are. What it wrote is in no log. ``server`` is
    the origin's URL.
    """

    _log = Logger()

    def __init__(
        self, helper: CredentialHelper, server: str, environ: Mapping[str, str], reactor: ProcessReactor
    ) -> None:
        self._command = (*helper.command, "get")
        self._lifetime = helper.lifetime
        self._keys = keys(server)
        self._environ = {name: value for name, value in environ.items() if not name.startswith("REGISTRY_")}
        self._reactor = reactor
        self._kept: _Kept | None = None
        self._waiting: list[Deferred[Account | IdentityToken]] = []
        self._ran_at = float("-inf")
        self._error: HelperFailed | None = None
        self._pause = 0.0
        self._not_before = float("-inf")
        self._logged = ("", float("-inf"))

    async def account(self) -> Account | IdentityToken:
        """
        What the program says, or has said.

        :raises HelperFailed: it says nothing of use; it is not run again for a second, doubling to 30 s.
        """
        now = self._reactor.seconds()
        if self._kept is not None and now < self._kept.fresh:
            return self._kept.account
        if not self._waiting and self._error is not None and now < self._not_before:
            return self._without_a_new_one(self._error)
        mine: Deferred[Account | IdentityToken] = Deferred()
        self._waiting.append(mine)
        if len(self._waiting) == 1:
            # Nobody's own: a client that hangs up must not end what others wait for.
            Deferred.fromCoroutine(self._settle())
        return await mine

    def refused(self, account: Account | IdentityToken) -> None:
        """Upstream does not take ``account``: the program is asked again when one is needed, once in 10 s."""
        if self._kept is None or self._kept.account != account:
            return
        if self._reactor.seconds() - self._ran_at >= _REFUSED_AGAIN:
            self._kept = None

    async def _settle(self) -> None:
        self._ran_at = self._reactor.seconds()
        try:
            account = await self._run()
        except Exception as error:  # noqa: BLE001  # whoever waits gets it
            self._failed(str(error) if isinstance(error, ProgramFailed) else "cannot be understood")
        else:
            self._error, self._pause = None, 0.0
            self._kept = self._keep(account)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            try:
                each.callback(account if self._error is None else self._without_a_new_one(self._error))
            except HelperFailed as error:
                each.errback(error)

    async def _run(self) -> Account | IdentityToken:
        """Ask by one name after another until the program knows the server."""
        for key in self._keys[:-1]:
            ended = await self._run_with(key)
            if ended.status == 0 or _said(ended) != _NOT_FOUND:
                return _account_of(ended)
        return _account_of(await self._run_with(self._keys[-1]))

    def _run_with(self, key: str) -> Deferred[Ended]:
        return run_program(
            self._reactor,
            self._command,
            self._environ,
            key.encode("utf-8"),
            seconds=TIME_LIMIT,
            most=OUTPUT_LIMIT,
        )

    def _keep(self, account: Account | IdentityToken) -> _Kept | None:
        if self._lifetime is None:
            return _Kept(account, float("inf"), float("inf"))
        if self._lifetime <= 0:
            return None
        # Its life may have begun as soon as the program had.
        good = self._ran_at + self._lifetime
        return _Kept(account, good - min(self._lifetime * _EARLY, _EARLIEST), good)

    def _without_a_new_one(self, error: HelperFailed) -> Account | IdentityToken:
        if self._kept is not None and self._reactor.seconds() < self._kept.good:
            return self._kept.account
        raise error

    def _failed(self, sentence: str) -> None:
        now = self._reactor.seconds()
        self._pause = min(max(_FIRST_PAUSE, self._pause * 2), _LONGEST_PAUSE)
        self._not_before = now + self._pause
        self._error = HelperFailed(
            "the cache's own account is not to be had: the program that knows it has failed;"
            " the cache's log says how"
        )
        logged, at = self._logged
        if sentence != logged or now - at >= _QUIET:
            self._logged = (sentence, now)
            self._log.error(
                "credential helper failed", program=self._command[0], server=self._keys[-1], reason=sentence
            )


def keys(server: str) -> Sequence[str]:
    """
    The names by which helpers may know a server: the protocol's URL, and what ``docker login`` makes of it.

    >>> keys("https://registry.example.com:5000")
    ('https://registry.example.com:5000', 'registry.example.com:5000')
    >>> keys("https://registry-1.docker.io")
    ('https://index.docker.io/v1/',)
    """
    host = urlsplit(server).netloc or server
    return (_HUB_KEY,) if host in _HUB else (server, host)


def _account_of(ended: Ended) -> Account | IdentityToken:
    if ended.status != 0:
        raise ProgramFailed(_why(ended))
    try:
        reply = json.loads(ended.output)
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


def _why(ended: Ended) -> str:
    how = f"ended with status {ended.status}" if ended.status > 0 else f"was ended by signal {-ended.status}"
    said = _said(ended)
    if said == _NOT_FOUND:
        return f"{how}: it knows no account for this server"
    # What it complains of is not repeated: a script that is traced writes its secrets there.
    return f"{how}: {said or 'run it by hand, with get, to see why'}"


def _said(ended: Ended) -> str:
    """What it says on standard output, if that is one of the sentences that Docker's helpers share."""
    said = ended.output[:OUTPUT_LIMIT].decode("utf-8", "replace").strip()
    return said if said in _KNOWN else ""
