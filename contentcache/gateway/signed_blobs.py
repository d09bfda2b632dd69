"""Serves blobs to caches, which request what they miss by URLs that this gateway has signed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from twisted.logger import Logger

from contentcache.core.credentials import OWN
from contentcache.core.errors import OriginRefused, SignatureRefused, UpstreamBroken
from contentcache.core.header_policy import Headers
from contentcache.core.http_caching import etag
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.gateway.blob_answers import is_page
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.probe import PROBE_BLOB, PROBE_BYTES
from contentcache.jose.blob_tokens import (
    VerifiedBlobToken,
    parse_blob_token,
    same_issuer,
    verify_blob_token,
)
from contentcache.jose.keyset import KeySet
from contentcache.server.relay import relay
from contentcache.upstream.answers import Answer
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

#: Fields about a part of a blob.
_OF_PARTS: Final = ("Content-Range", "Accept-Ranges")
_REFUSALS: Final = frozenset({401, 403})
_HEAD_OF_PROBE: Final[Headers] = {
    "Content-Type": "application/octet-stream",
    "Docker-Content-Digest": str(PROBE_BLOB.digest),
    "ETag": etag(str(PROBE_BLOB.digest)),
    "Cache-Control": "private, no-store",
}


class SignedBlobs:
    """
    Answers requests with a URL that this gateway has signed, from the registry and with the gateway's own
    account: no redirect to a cache, the client's ``Authorization`` unread. Redirects of the registry to its
    storage are followed, since a cache may not reach that.
    """

    _log = Logger()

    def __init__(
        self, registry: Registry, keys: Callable[[], KeySet], *, issuer: str, pseudonym: str, wall: Clock
    ) -> None:
        self._registry = registry
        self._keys = keys
        self._issuer = issuer
        self._pseudonym = pseudonym
        self._wall = wall

    async def serve(self, exchange: GatewayExchange, content: Content, tokens: Sequence[str]) -> None:
        """
        Verify the token of the URL and send the blob.

        :raises SignatureRefused: the token does not permit this blob.
        :raises LoopDetected: the registry's own redirect has led back here.
        :raises CacheError: the registry refuses, or does not answer.
        """
        if len(set(tokens)) > 1:
            raise SignatureRefused("this URL has two tokens; ask for the blob again")
        exchange.use_request_id(self._verify(content, tokens[0]).request_id)
        if content == PROBE_BLOB:
            # The gateway's own, by which it checks caches: the registry does not have it.
            exchange.reply(200, _HEAD_OF_PROBE, PROBE_BYTES)
            return
        method: Literal["GET", "HEAD"] = "HEAD" if exchange.method == "HEAD" else "GET"
        request = Request(
            method,
            content.path(),
            self._registry.subject(content.repository, OWN),
            via=exchange.via(self._pseudonym),
            range=exchange.header("Range") if method == "GET" else None,
        )
        try:
            answer = await self._registry.ask(request)
        except OriginRefused as refusal:
            if refusal.status in _REFUSALS:
                self._log.warn(
                    "registry account of the gateway may not pull",
                    repository=content.repository,
                    status=refusal.status,
                )
            raise
        try:
            headers = self._headers(answer, content)
        except BaseException:
            answer.abandon()
            raise
        await relay(answer, exchange, headers)

    def _headers(self, answer: Answer, content: Content) -> Headers:
        """
        The head of a blob.

        :raises UpstreamBroken: the registry's response is not a blob.
        """
        is_named = str(content.digest) in answer.values("Docker-Content-Digest")
        if is_page(answer.values("Content-Type")) and not is_named:
            raise UpstreamBroken("the registry answered with a page where a blob was asked for")
        return {
            "Content-Type": "application/octet-stream",
            **answer.passed_headers(),
            **{name: value for name in _OF_PARTS if (value := answer.header(name)) is not None},
            "Docker-Content-Digest": str(content.digest),
            "ETag": etag(str(content.digest)),
            "Cache-Control": "private, no-store",
            "Cache-Status": "contentcache; fwd=request",
        }

    def _verify(self, content: Content, token: str) -> VerifiedBlobToken:
        presented = parse_blob_token(token)
        if not same_issuer(presented.issuer, self._issuer):
            raise SignatureRefused("the token of this URL is another origin's ('iss'); ask that one")
        key = self._keys().find(presented.kid)
        return verify_blob_token(
            presented,
            key,
            issuer=self._issuer,
            repository=content.repository,
            digest=content.digest,
            now=self._wall(),
        )
