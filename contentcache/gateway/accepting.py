"""
Whether the registry behind accepts a credential, asked as clients do it that sign in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from contentcache.config.model import Account
from contentcache.core.challenges import parse_challenges
from contentcache.core.credentials import Credential
from contentcache.core.errors import OriginRefused, UpstreamBroken
from contentcache.core.ports import Timer
from contentcache.gateway.accounts import Verdict
from contentcache.gateway.claims import Basic, claims_of, groups, read, subject
from contentcache.upstream.account import OwnAccount, TokenRefused
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

_UNAUTHORIZED: Final = 401
_NO: Final = frozenset({401, 403})
_BEARER: Final = "Bearer "


class AskingRegistry:
    """
    A :class:`contentcache.gateway.accounts.Registry` over the way to the registry behind.

    A password leaves only for a token server that may have it (``realms``); the user who signs in has given
    it for the registry and for nobody else.
    """

    def __init__(self, registry: Registry, timer: Timer) -> None:
        self._registry = registry
        self._timer = timer

    async def accepts(self, authorization: str) -> Verdict:
        """
        Ask ``/v2/``.

        :raises CacheError: there was neither a yes nor a no.
        """
        challenge = await self._refusal(authorization)
        if challenge is None:
            return Verdict(accepted=True)
        said = read(authorization)
        if not isinstance(said, Basic):
            return Verdict(accepted=False, challenge=challenge)
        token = await self._token(said, challenge)
        if token is None or await self._refusal(_BEARER + token) is not None:
            return Verdict(accepted=False, challenge=challenge)
        claims: Mapping[str, object] = claims_of(token)
        return Verdict(True, subject(claims) or said.username, groups=groups(claims))

    async def _refusal(self, authorization: str) -> str | None:
        """
        The challenge with which the registry refuses, perhaps an empty one; ``None`` where it does not.
        """
        try:
            answer = await self._registry.ask(Request("GET", "/v2/", Credential(authorization)))
        except OriginRefused as refusal:
            if refusal.status not in _NO:
                raise UpstreamBroken(f"the registry answered {refusal.status} to /v2/") from refusal
            return refusal.headers.get("WWW-Authenticate", "") if refusal.status == _UNAUTHORIZED else ""
        answer.abandon()
        return None

    async def _token(self, said: Basic, challenge: str) -> str | None:
        challenges = [one for one in parse_challenges([challenge]) if one.scheme == "bearer"]
        upstream = self._registry.upstream
        account = OwnAccount(
            Account(said.username, said.password),
            upstream.origin,
            upstream.realms,
            self._registry.fetch_token,
            self._timer.seconds,
        )
        try:
            authorization = await account.answer(challenges, None)
        except TokenRefused:
            return None
        return None if authorization is None else authorization.removeprefix(_BEARER)
