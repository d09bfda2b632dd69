"""Who has the registry's yes to a blob is sent to a cache for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from contentcache.core.errors import BlobUnknown, CacheError
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.core.via import Path
from contentcache.gateway.blob_answers import is_page
from contentcache.gateway.blob_authorization import Allowed, BlobAnswer, BlobAuthorization
from contentcache.gateway.conversation import Reply
from contentcache.gateway.credentials import claimed_account
from contentcache.gateway.directory import Cache
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.passing import Passing
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token
from contentcache.upstream.redirects import REDIRECTS


class Choosing(Protocol):
    """Which cache an account has chosen."""

    async def cache_for(self, account: str | None, address: str) -> Cache | None:
        """
        The cache for this account and this client's IP address, ``None`` where there is none, or none that
        lives.
        """

    async def is_answering(self, cache: Cache) -> bool:
        """
        Whether a client may be sent to a cache now. Asked last, since a client that is sent does not come
        back.
        """


_REDIRECT: Final = 307
_MISSING: Final = "the registry does not have this blob"
_NOT_FOUND: Final = 404
#: Answers that are the same to ``HEAD`` and to ``GET``.
_REFUSALS: Final = frozenset({401, 403, 404})
#: What a request may say besides ``Authorization`` without being another client's for the registry.
_NEUTRAL: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection"}
    | {"docker-distribution-api-version", "forwarded", "host", "keep-alive", "pragma", "range", "te"}
    | {"traceparent", "tracestate", "user-agent", "via", "x-real-ip"}
    | {"x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"}
)


class Redirecting:
    """
    Answers ``GET`` and ``HEAD`` of blobs. ``signer`` is the key that signs now, ``None`` where there is none.

    ``authorization`` asks the registry. What is not a clear yes goes to it as it is, so that its own answer
    reaches the client; and so does what is smaller than ``minimum_size``, or has no cache.
    """

    _log = Logger()

    def __init__(
        self,
        passing: Passing,
        authorization: BlobAuthorization,
        choosing: Choosing,
        signer: Callable[[], SigningKey | None],
        *,
        issuer: str,
        url_ttl: float,
        minimum_size: int,
        wall: Clock,
    ) -> None:
        self._passing = passing
        self._authorization = authorization
        self._choosing = choosing
        self._signer = signer
        self._issuer = issuer
        self._url_ttl = url_ttl
        self._minimum_size = minimum_size
        self._wall = wall

    async def serve(self, exchange: GatewayExchange, content: Content, path: str) -> None:
        """
        Answer with a redirect to a cache, or with what the registry has at ``path``.

        :raises CacheError: the registry does not answer.
        """
        account = claimed_account(exchange.header("Authorization"))
        cache, key = await self._cache_for(exchange, account), self._signer()
        if cache is None or key is None:
            await self._passing.pass_on(exchange, path, "direct")
            return
        answer = await self._authorization.ask(exchange, content)
        is_for_cache = answer.allowed is not None and not self._is_small(answer.allowed)
        if is_for_cache and await self._choosing.is_answering(cache):
            self._redirect(exchange, content, cache, key, account)
        elif _answers_head(exchange, answer):
            self._passing.give_head(exchange, answer.reply, "direct")
        elif _is_missing(exchange, answer.reply):
            self._passing.give_error(exchange, answer.reply, BlobUnknown(_MISSING), "direct")
        else:
            await self._passing.pass_on(exchange, path, "direct")

    def _redirect(
        self, exchange: GatewayExchange, content: Content, cache: Cache, key: SigningKey, account: str | None
    ) -> None:
        token = sign_blob_token(
            key,
            issuer=self._issuer,
            subject=account or "",
            repository=content.repository,
            digest=content.digest,
            now=self._wall(),
            lifetime=self._url_ttl,
        )
        headers = {
            "Content-Length": "0",
            "Location": f"{cache.host}{content.path()}?token={token}",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "Docker-Content-Digest": str(content.digest),
        }
        exchange.start(_REDIRECT, headers)
        exchange.request.cache_status = "redirect"  # before the end, when the access log takes note
        exchange.finish()

    def _is_small(self, allowed: Allowed) -> bool:
        return allowed.size is not None and allowed.size < self._minimum_size

    async def _cache_for(self, exchange: GatewayExchange, account: str | None) -> Cache | None:
        if exchange.body is not None or Path.of(exchange.values("Via")).caches:
            # A cache that asks for its client would be sent to a cache, perhaps to itself.
            return None
        try:
            return await self._choosing.cache_for(account, exchange.caller.address)
        except (CacheError, CancelledError):
            raise
        except Exception:  # noqa: BLE001  # the pull goes on without a cache
            self._log.failure(
                "choice of a cache failed, pull not redirected",
                account=account,
                client=exchange.caller.address,
            )
            return None


def _answers_head(exchange: GatewayExchange, answer: BlobAnswer) -> bool:
    """
    Whether the answer to our own question is as good as one to the client's: a push asks for each of its
    layers.
    """
    if exchange.method != "HEAD":
        return False
    code = answer.reply.code
    return code in _REFUSALS or (answer.method == "HEAD" and code not in REDIRECTS)


def _is_missing(exchange: GatewayExchange, reply: Reply) -> bool:
    """
    Whether the registry's own 404 answers ``GET`` too. Not where it is a page, or where the client says more
    than our question did: there are registries that know clients by other headers than ``Authorization``.
    """
    says_more = bool(exchange.query_string) or any(
        name.lower() not in _NEUTRAL for name, _value in exchange.fields()
    )
    return reply.code == _NOT_FOUND and not says_more and not is_page(reply.values("Content-Type"))
