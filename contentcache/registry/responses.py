"""A content on its way out: heads, conditions, ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, RangeUnsatisfiable
from contentcache.core.header_policy import Headers, HeaderValue
from contentcache.core.http_caching import etag, evaluate, range_holds
from contentcache.core.ranges import Span, parse_range, spans
from contentcache.core.routes import Kind
from contentcache.delivery.bodies import ShortError
from contentcache.delivery.responses import ContentHead, ContentResponse
from contentcache.server.exchange import Exchange

_FOR_EVER: Final = "private, max-age=31536000, immutable"
_ASK_AGAIN: Final = "private, no-cache"
_OCTETS: Final = "application/octet-stream"
#: A part of more bytes than this may be somebody's last, and waits for the digest as a whole does.
_SMALL_PART: Final = 8 << 20
#: What RFC 7234 §5.5.1 had for answers that are served though the origin could not be asked.
STALE: Final = '110 contentcache "Response is Stale"'


class PreconditionFailed(CacheError):
    """``If-Match`` names another content (RFC 9110 §13.1.1)."""

    code = "UNSUPPORTED"
    status = 412


class ContentResponder:
    """Sends contents. ``boundary`` makes a fresh word for ``multipart/byteranges``."""

    def __init__(self, boundary: Callable[[], str]) -> None:
        self._boundary = boundary

    def is_settled(self, exchange: Exchange, digest: Digest) -> bool:
        """Whether the conditions of a request for this digest make its bytes unnecessary."""
        return _outcome(exchange, digest) != "go on"

    def describe(
        self, exchange: Exchange, described: ContentHead, kind: Kind, *, by_tag: bool = False
    ) -> None:
        """Answer a ``HEAD``, or a ``GET`` whose conditions settle it."""
        headers = headers_of(described, kind, by_tag=by_tag)
        if self._settle(exchange, described.digest, headers):
            return
        if described.size is not None:
            headers["Content-Length"] = str(described.size)
        exchange.start(200, headers)
        exchange.finish()

    async def send(
        self, exchange: Exchange, served: ContentResponse, kind: Kind, *, by_tag: bool = False
    ) -> None:
        """Answer a ``GET``. Whoever entered ``served`` closes its body."""
        try:
            headers = headers_of(served, kind, by_tag=by_tag)
            if self._settle(exchange, served.digest, headers):
                return
            exchange.start_streaming()
            parts = self._parts(exchange, served, kind)
            await self._send_parts(exchange, served, headers, parts)
            exchange.finish()
        except ShortError:
            exchange.end_short()

    async def _send_parts(
        self,
        exchange: Exchange,
        served: ContentResponse,
        headers: dict[str, HeaderValue],
        parts: Sequence[Span],
    ) -> None:
        body, size = served.body, served.body.size
        if not parts:
            if size is not None:
                headers["Content-Length"] = str(size)
            exchange.start(200, headers)
            await body.send(exchange, 0, size)
        elif len(parts) == 1:
            part = parts[0]
            headers["Content-Length"] = str(part.length)
            headers["Content-Range"] = part.content_range()
            exchange.start(206, headers)
            await body.send(exchange, part.start, part.stop, small_part=_is_small_part(exchange, part))
        else:
            await self._send_many(exchange, served, headers, parts)

    async def _send_many(
        self,
        exchange: Exchange,
        served: ContentResponse,
        headers: dict[str, HeaderValue],
        parts: Sequence[Span],
    ) -> None:
        boundary = self._boundary()
        heads = [_part_head(boundary, str(headers["Content-Type"]), part) for part in parts]
        end = f"\r\n--{boundary}--\r\n".encode("ascii")
        length = sum(map(len, heads)) + sum(part.length for part in parts) + len(end)
        headers["Content-Length"] = str(length)
        headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        exchange.start(206, headers)
        for head, part in zip(heads, parts, strict=True):
            exchange.write(head)
            small_part = _is_small_part(exchange, part)
            await served.body.send(exchange, part.start, part.stop, small_part=small_part)
        exchange.write(end)

    @staticmethod
    def _parts(exchange: Exchange, served: ContentResponse, kind: Kind) -> Sequence[Span]:
        # Without a size nothing can be said of ranges; manifests are small and sent whole.
        wishes = parse_range(exchange.header("Range"))
        if not wishes or kind != "blobs" or served.body.size is None:
            return ()
        if not range_holds(str(served.digest), exchange.header("If-Range")):
            return ()
        try:
            return spans(wishes, served.body.size)
        except RangeUnsatisfiable as error:
            error.headers = {**error.headers, "Accept-Ranges": "bytes", "ETag": etag(str(served.digest))}
            raise

    def _settle(self, exchange: Exchange, digest: Digest, headers: Headers) -> bool:
        outcome = _outcome(exchange, digest)
        if outcome == "failed":
            raise PreconditionFailed("If-Match names another content")
        if outcome == "not modified":
            body = ("Content-Type", "Accept-Ranges")
            exchange.reply(304, {name: value for name, value in headers.items() if name not in body})
            return True
        return False


def is_partial(exchange: Exchange, digest: Digest) -> bool:
    """Whether a ``GET`` is for less than all of a blob."""
    wishes = parse_range(exchange.header("Range"))
    if not wishes or not range_holds(str(digest), exchange.header("If-Range")):
        return False
    # "bytes=0-" is all: one transfer tells the size too, and no question goes before it.
    return any(wish.first != 0 or wish.last is not None for wish in wishes)


def _is_small_part(exchange: Exchange, part: Span) -> bool:
    """Whether a part is small, has an end of its own, and is not the rest of a download."""
    wishes = parse_range(exchange.header("Range"))
    to_the_end = any(wish.first is not None and wish.last is None for wish in wishes)
    return not to_the_end and part.start > 0 and part.length <= _SMALL_PART


def _outcome(exchange: Exchange, digest: Digest) -> str:
    return evaluate(str(digest), exchange.header("If-Match"), exchange.header("If-None-Match"))


def headers_of(
    told: ContentHead | ContentResponse, kind: Kind, *, by_tag: bool = False
) -> dict[str, HeaderValue]:
    """What the head of an answer says of a content, and what the origin told with it."""
    digest = str(told.digest)
    headers: dict[str, HeaderValue] = {
        "Content-Type": _OCTETS if kind == "blobs" else told.media_type or _OCTETS,
        "Docker-Content-Digest": digest,
        "ETag": etag(digest),
        "Cache-Control": _ASK_AGAIN if by_tag else _FOR_EVER,
        "Cache-Status": f"contentcache; {told.outcome.cache_status}" + ("; stale" if told.stale else ""),
    }
    if kind == "blobs":
        headers["Accept-Ranges"] = "bytes"
    if by_tag:
        headers["Vary"] = "Accept"
    if told.stale:
        headers["Warning"] = STALE
    return {**headers, **told.notices}


def _part_head(boundary: str, media_type: str, part: Span) -> bytes:
    return (
        f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {part.content_range()}\r\n\r\n"
    ).encode("ascii", "replace")
