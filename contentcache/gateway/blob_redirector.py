"""Redirects clients that the registry allows a blob to a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from contentcache.core.errors import BlobUnknown, CacheError
from contentcache.core.live import Live
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.core.via import ViaPath
from contentcache.gateway.blob_answers import is_page
from contentcache.gateway.blob_authorization import Allowed, BlobAnswer, BlobAuthorization
from contentcache.gateway.cache_directory import CacheDirectory
from contentcache.gateway.connection import ProxyResponse
from contentcache.gateway.credentials import claimed_account
from contentcache.gateway.directory import Cache
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.reverse_proxy import ReverseProxy
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.redirects import REDIRECTS

_REDIRECT: Final = 307
_MISSING: Final = "the registry does not have this blob"
_NOT_FOUND: Final = 404
#: Statuses that are the same for ``HEAD`` and ``GET``.
_REFUSALS: Final = frozenset({401, 403, 404})
#: Fields by which, besides ``Authorization``, no registry tells clients apart.
_NEUTRAL: Final = frozenset(
    {"accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection"}
    | {"docker-distribution-api-version", "forwarded", "host", "keep-alive", "pragma", "range", "te"}
    | {"traceparent", "tracestate", "user-agent", "via", "x-real-ip"}
    | {"x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-request-id"}
)


@frozen
class RedirectOptions:
    """
    URLs are signed in the name of ``issuer``, for ``url_ttl`` seconds; blobs of less than ``minimum_size`` bytes
    are not redirected.
    """

    issuer: str
    url_ttl: float
    minimum_size: int


class BlobRedirector:
    """
    Answers ``GET`` and ``HEAD`` of blobs. ``signer`` returns the key that signs now, ``None`` without one.

    What the registry does not clearly allow is forwarded to it, so that its own response reaches the client;
    and so is what is small, or has no cache.
    """

    _log = Logger()

    def __init__(
        self,
        proxy: ReverseProxy,
        authorization: BlobAuthorization,
        directory: CacheDirectory,
        signer: Callable[[], SigningKey | None],
        *,
        options: Live[RedirectOptions],
        wall: Clock,
        meter: Meter,
    ) -> None:
        self._proxy = proxy
        self._authorization = authorization
        self._directory = directory
        self._signer = signer
        self._options = options
        self._wall = wall
        self._meter = meter

    async def serve(self, exchange: GatewayExchange, content: Content, path: str) -> None:
        """
        Answer with a redirect to a cache, or with what the registry has at ``path``.

        :raises CacheError: the registry does not answer.
        """
        account = claimed_account(exchange.header("Authorization"))
        cache, key = await self._cache_for(exchange, account), self._signer()
        if cache is None or key is None:
            await self._proxy.forward(exchange, path, "direct")
            return
        answer = await self._authorization.ask(exchange, content)
        is_for_cache = answer.allowed is not None and not self._is_small(answer.allowed)
        # Checked last, since a client that is redirected does not come back.
        if is_for_cache and await self._directory.is_answering(cache):
            self._redirect(exchange, content, cache, key, account)
        elif _answers_head(exchange, answer):
            self._proxy.send_head(exchange, answer.response, "direct")
        elif _is_missing(exchange, answer.response):
            self._proxy.send_error(exchange, answer.response, BlobUnknown(_MISSING), "direct")
        else:
            await self._proxy.forward(exchange, path, "direct")

    def _redirect(
        self, exchange: GatewayExchange, content: Content, cache: Cache, key: SigningKey, account: str | None
    ) -> None:
        exchange.request.user_name = account or ""
        token = sign_blob_token(
            key,
            issuer=self._options.now.issuer,
            subject=account or "",
            repository=content.repository,
            digest=content.digest,
            now=self._wall(),
            lifetime=self._options.now.url_ttl,
            request_id=exchange.request.request_id,
        )
        headers = {
            "Content-Length": "0",
            "Location": f"{cache.host}{content.path()}?token={token}",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "Docker-Content-Digest": str(content.digest),
        }
        self._meter.redirected(cache.name)
        exchange.start(_REDIRECT, headers)
        exchange.request.cache_status = "redirect"  # before the end, when the access log is written
        exchange.finish()

    def _is_small(self, allowed: Allowed) -> bool:
        return allowed.size is not None and allowed.size < self._options.now.minimum_size

    async def _cache_for(self, exchange: GatewayExchange, account: str | None) -> Cache | None:
        if exchange.body is not None or ViaPath.of(exchange.values("Via")).caches:
            # A cache that asks for its client would be redirected to a cache, perhaps to itself.
            return None
        try:
            return await self._directory.cache_for(account, exchange.caller.address)
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
    """Whether the response to the gateway's own request answers the client's ``HEAD``: a push sends many."""
    if exchange.method != "HEAD":
        return False
    code = answer.response.code
    return code in _REFUSALS or (answer.method == "HEAD" and code not in REDIRECTS)


def _is_missing(exchange: GatewayExchange, response: ProxyResponse) -> bool:
    """
    Whether the registry's 404 answers the client's ``GET`` too. Not where it is a page, or where the client
    sent more than the gateway's request did: some registries know clients by other headers.
    """
    says_more = bool(exchange.raw_query) or any(
        name.lower() not in _NEUTRAL for name, _value in exchange.fields()
    )
    return response.code == _NOT_FOUND and not says_more and not is_page(response.values("Content-Type"))
