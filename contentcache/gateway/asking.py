"""The question to the registry who somebody is, over HTTP, as ``docker login`` asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.web.http_headers import Headers

from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.config.model import Account
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.core.http_auth import parse_challenges
from contentcache.core.ports import Timer
from contentcache.gateway.accounts import Verdict
from contentcache.gateway.blob_answers import is_page
from contentcache.gateway.credentials import BasicCredentials, account_in, groups_in, parse_credentials
from contentcache.jose.bearer_tokens import unverified_claims
from contentcache.upstream.account import OwnAccount
from contentcache.upstream.answers import Answer

#: What a registry, and a token server, say no with. 400 is OAuth's ``invalid_grant`` (RFC 6749 §5.2).
_NO: Final = frozenset({401, 403})
_NO_TOKEN: Final = frozenset({400, 401, 403})
_OK: Final = 200


@frozen
class Said:
    """An answer: its status, the values of ``WWW-Authenticate``, its body, and whether that is a page."""

    status: int
    challenges: Sequence[str] = ()
    body: bytes = field(default=b"", repr=False)
    page: bool = False


class Get(Protocol):
    """One ``GET`` in bounded time, with a body of bounded size; redirects are not followed."""

    async def __call__(self, url: str, headers: Mapping[str, str], /) -> Said:
        """:raises CacheError: there was no answer, or one too large."""


class AgentGet:
    """
    A :class:`Get` over an agent of ours. ``timeout`` is in seconds, ``limit`` in bytes of a body
    without its coding (``Content-Encoding``); a coding that is not known is an error.
    """

    def __init__(self, agent: Any, timer: Timer, *, timeout: float, limit: int) -> None:
        self._agent = agent
        self._timer = timer
        self._timeout = timeout
        self._limit = limit

    async def __call__(self, url: str, headers: Mapping[str, str], /) -> Said:
        try:
            return await with_timeout(self._timer, self._timeout, self._ask(url, headers))
        except (CacheError, CancelledError):
            raise
        except DeadlineError as error:
            raise UpstreamTimeout("no answer in time") from error
        except Exception as error:
            raise UpstreamUnavailable(f"it cannot be reached: {type(error).__name__}") from error

    async def _ask(self, url: str, headers: Mapping[str, str]) -> Said:
        sent = Headers({name: [value] for name, value in headers.items()})
        response = await self._agent.request(b"GET", url.encode("ascii"), sent)
        answer = Answer(url.partition("?")[0], response.code, False, response, self._timer, self._timeout)
        fields: Headers = response.headers

        def values(name: bytes) -> list[str]:
            # Byte by byte: nobody promises that these are UTF-8.
            return [value.decode("latin-1") for value in fields.getRawHeaders(name) or ()]

        challenges, page = values(b"WWW-Authenticate"), is_page(values(b"Content-Type"))
        if answer.status != _OK or page:
            answer.abandon()
            return Said(answer.status, challenges, page=page)
        try:
            answer.decode()
        except UpstreamBroken:
            answer.abandon()
            raise
        return Said(answer.status, challenges, await answer.read(self._limit))


class _TokenRefused(UpstreamBroken):
    """The token server does not take the password."""


class AskedRegistry:
    """
    A :class:`~contentcache.gateway.accounts.Registry` at ``registry``, a base URL.

    ``realms`` are where passwords may go besides the registry's own host and site.
    """

    def __init__(self, registry: str, get: Get, timer: Timer, *, realms: Sequence[str] = ()) -> None:
        self._registry = registry
        self._get = get
        self._timer = timer
        self._realms = realms

    async def accepts(self, authorization: str) -> Verdict:
        """
        What the registry says; for a token the token server gave, its account and its groups too.

        :raises CacheError: it did not say yes or no.
        """
        said = await self._ask(authorization)
        if said.status not in _NO:
            return Verdict(True)
        challenge = ", ".join(said.challenges) or None
        basic = parse_credentials(authorization)
        challenges = parse_challenges(said.challenges)
        if not isinstance(basic, BasicCredentials) or all(each.scheme != "bearer" for each in challenges):
            return Verdict(False, challenge=challenge)
        account = Account(basic.username, basic.password)
        exchange = OwnAccount(account, self._registry, self._realms, self._fetch_token, self._timer.seconds)
        try:
            better = await exchange.answer(challenges, None)
        except _TokenRefused:
            return Verdict(False, challenge=challenge)
        if better is None or better == authorization or (await self._ask(better)).status in _NO:
            return Verdict(False, challenge=challenge)
        claims = unverified_claims(better.partition(" ")[2])
        return Verdict(True, account_in(claims), challenge, groups_in(claims))

    async def _ask(self, authorization: str) -> Said:
        said = await self._get(f"{self._registry}/v2/", {"Authorization": authorization, "Accept": "*/*"})
        if 200 <= said.status < 300 and said.page:  # noqa: PLR2004
            # Of a proxy that signs people in: it means no as often as yes.
            raise UpstreamBroken(f"{self._registry} answered with a page")
        if not 200 <= said.status < 300 and said.status not in _NO:  # noqa: PLR2004
            raise UpstreamBroken(f"{self._registry} answered {said.status}")
        return said

    async def _fetch_token(self, url: str, headers: Mapping[str, str], body: bytes | None = None, /) -> bytes:
        assert body is None  # noqa: S101  # that is how identity tokens are sent, and this is none
        said = await self._get(url, headers)
        if said.status in _NO_TOKEN:
            raise _TokenRefused("the token server does not take the account")
        if said.status != _OK:
            raise UpstreamBroken(f"the token server answered {said.status}")
        return said.body
