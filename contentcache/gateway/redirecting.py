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
from contentcache.gateway.claims import account_of
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.fields import Rewriting
from contentcache.gateway.passing import Passing
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token
from contentcache.upstream.answers import Answer
from contentcache.upstream.redirects import REDIRECTS


class Choosing(Protocol):
    """
    Which cache an account has chosen.
    """

    async def cache_for(self, account: str | None, address: str) -> str | None:
        """
        The base URL of the cache for this account and this client's IP address, ``None`` where there is
        none, or none that lives.
        """


_REDIRECT: Final = 307


class Redirecting:
    """
    Answers ``GET`` and ``HEAD`` of blobs. ``signer`` is the key that signs now, ``None`` where there is none.

    The registry is asked by the client's own credentials. What is not a clear yes goes to it as it is, so
    that its own answer reaches the client; and so does what is smaller than ``minimum_size``, or has no
    cache.
    """

    _log = Logger()

    def __init__(
        self,
        passing: Passing,
        choosing: Choosing,
        signer: Callable[[], SigningKey | None],
        rewriting: Rewriting,
        *,
        issuer: str,
        url_ttl: float,
        minimum_size: int,
        wall: Clock,
    ) -> None:
        self._passing = passing
        self._choosing = choosing
        self._signer = signer
        self._rewriting = rewriting
        self._issuer = issuer
        self._url_ttl = url_ttl
        self._minimum_size = minimum_size
        self._wall = wall

    async def serve(self, exchange: GatewayExchange, content: Content, path: str) -> None:
        """
        Answer with a redirect to a cache, or with what the registry has at ``path``.

        :raises CacheError: the registry does not answer.
        """
        url = await self._elsewhere(exchange, content, path)
        if url is None:
            await self._passing.pass_on(exchange, path, "direct")
            return
        headers = {
            "Location": url,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "Docker-Content-Digest": str(content.digest),
        }
        exchange.start(_REDIRECT, {"Content-Length": "0", **headers})
        exchange.request.cache_status = "redirect"  # before the end, when the access log takes note
        exchange.finish()

    async def _elsewhere(self, exchange: GatewayExchange, content: Content, path: str) -> str | None:
        if exchange.body is not None or Path.of(exchange.values("Via")).caches:
            # A cache that asks for its client would be sent to a cache, perhaps to itself.
            return None
        account = account_of(exchange.header("Authorization"))
        cache = await self._cache_for(account, exchange.asker("").address)
        key = self._signer() if cache is not None else None
        if cache is None or key is None:
            return None
        answer = await self._passing.glance(exchange, path)
        # Of a redirect to the registry's storage it is the length of nothing.
        size = None if answer.status in REDIRECTS else answer.length
        if not self._is_yes(answer) or (size is not None and size < self._minimum_size):
            return None
        token = sign_blob_token(
            key,
            issuer=self._issuer,
            subject=account or "",
            repository=content.repository,
            digest=content.digest,
            now=self._wall(),
            lifetime=self._url_ttl,
        )
        return f"{cache.rstrip('/')}{content.path()}?token={token}"

    async def _cache_for(self, account: str | None, address: str) -> str | None:
        try:
            return await self._choosing.cache_for(account, address)
        except (CacheError, CancelledError):
            raise
        except Exception:  # noqa: BLE001  # the pull goes on without a cache
            self._log.failure("nobody knows which cache an account has chosen")
            return None

    def _is_yes(self, answer: Answer) -> bool:
        if answer.status in REDIRECTS:
            # To itself it has not said anything yet; to its storage it sends whom it has let pass.
            location = answer.header("Location") or "/"
            return not location.startswith("/") and self._rewriting.path_behind(location) is None
        return 200 <= answer.status < 300  # noqa: PLR2004
