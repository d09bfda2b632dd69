"""
Which responses of the registry allow a client a blob, before a URL is signed for it.

A signed URL opens the blob on a cache to whoever has it, and the gateway downloads for the cache with its own
account. So a response counts only if it is the registry's own statement about this blob:

* to ``HEAD`` 200 counts: with ``Docker-Content-Digest``, if it is the digest that was requested; else with a
  media type that no page and no message has. Where neither is stated, the first bytes must not be markup;
* a redirect to another host counts if ``GET`` of the first byte, with the same credentials, is redirected as
  well, and if following that, without credentials, leads to 206, or to a 200 that is no page. A redirect to
  the registry's own host states nothing yet. A registry that has redirected the last blob is asked with this
  ``GET`` at once: it decides in any case;
* anything else does not count. Then the request is forwarded to the registry as the client sent it, and its
  own response reaches the client: to be too strict here costs a redirect and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.core.ports import Timer
from contentcache.core.ranges import parse_length
from contentcache.core.routes import Content
from contentcache.gateway.blob_answers import SNIFFED, is_markup, is_page, proves, total_size
from contentcache.gateway.connection import ProxyResponse
from contentcache.gateway.connection_pool import OpenResponse
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.header_rewriting import HeaderRewriter
from contentcache.gateway.reverse_proxy import ReverseProxy
from contentcache.upstream.agent import UpstreamTransport
from contentcache.upstream.answers import Answer
from contentcache.upstream.content_coding import content_codings
from contentcache.upstream.inflow import Inflow
from contentcache.upstream.redirects import REDIRECTS
from contentcache.upstream.responses import why

_OK: Final = 200
_PARTIAL: Final = 206
#: Any other location is relative to the registry.
_WITH_HOST: Final = re.compile(r"(?:https?:)?//", re.IGNORECASE)
#: In place of the digest where a storage, which states none, has answered.
_UNSTATED: Final = Digest.of(b"")


@frozen
class BlobAnswer:
    """The registry's response about a blob, the ``method`` it was asked by, and whether the blob is allowed."""

    response: ProxyResponse
    method: Literal["GET", "HEAD"]
    allowed: Allowed | None


@frozen
class Allowed:
    """The registry allows this client the blob; ``size`` in bytes, ``None`` where it is not stated."""

    size: int | None


class BlobAuthorization:
    """Asks the registry, by the client's own credentials and with nothing else of the client's request."""

    _log = Logger()

    def __init__(self, proxy: ReverseProxy, target: RedirectTarget, rewriter: HeaderRewriter) -> None:
        self._proxy = proxy
        self._target = target
        self._rewriter = rewriter
        #: Whether the registry has redirected the last blob: how to ask next, without influence on the decision.
        self._is_redirecting = False

    async def ask(self, exchange: GatewayExchange, content: Content) -> BlobAnswer:
        """
        Ask whether this client may have a blob.

        :raises CacheError: the registry does not answer.
        """
        if self._is_redirecting:
            response, allowed = await self._by_first_bytes(exchange, content, SNIFFED)
            # A registry that ignores ranges would send whole blobs to such a request.
            self._is_redirecting = response.code != _OK
            return BlobAnswer(response, "GET", allowed)
        response, allowed = await self._by_head(exchange, content)
        return BlobAnswer(response, "HEAD", allowed)

    async def _by_head(
        self, exchange: GatewayExchange, content: Content
    ) -> tuple[ProxyResponse, Allowed | None]:
        async with self._proxy.request_blob(exchange, content, "HEAD") as opened:
            response = opened.head
        if response.code in REDIRECTS:
            if not self._leaves(response):
                return response, None
            got, allowed = await self._by_first_bytes(exchange, content, 1)
            self._is_redirecting = got.code in REDIRECTS
            return response, allowed
        proved = _proves(response, content.digest) if response.code == _OK else False
        if proved is None:
            return response, (await self._by_first_bytes(exchange, content, SNIFFED))[1]
        return response, Allowed(parse_length(response.header("Content-Length"))) if proved else None

    async def _by_first_bytes(
        self, exchange: GatewayExchange, content: Content, count: int
    ) -> tuple[ProxyResponse, Allowed | None]:
        async with self._proxy.request_blob(exchange, content, "GET", f"bytes=0-{count - 1}") as opened:
            response = opened.head
            if response.code not in REDIRECTS:
                return response, await _by_bytes(opened, content.digest)
        return response, await self._by_target(response, content) if self._leaves(response) else None

    async def _by_target(self, response: ProxyResponse, content: Content) -> Allowed | None:
        try:
            answer = await self._target.first_byte(response.header("Location") or "")
        except CacheError as error:
            self._log.info(
                "redirect of the registry not followed",
                repository=content.repository,
                digest=content.digest,
                reason=error.message,
            )
            return None
        return Allowed(answer.size) if _is_blob(answer) else None

    def _leaves(self, response: ProxyResponse) -> bool:
        """Whether a redirect leads away from the registry and its gateway."""
        locations = set(response.values("Location"))
        location = locations.pop() if len(locations) == 1 else ""
        return _WITH_HOST.match(location) is not None and self._rewriter.registry_path(location) is None


