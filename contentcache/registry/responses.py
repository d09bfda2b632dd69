"""Responses with blobs and manifests: headers, conditions, ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, RangeUnsatisfiable
from contentcache.core.header_policy import Headers, HeaderValue
from contentcache.core.http_caching import etag, evaluate, range_holds
from contentcache.core.ranges import Span, parse_range, spans
from contentcache.core.routes import Kind
from contentcache.delivery.responses import ContentHead, ContentResponse, Outcome
from contentcache.server.exchange import Exchange
from contentcache.telemetry.metrics import Meter

_IMMUTABLE: Final = "private, max-age=31536000, immutable"
_REVALIDATE: Final = "private, no-cache"
_OCTET_STREAM: Final = "application/octet-stream"
#: A larger part may complete a client's download, and its end is held back like that of a whole blob.
_SMALL_PART: Final = 8 << 20
#: ``Warning`` of a response that is served while the origin cannot be asked (RFC 7234 §5.5.1).
STALE: Final = '110 contentcache "Response is Stale"'


class PreconditionFailed(CacheError):
    """``If-Match`` names another content (RFC 9110 §13.1.1)."""

    code = "UNSUPPORTED"
    status = 412


class ContentResponder:
    """Responds with contents. ``boundary`` makes a new delimiter for ``multipart/byteranges``."""

    def __init__(self, boundary: Callable[[], str], meter: Meter) -> None:
        self._boundary = boundary
        self._meter = meter

    def needs_no_body(self, exchange: Exchange, digest: Digest) -> bool:
        """Whether the response to a request for this digest has no body because of its conditions."""
        return _outcome(exchange, digest) != "go on"

    def respond_head(
        self, exchange: Exchange, content: ContentHead, kind: Kind, *, by_tag: bool = False
    ) -> None:
        """Respond to a ``HEAD``, or to a ``GET`` that :meth:`needs_no_body`."""
        headers = headers_of(content, kind, by_tag=by_tag)
        if self._respond_to_condition(exchange, content, headers):
            return
        if content.size is not None:
            headers["Content-Length"] = str(content.size)
        exchange.start(200, headers)
        exchange.finish()

    async def respond(
        self, exchange: Exchange, content: ContentResponse, kind: Kind, *, by_tag: bool = False
    ) -> None:
        """
        Respond to a ``GET``. The caller closes the body of ``content``.

        :raises CacheError: a range cannot be had; or the rest of the body, after the head.
        """
        headers = headers_of(content, kind, by_tag=by_tag)
        if self._respond_to_condition(exchange, content, headers):
            return
        exchange.start_streaming()
        parts = self._parts(exchange, content, kind)
        self._count_pull(exchange, content, content.outcome)
        await self._send_parts(exchange, content, headers, parts)
        if not content.body.is_stored:
            exchange.request.was_not_stored()
        await exchange.ready()  # a client that does not take what is buffered has not got all
        exchange.finish()

    async def _send_parts(
        self,
        exchange: Exchange,
        content: ContentResponse,
        headers: dict[str, HeaderValue],
        parts: Sequence[Span],
    ) -> None:
        body, size = content.body, content.body.size
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
            await self._send_multipart(exchange, content, headers, parts)

    async def _send_multipart(
        self,
        exchange: Exchange,
        content: ContentResponse,
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
            await content.body.send(exchange, part.start, part.stop, small_part=small_part)
        exchange.write(end)

    @staticmethod
    def _parts(exchange: Exchange, content: ContentResponse, kind: Kind) -> Sequence[Span]:
        # Ranges need a size; manifests are small and always sent whole.
        specs = parse_range(exchange.header("Range"))
        if not specs or kind != "blobs" or content.body.size is None:
            return ()
        if not range_holds(str(content.digest), exchange.header("If-Range")):
            return ()
        try:
            return spans(specs, content.body.size)
        except RangeUnsatisfiable as error:
            error.headers = {**error.headers, "Accept-Ranges": "bytes", "ETag": etag(str(content.digest))}
            raise

    def _respond_to_condition(
        self, exchange: Exchange, content: ContentHead | ContentResponse, headers: Headers
    ) -> bool:
        """
        Respond without a body if a condition asks for that; returns whether it did.

        :raises PreconditionFailed: ``If-Match`` does not match.
        """
        outcome = _outcome(exchange, content.digest)
        if outcome == "failed":
            raise PreconditionFailed("If-Match names another content")
        if outcome == "not modified":
            # What the origin describes, and nobody downloads, it affirms.
            is_described = content.outcome in {Outcome.DESCRIBED, Outcome.RESOLVED}
            self._count_pull(exchange, content, Outcome.AFFIRMED if is_described else content.outcome)
            of_body = ("Content-Type", "Accept-Ranges")
            exchange.reply(304, {name: value for name, value in headers.items() if name not in of_body})
            return True
        return False

    def _count_pull(
        self, exchange: Exchange, content: ContentHead | ContentResponse, outcome: Outcome
    ) -> None:
        """Count a ``GET`` whose client gets the content, or has it: no errors, and no refused ranges."""
        if exchange.method == "GET":
            request = exchange.request
            status = outcome.label(stale=content.stale)
            self._meter.pulled(request.upstream, request.repository, request.kind, status)


def is_partial(exchange: Exchange, digest: Digest) -> bool:
    """Whether a ``GET`` is for less than all of a blob."""
    specs = parse_range(exchange.header("Range"))
    if not specs or not range_holds(str(digest), exchange.header("If-Range")):
        return False
    # "bytes=0-" is all of it: the download tells the size too, without a request before it.
    return any(spec.first != 0 or spec.last is not None for spec in specs)


def _is_small_part(exchange: Exchange, part: Span) -> bool:
    """Whether a part is small, with an explicit end, and not the rest of an interrupted download."""
    specs = parse_range(exchange.header("Range"))
    to_the_end = any(spec.first is not None and spec.last is None for spec in specs)
    return not to_the_end and part.start > 0 and part.length <= _SMALL_PART


def _outcome(exchange: Exchange, digest: Digest) -> str:
    return evaluate(str(digest), exchange.header("If-Match"), exchange.header("If-None-Match"))


def headers_of(
    content: ContentHead | ContentResponse, kind: Kind, *, by_tag: bool = False
) -> dict[str, HeaderValue]:
    """The headers of a response with a content, those that are passed on from the origin included."""
    digest = str(content.digest)
    headers: dict[str, HeaderValue] = {
        "Content-Type": _OCTET_STREAM if kind == "blobs" else content.media_type or _OCTET_STREAM,
        "Docker-Content-Digest": digest,
        "ETag": etag(digest),
        "Cache-Control": _REVALIDATE if by_tag else _IMMUTABLE,
        "Cache-Status": f"contentcache; {content.outcome.cache_status}"
        + ("; stale" if content.stale else ""),
    }
    if kind == "blobs":
        headers["Accept-Ranges"] = "bytes"
    if by_tag:
        headers["Vary"] = "Accept"
    if content.stale:
        headers["Warning"] = STALE
    return {**headers, **content.notices}


def _part_head(boundary: str, media_type: str, part: Span) -> bytes:
    return (
        f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {part.content_range()}\r\n\r\n"
    ).encode("ascii", "replace")
