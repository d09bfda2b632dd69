"""Asks the registry over HTTP who owns credentials, as ``docker login`` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.web.http_headers import Headers

from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.config.model import Account
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.core.http_auth import parse_challenges
from contentcache.core.live import Live
from contentcache.core.ports import Timer
from contentcache.gateway.blob_answers import is_page
from contentcache.gateway.credentials import BasicCredentials, account_in, groups_in, parse_credentials
from contentcache.jose.claims import unverified_claims
from contentcache.upstream.account import OwnAccount
from contentcache.upstream.answers import Answer

#: Statuses by which a registry, and a token server, deny. 400 is OAuth's ``invalid_grant`` (RFC 6749 §5.2).
_DENIED: Final = frozenset({401, 403})
_TOKEN_DENIED: Final = frozenset({400, 401, 403})
_OK: Final = 200


@frozen
class CredentialDecision:
    """
    What the registry decides about a credential.

    ``account`` and ``groups`` are those of the token that a token server has issued for a password: they
    precede what the credential itself says. ``challenge`` is the registry's ``WWW-Authenticate``.
    """

    accepted: bool
    account: str | None = None
    challenge: str | None = None
    groups: frozenset[str] = frozenset()


@frozen
class LoginResponse:
    """A response: its status, the values of ``WWW-Authenticate``, its body, and whether that is a page."""

    status: int
    challenges: Sequence[str] = ()
    body: bytes = field(default=b"", repr=False)
    page: bool = False


#: Sends one ``GET`` to a URL with headers and returns in bounded time, with a body of bounded size; redirects
#: are not followed. Raises ``CacheError`` where there is no response, or one too large.
Get = Callable[[str, Mapping[str, str]], Awaitable[LoginResponse]]


class BoundedGet:
    """
    A :data:`Get` over an agent. ``timeout`` is in seconds, ``limit`` in bytes of a body without its coding
    (``Content-Encoding``); an unknown coding is an error.
    """

    def __init__(self, agent: Any, timer: Timer, *, timeout: float, limit: Live[int]) -> None:
        self._agent = agent
        self._timer = timer
        self._timeout = timeout
        self._limit = limit

    async def __call__(self, url: str, headers: Mapping[str, str], /) -> LoginResponse:
        try:
            return await with_timeout(self._timer, self._timeout, self._ask(url, headers))
        except (CacheError, CancelledError):
            raise
        except DeadlineError as error:
            raise UpstreamTimeout("no answer in time") from error
        except Exception as error:
            raise UpstreamUnavailable(f"it cannot be reached: {type(error).__name__}") from error

    async def _ask(self, url: str, headers: Mapping[str, str]) -> LoginResponse:
        sent = Headers({name: [value] for name, value in headers.items()})
        response = await self._agent.request(b"GET", url.encode("ascii"), sent)
        answer = Answer(url.partition("?")[0], response.code, False, response, self._timer, self._timeout)
        fields: Headers = response.headers

        def values(name: bytes) -> list[str]:
            # Byte by byte: these need not be UTF-8.
            return [value.decode("latin-1") for value in fields.getRawHeaders(name) or ()]

        challenges, page = values(b"WWW-Authenticate"), is_page(values(b"Content-Type"))
        if answer.status != _OK or page:
            answer.abandon()
            return LoginResponse(answer.status, challenges, page=page)
        try:
            answer.decode()
        except UpstreamBroken:
            answer.abandon()
            raise
        return LoginResponse(answer.status, challenges, await answer.read(self._limit.now))


class _TokenRefused(UpstreamBroken):
    """The token server refuses the password."""


class RegistryLogin:
    """
    Shows credentials to the registry at ``registry``, a base URL.

    ``realms`` are where passwords may be sent besides the registry's own host and site.
    """

    def __init__(self, registry: str, get: Get, timer: Timer, *, realms: Sequence[str] = ()) -> None:
        self._registry = registry
        self._get = get
        self._timer = timer
        self._realms = realms

    async def decide(self, authorization: str) -> CredentialDecision:
        """
        Request ``/v2/`` with this ``Authorization``. Where the registry wants a token, a user name and a
        password are exchanged for one first.

        :raises CacheError: the registry, or its token server, did not decide.
        """
        response = await self._ask(authorization)
        if response.status not in _DENIED:
            return CredentialDecision(True)
        challenge = ", ".join(response.challenges) or None
        basic = parse_credentials(authorization)
        challenges = parse_challenges(response.challenges)
        if not isinstance(basic, BasicCredentials) or all(each.scheme != "bearer" for each in challenges):
            return CredentialDecision(False, challenge=challenge)
        account = Account(basic.username, basic.password)
        exchange = OwnAccount(account, self._registry, self._realms, self._fetch_token, self._timer.seconds)
        try:
            token = await exchange.answer(challenges, None)
        except _TokenRefused:
            return CredentialDecision(False, challenge=challenge)
        if token is None or token == authorization or (await self._ask(token)).status in _DENIED:
            return CredentialDecision(False, challenge=challenge)
        claims = unverified_claims(token.partition(" ")[2])
        return CredentialDecision(True, account_in(claims), challenge, groups_in(claims))

    async def _ask(self, authorization: str) -> LoginResponse:
        headers = {"Authorization": authorization, "Accept": "*/*"}
        response = await self._get(f"{self._registry}/v2/", headers)
        is_success = 200 <= response.status < 300  # noqa: PLR2004
        if is_success and response.page:
            # Of a proxy that signs people in: it may as well deny.
            raise UpstreamBroken(f"{self._registry} answered with a page")
        if not is_success and response.status not in _DENIED:
            raise UpstreamBroken(f"{self._registry} answered {response.status}")
        return response

    async def _fetch_token(self, url: str, headers: Mapping[str, str], body: bytes | None = None, /) -> bytes:
        assert body is None  # noqa: S101  # identity tokens are sent so, and this is none
        response = await self._get(url, headers)
        if response.status in _TOKEN_DENIED:
            raise _TokenRefused("the token server does not take the account")
        if response.status != _OK:
            raise UpstreamBroken(f"the token server answered {response.status}")
        return response.body
