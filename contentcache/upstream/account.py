"""
The cache's own account: it answers challenges and caches tokens.

Tokens are used for 80 % of their life; one request a scope runs at a time. A password is sent only to a realm
that may have it (:func:`may_have_password`), and no program is asked for one before that is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Final, Protocol
from urllib.parse import quote, urlencode, urlsplit

from attrs import field, frozen
from publicsuffixlist import PublicSuffixList

from contentcache.aio.single_flight import SingleFlight
from contentcache.config.model import Account
from contentcache.core.errors import UpstreamBroken
from contentcache.core.http_auth import Challenge, encode_basic
from contentcache.core.lru import LruCache
from contentcache.core.shown import show_place
from contentcache.upstream.addresses import Listed, Place, literal_address

#: Seconds that a token lives if it does not say so (distribution's token specification).
DEFAULT_LIFE: Final = 60.0
#: Tokens of one account that are cached: one for each repository that was asked for lately.
MOST_TOKENS: Final = 256
_LONGEST_LIFE: Final = 86400.0
_USED_LIFE: Final = 0.8

#: With what a token server refuses an account. 400 is OAuth's ``invalid_grant`` (RFC 6749 §5.2).
REFUSALS: Final = frozenset({400, 401, 403})
_DOTS: Final = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


class NoTokenError(UpstreamBroken):
    """The registry wants a token or a password, and none is available."""


class TokenRefused(NoTokenError):
    """The token server refuses the account."""


class FetchToken(Protocol):
    """
    Returns the body of a token server's 200 to a ``GET``, or to a ``POST`` of ``body`` where there is one.

    A redirect is never followed. Raises ``TokenRefused`` for a status of :data:`REFUSALS`, and ``NoTokenError``
    for any other that is not 200, or no answer.
    """

    def __call__(
        self, url: str, headers: Mapping[str, str], body: bytes | None = None, /
    ) -> Awaitable[bytes]: ...


@frozen
class IdentityToken:
    """A refresh token instead of a name and a password: it gets tokens, and is no use for ``Basic``."""

    value: str = field(repr=False)


class AccountSource(Protocol):
    """Where an account comes from that is not in the configuration."""

    async def account(self) -> Account | IdentityToken:
        """
        The account as it is now.

        :raises NoTokenError: none is available.
        """

    def refused(self, account: Account | IdentityToken) -> None:
        """Upstream has refused ``account``, which this source had returned."""


@frozen
class _Token:
    value: str
    until: float


class OwnAccount:
    """
    The credentials of the cache at one registry.

    The account is ``account``, or that of ``source``. Without either the registry is open to anybody: then tokens
    are asked for anonymously.
    """

    def __init__(
        self,
        account: Account | None,
        registry: str,
        realms: Sequence[str],
        fetch_token: FetchToken,
        now: Callable[[], float],
        *,
        source: AccountSource | None = None,
    ) -> None:
        self._fixed = account
        self._source = source
        self._registry = registry
        self._realms = realms
        self._fetch_token = fetch_token
        self._now = now
        self._bearer: Challenge | None = None
        self._basic = False
        self._tokens: LruCache[str, _Token] = LruCache(MOST_TOKENS)
        self._requests: SingleFlight[str, _Token] = SingleFlight()

    async def authorization(self, repository: str | None) -> str | None:
        """
        The ``Authorization`` of a first request, ``None`` where none is known to be needed.

        Where the known token server returns no token it is ``None`` too: the registry may name another one now.

        :raises NoTokenError: no account is available.
        """
        if self._bearer is not None:
            try:
                return "Bearer " + await self._token(self._bearer, _scope(repository))
            except NoTokenError:
                self._bearer = None
                return None
        return _basic(await self._account()) if self._basic else None

    async def answer(
        self, challenges: Sequence[Challenge], repository: str | None, sent: str | None = None
    ) -> str | None:
        """
        The ``Authorization`` for another try after a 401 with ``challenges`` to one that had ``sent``; ``None``
        where there is no other.

        :raises NoTokenError: no token or no account is available.
        """
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                self._bearer = challenge
                scope = challenge.parameters.get("scope") or _scope(repository)
                self._tokens.remove(scope)
                return "Bearer " + await self._token(challenge, scope)
        if any(challenge.scheme == "basic" for challenge in challenges):
            return await self._answer_basic(sent)
        return None

    async def _answer_basic(self, sent: str | None) -> str | None:
        account = await self._account()
        if account is None:
            return None
        said = _basic(account)
        self._basic = True
        if said == sent and self._source is not None:
            self._source.refused(account)
            said = _basic(await self._source.account())
        return None if said == sent else said

    async def _account(self) -> Account | IdentityToken | None:
        return self._fixed if self._source is None else await self._source.account()

    async def _token(self, challenge: Challenge, scope: str) -> str:
        kept = self._tokens.get(scope)
        if kept is not None and self._now() < kept.until:
            return kept.value
        token = await self._requests.run(scope, lambda: self._ask(challenge, scope))
        now = self._now()
        self._tokens.remove_if(lambda kept: kept.until <= now)
        self._tokens.put(scope, token)
        return token.value

    async def _ask(self, challenge: Challenge, scope: str) -> _Token:
        """Ask the realm; again only where the source returns another account after a refusal."""
        self._check_realm(challenge.parameters["realm"])
        account = await self._account()
        try:
            return await self._ask_as(account, challenge, scope)
        except TokenRefused:
            if self._source is None or account is None:
                raise
            self._source.refused(account)
            other = await self._source.account()
            if other == account:
                raise
        return await self._ask_as(other, challenge, scope)

    def _check_realm(self, realm: str) -> None:
        host = _host(realm)
        if host is None:
            raise NoTokenError(
                f"the registry names {show_place(realm)!r} as its token server, which is no URL"
            )
        if not may_have_password(realm, self._registry, self._realms):
            # Not even asked anonymously: the challenger chooses where a challenge points.
            raise NoTokenError(
                f"{self._registry} sends to {host} for tokens, which is neither its own host nor"
                " its site; list it in upstreams[].realms if it may have the password"
            )

    async def _ask_as(
        self, account: Account | IdentityToken | None, challenge: Challenge, scope: str
    ) -> _Token:
        realm = challenge.parameters["realm"]
        query = {"service": challenge.parameters.get("service", ""), "scope": scope}
        asked_at = self._now()
        if isinstance(account, IdentityToken):
            # distribution's "OAuth2 token authentication": everything is in the body, nothing in a header.
            form = {"grant_type": "refresh_token", "client_id": "contentcache", **query}
            body = _pairs({**form, "refresh_token": account.value}).encode("ascii")
            return _read_token(await self._fetch_token(realm, _FORM, body), asked_at)
        headers: dict[str, str] = {}
        if account is not None:
            headers["Authorization"] = _basic(account)
            query["account"] = account.username
        url = realm + ("&" if urlsplit(realm).query else "?") + _pairs(query, safe=":,/")
        return _read_token(await self._fetch_token(url, headers), asked_at)


def _basic(account: Account | IdentityToken | None) -> str:
    if not isinstance(account, Account):
        raise NoTokenError("the registry wants a password, and its account here is an identity token")
    return encode_basic(account.username.encode(), account.password.encode())


def _host(realm: str) -> str | None:
    try:
        parts = urlsplit(realm)
    except ValueError:  # brackets that hold no address
        return None
    return parts.hostname if parts.scheme in {"http", "https"} else None


def _pairs(values: Mapping[str, str], safe: str = "") -> str:
    return urlencode([(name, value) for name, value in values.items() if value], quote_via=quote, safe=safe)


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


# Where a password may be sent for a token. A challenge names the realm, and whoever can answer a request can write
# a challenge: so only the registry's own host or site may have one, or what the operator has listed.


def may_have_password(realm: str, registry: str, listed: Sequence[str] = ()) -> bool:
    """
    Whether the realm of a bearer challenge may be sent the account's password.

    ``realm`` is the URL in the challenge, ``registry`` the one we asked. ``listed`` holds URLs,
    which permit all that lies below their path, and hosts with or without a port. A realm has to
    be ``https`` unless the registry itself is not, or a listed URL says ``http``.

    >>> may_have_password("https://auth.docker.io/token", "https://registry-1.docker.io")
    True
    >>> may_have_password("https://registry.example.com@evil.com/", "https://registry.example.com")
    False
    """
    try:
        there, here = Place.of(realm), Place.of(registry)
    except ValueError:
        return False
    if not realm.isascii():  # RFC 3986 §2: no URL needs more, and look-alikes do
        return False
    if any(_below(realm, there, entry) for entry in listed if "://" in entry):
        return True
    if there.scheme != "https" and here.scheme != "http":
        return False
    hosts = Listed(tuple(entry for entry in listed if "://" not in entry))
    return there.host == here.host or hosts.names(there.host, there.port) or _one_site(there.host, here.host)


def is_listed(realm: str, listed: Sequence[str]) -> bool:
    """
    Whether the operator has listed the realm, so that its address need not be checked.

    >>> is_listed("https://auth.example/token", ["auth.example"]), is_listed("https://auth.example/token", [])
    (True, False)
    """
    place = Place.of(realm)
    hosts = Listed(tuple(entry for entry in listed if "://" not in entry))
    return hosts.names(place.host, place.port) or any(
        _below(realm, place, entry) for entry in listed if "://" in entry
    )


def _below(realm: str, there: Place, entry: str) -> bool:
    """Whether a realm is the listed URL or below it, by whole path components."""
    try:
        if Place.of(entry) != there:
            return False
    except ValueError:
        return False
    wanted, path = _path(entry).rstrip("/"), _path(realm)
    if not wanted:
        return True
    if any(_DOTS.fullmatch(component) for component in path.split("/")):
        return False
    return path == wanted or path.startswith(wanted + "/")


def _path(url: str) -> str:
    """The path of a URL that ``Place`` has parsed, without query and fragment."""
    rest = url.split("://", 1)[1]
    before = re.split(r"[?#]", rest, maxsplit=1)[0]
    _, slash, path = before.partition("/")
    return slash + path


def _one_site(one: str, other: str) -> bool:
    """Whether two hosts have the same registrable domain; addresses and single labels have none."""
    if literal_address(one) is not None or literal_address(other) is not None:
        return False
    site = _suffixes().privatesuffix(one)
    return site is not None and site == _suffixes().privatesuffix(other)


@cache
def _suffixes() -> PublicSuffixList:
    """The public suffix list that comes with the package: some 50 ms to read, so once."""
    return PublicSuffixList()
