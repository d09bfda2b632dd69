"""
The cache's own account at an upstream: challenges answered, tokens kept.

Tokens are kept until 80 % of their life, one request a scope at a time. A password leaves only for a realm
that may have it (:func:`contentcache.upstream.realms.may_have_password`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from contentcache.config.model import Account
from contentcache.core.challenges import Challenge
from contentcache.core.errors import UpstreamBroken
from contentcache.upstream.realms import may_have_password

#: Of a token that does not say how long it lives (distribution's token specification).
DEFAULT_LIFE: Final = 60.0
_LONGEST_LIFE: Final = 86400.0
_USED_LIFE: Final = 0.8

#: ``fetch(url, headers)`` answers the bytes of a token server's 200, or raises ``UpstreamBroken``.
FetchToken = Callable[[str, Mapping[str, str]], Awaitable[bytes]]


class NoTokenError(UpstreamBroken):
    """The registry wants a token, and there is none to be had."""


@frozen
class _Token:
    value: str
    until: float


class OwnAccount:
    """
    What the cache says of itself to one registry. ``account`` is ``None`` for one that is open to anybody:
    then tokens are asked for anonymously.
    """

    _log = Logger()

    def __init__(
        self,
        account: Account | None,
        registry: str,
        realms: Sequence[str],
        fetch_token: FetchToken,
        now: Callable[[], float],
    ) -> None:
        self._account = account
        self._registry = registry
        self._realms = realms
        self._fetch_token = fetch_token
        self._now = now
        self._bearer: Challenge | None = None
        self._basic = False
        self._tokens: dict[str, _Token] = {}
        self._asked: dict[str, list[Deferred[str]]] = {}

    async def authorization(self, repository: str | None) -> str | None:
        """
        What to send with a first request, if anything is known to be needed.

        :raises NoTokenError: the token server does not give a token.
        """
        if self._bearer is not None:
            return "Bearer " + await self._token(self._bearer, _scope(repository))
        return self._basic_credentials() if self._basic else None

    async def answer(self, challenges: Sequence[Challenge], repository: str | None) -> str | None:
        """
        What to send after a 401 with ``challenges``; ``None`` if there is nothing to say to them.

        :raises NoTokenError: the token server does not give a token.
        """
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                self._bearer = challenge
                scope = challenge.parameters.get("scope") or _scope(repository)
                self._tokens.pop(scope, None)
                return "Bearer " + await self._token(challenge, scope)
        if any(challenge.scheme == "basic" for challenge in challenges) and self._account is not None:
            self._basic = True
            return self._basic_credentials()
        return None

    def _basic_credentials(self) -> str | None:
        if self._account is None:
            return None
        pair = f"{self._account.username}:{self._account.password}"
        return "Basic " + base64.b64encode(pair.encode()).decode("ascii")

    async def _token(self, challenge: Challenge, scope: str) -> str:
        kept = self._tokens.get(scope)
        if kept is not None and self._now() < kept.until:
            return kept.value
        mine: Deferred[str] = Deferred()
        waiting = self._asked.get(scope)
        if waiting is not None:
            waiting.append(mine)
            return await mine
        self._asked[scope] = [mine]
        # Nobody's own: a client that hangs up must not take the token from those who wait for it too.
        Deferred.fromCoroutine(self._settle(challenge, scope))
        return await mine

    async def _settle(self, challenge: Challenge, scope: str) -> None:
        try:
            token = await self._ask(challenge, scope)
        except Exception as error:  # noqa: BLE001  # whoever waits gets it
            for waiting in self._asked.pop(scope):
                waiting.errback(error)
            return
        self._tokens = {name: kept for name, kept in self._tokens.items() if self._now() < kept.until}
        self._tokens[scope] = token
        for waiting in self._asked.pop(scope):
            waiting.callback(token.value)

    async def _ask(self, challenge: Challenge, scope: str) -> _Token:
        realm = challenge.parameters["realm"]
        parts = urlsplit(realm)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise NoTokenError(f"the registry names {realm[:200]!r} as its token server, which is no URL")
        headers: dict[str, str] = {}
        query = [("service", challenge.parameters.get("service", "")), ("scope", scope)]
        if not may_have_password(realm, self._registry, self._realms):
            # Not even asked anonymously: where a challenge points is the challenger's choice.
            raise NoTokenError(
                f"{self._registry} sends to {parts.hostname} for tokens, which is neither its own host nor"
                " its site; list it in upstreams[].realms if it may have the password"
            )
        basic = self._basic_credentials()
        if basic is not None and self._account is not None:
            headers["Authorization"] = basic
            query.append(("account", self._account.username))
        pairs = urlencode([(name, value) for name, value in query if value], quote_via=quote, safe=":,/")
        url = realm + ("&" if parts.query else "?") + pairs
        asked_at = self._now()
        return _read_token(await self._fetch_token(url, headers), asked_at)


def _scope(repository: str | None) -> str:
    return f"repository:{repository}:pull" if repository is not None else ""


def _read_token(body: bytes, asked_at: float) -> _Token:
    try:
        reply = json.loads(body)
        value = reply.get("token") or reply.get("access_token")
        life = reply.get("expires_in", DEFAULT_LIFE)
    except (ValueError, AttributeError, RecursionError):
        raise NoTokenError("the token server's answer is not JSON") from None
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise NoTokenError("the token server's answer has no token")
    if isinstance(life, bool) or not isinstance(life, int | float) or life <= 0:
        life = DEFAULT_LIFE
    return _Token(value, asked_at + min(float(min(life, _LONGEST_LIFE)), _LONGEST_LIFE) * _USED_LIFE)