def _proves(response: ProxyResponse, digest: Digest) -> bool | None:
    return proves(digest, response.values("Content-Type"), response.values("Docker-Content-Digest"))


async def _by_bytes(opened: OpenResponse, digest: Digest) -> Allowed | None:
    response = opened.head
    if response.code not in {_OK, _PARTIAL}:
        return None
    proved = _proves(response, digest)
    if proved is None:
        if content_codings(response.values("Content-Encoding")):
            return None  # what compressed bytes are cannot be seen
        try:
            proved = not is_markup(await first_bytes(opened.body, SNIFFED))
        except (UpstreamBroken, UpstreamTimeout):
            return None
    length, span = response.header("Content-Length"), response.header("Content-Range")
    return Allowed(parse_length(length) if response.code == _OK else total_size(span)) if proved else None


def _is_blob(answer: TargetAnswer) -> bool:
    """
    Whether a redirect has led to a storage. Those answer a range with 206, and pages to sign in do not.

    >>> _is_blob(TargetAnswer(206)), _is_blob(TargetAnswer(200, ["text/plain"])), _is_blob(TargetAnswer(403))
    (True, False, False)
    """
    if answer.status == _PARTIAL:
        return not is_page(answer.media_types)
    if answer.status != _OK:
        return False
    proved = proves(_UNSTATED, answer.media_types, ())
    return not is_markup(answer.beginning) if proved is None else proved


@frozen
class TargetAnswer:
    """
    The response of a redirect's target to ``GET`` of the first byte: ``beginning`` is the start of the body,
    read where the head states no media type; ``size`` is that of the blob in bytes, if it is stated.
    """

    status: int
    media_types: Sequence[str] = ()
    size: int | None = None
    beginning: bytes = field(default=b"", repr=False)


class RedirectTarget:
    """
    The storage that the registry redirects to, asked under the rules by which a cache follows redirects.
    ``timeout`` is in seconds, for everything together.
    """

    def __init__(self, transport: UpstreamTransport, registry: str, timer: Timer, *, timeout: float) -> None:
        self._transport = transport
        self._registry = registry
        self._timer = timer
        self._timeout = timeout

    async def first_byte(self, location: str, /) -> TargetAnswer:
        """
        Request the first byte at ``location``, without any credentials.

        :raises CacheError: there is no response, or the place must not be asked.
        """
        try:
            return await with_timeout(self._timer, self._timeout, self._ask(location))
        except (CacheError, CancelledError):
            raise
        except DeadlineError as error:
            raise UpstreamTimeout("the storage behind the registry did not answer in time") from error
        except Exception as error:
            raise UpstreamUnavailable(f"the storage cannot be reached: {why(error)}") from error

    async def _ask(self, location: str) -> TargetAnswer:
        url = self._transport.policy.follow(self._registry + "/v2/", location.encode("latin-1"))
        headers = Headers({"Range": ["bytes=0-0"], "Accept": ["*/*"]})
        followed = await self._transport.fetch_following("GET", url, headers)
        response: Any = followed.response
        answer = Answer(self._registry, response.code, True, response, self._timer, self._timeout)
        fields: Headers = response.headers

        def values(name: bytes) -> list[str]:
            return [value.decode("latin-1") for value in fields.getRawHeaders(name) or ()]

        media_types = [each for each in values(b"Content-Type") if each.strip()]
        lengths = [answer.length] if answer.status == _OK else map(total_size, values(b"Content-Range"))
        size = next(iter(lengths), None)
        if answer.status == _OK and not media_types:
            return TargetAnswer(answer.status, (), size, await first_bytes(answer, SNIFFED))
        answer.abandon()
        return TargetAnswer(answer.status, media_types, size)


async def first_bytes(answer: Answer, count: int) -> bytes:
    """
    Return the first ``count`` bytes of a body, without its coding, or as many as arrive.

    :raises UpstreamBroken, UpstreamTimeout: nothing of it can be read.
    """
    try:
        answer.decode()
    except UpstreamBroken:
        answer.abandon()
        raise
    beginning = bytearray()

    def received(inflow: Inflow, data: bytes) -> None:
        beginning.extend(data)
        if len(beginning) > count:
            inflow.abandon()

    inflow = answer.stream(received)
    try:
        await inflow.ended
    except (UpstreamBroken, UpstreamTimeout):
        if not beginning:
            raise
    finally:
        inflow.abandon()
    return bytes(beginning[:count])
