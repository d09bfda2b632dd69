"""
Who has the registry's yes to a blob is sent to a cache for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from contentcache.core.errors import CacheError
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.core.via import Path
from contentcache.gateway.blob_authorization import Allowed, BlobAuthorization
from contentcache.gateway.credentials import claimed_account
from contentcache.gateway.directory import Cache
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.passing import Passing
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token
from contentcache.upstream.redirects import REDIRECTS


class Choosing(Protocol):
    """
    Which cache an account has chosen.
    """

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
        reply, allowed = await self._authorization.ask(exchange, content)
        is_for_cache = allowed is not None and not self._is_small(allowed)
        if is_for_cache and await self._choosing.is_answering(cache):
            self._redirect(exchange, content, cache, key, account)
        elif exchange.method == "HEAD" and reply.code not in REDIRECTS:
            # The answer to this very request, as good as a second one: a push asks for each of its layers.
            self._passing.give_head(exchange, reply, "direct")
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
            self._log.failure("nobody knows which cache an account has chosen")
            return None
