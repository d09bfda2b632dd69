"""
The requests that the fast path can answer, parsed once and compared from then on.

A connection sends the same headers with every request; many connections send the same request lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from attrs import Factory, define
from twisted.web.http_headers import Headers

from contentcache.auth.interfaces import Scope
from contentcache.core.client_address import shown_address
from contentcache.core.errors import CacheError
from contentcache.core.policy import allowed
from contentcache.core.ranges import RangeSpec
from contentcache.core.routes import Content, parse
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.jose.blob_tokens import VerifiedBlobToken
from contentcache.registry.admission import scope_of
from contentcache.registry.origin_selection import OriginSelector, SelectedOrigin
from contentcache.server.access_log import user_of
from contentcache.server.framing import check_head, check_line
from contentcache.storage.interfaces import Link
from contentcache.telemetry.logging import sanitize
from contentcache.upstream.registry import Registry

_MOST_FIELDS: Final = 24
_FIELD: Final = re.compile(rb"([A-Za-z-]+):[ \t]*([!-~](?:[ -~]*[!-~])?)")
_RANGE: Final = re.compile(rb"(?:\A|\r\n)[Rr]ange:[ \t]*bytes=([0-9]{0,18})-([0-9]{0,18})(?=\r\n|\Z)")
#: Only the first two of these fields can change the response.
_SIMPLE: Final = frozenset(
    {
        b"authorization",
        b"host",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"connection",
        b"referer",
        b"user-agent",
        b"x-meta-source-client",
    }
)
#: Number of request lines of all clients that are cached; a full cache is cleared.
_MOST_TARGETS: Final = 4096
_LINE: Final = re.compile(rb"(GET|HEAD) (/[!-~]*/blobs/[!->@-~]*)(?:\?ns=([A-Za-z0-9.:_-]+))? HTTP/1\.1")
_NS: Final = rb"(ns=[A-Za-z0-9.:_-]+)"
_SIGNED: Final = re.compile(
    rb"((?:GET|HEAD) [^ ?]+)\?(?:%b&)?token=([A-Za-z0-9._-]+)(?:&%b)? HTTP/1\.1" % (_NS, _NS)
)


@define(eq=False)
class ParsedHeaders:
    """
    The headers of a connection's requests. ``raw`` is their head without the request line and ``Range``;
    ``authorizers`` tell, for each origin and repository, whether this client may read a blob there.
    """

    raw: bytes
    simple: bool = False
    host: str = ""
    authorization: str | None = None
    address: str = "-"
    user: str = "-"
    agent: str = "-"
    referer: str = "-"
    authorizers: dict[tuple[str, str], Callable[[Link], bool]] = Factory(dict)


def split_range(raw: bytes) -> tuple[bytes, RangeSpec | None]:
    """
    Headers without a simple ``Range``, and that range: one part, whose end is not before its start.

    >>> split_range(b"Host: a\\r\\nRange: bytes=0-9\\r\\nAccept: b")
    (b'Host: a\\r\\nAccept: b', RangeSpec(first=0, last=9))
    >>> split_range(b"Range: bytes=9-0")
    (b'Range: bytes=9-0', None)
    """
    match = _RANGE.search(raw) if b"ange:" in raw else None
    if match is None:
        return raw, None
    first, last = (int(digits) if digits else None for digits in match.groups())
    if (first is None and last is None) or (first is not None and last is not None and first > last):
        return raw, None
    start, end = match.span()
    return raw[:start] + raw[end if start else end + 2 :], RangeSpec(first, last)


def parse_headers(raw: bytes, address: str) -> ParsedHeaders:
    """Parse the headers of a client at ``address``; they are not ``simple`` if anything else is in them."""
    parsed = ParsedHeaders(raw)
    lines = raw.split(b"\r\n")
    if len(lines) > _MOST_FIELDS:
        return parsed
    fields: dict[bytes, str] = {}
    headers = Headers()
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None or (name := match[1].lower()) in fields or name not in _SIMPLE:
            return parsed
        fields[name] = match[2].decode("ascii")
        headers.addRawHeader(name, match[2])
    try:
        check_head(b"GET", b"HTTP/1.1", headers)
        for line in lines:
            check_line(line, is_first=False)
    except CacheError:
        return parsed
    parsed.simple = fields.get(b"connection", "keep-alive").lower() == "keep-alive"
    parsed.host = fields[b"host"].lower()
    parsed.authorization = fields.get(b"authorization")
    parsed.address = shown_address(address)
    parsed.user = user_of(parsed.authorization)
    parsed.agent = sanitize(fields.get(b"user-agent", "-"), 256)
    parsed.referer = sanitize(fields.get(b"referer", "-"), 256)
    return parsed


@define(eq=False)
class ParsedTarget:
    """
    A request line for a blob. ``uri`` is for the access log, ``scope`` for local authentication. ``fields`` and
    ``head`` are filled by the fast path: the headers of a response, and the whole head after its first line.
    """

    method: str
    uri: str
    registry: Registry
    content: Content
    scope: Scope
    link: Link
    repository_key: tuple[str, str]
    fields: bytes = b""
    head: bytes = b""


class TargetCache:
    """Parses request lines, and caches them without the tokens of signed URLs."""

    def __init__(self, origins: OriginSelector, signed_urls: SignedUrls, prefix: str) -> None:
        self._origins = origins
        self._signed_urls = signed_urls
        self._prefix = prefix.rstrip("/")
        self._targets: dict[tuple[str, bytes, str], ParsedTarget] = {}

    def clear(self) -> None:
        """Forget all: what the configuration says of origins, or the headers of responses, may have changed."""
        self._targets.clear()

    def find(self, host: str, line: bytes) -> ParsedTarget | None:
        """The target of a request line without a token."""
        return self._targets.get((host, line, "")) or self._parse(host, line, line, "")

    def find_signed(
        self, host: str, line: bytes
    ) -> tuple[ParsedTarget, VerifiedBlobToken] | tuple[None, None]:
        """The target of a signed URL and its token, if that allows it, was verified before, and is still valid."""
        match = _SIGNED.fullmatch(line)
        token = self._signed_urls.cached(match[3].decode("ascii")) if match is not None else None
        if match is None or token is None:
            return None, None
        bare = line[: match.start(3)] + line[match.end(3) :]
        target = self._targets.get((host, bare, token.issuer))
        if target is None:
            path, first, _token, last = match.groups()
            if first and last:
                return None, None
            query = b"?" + (first or last) if first or last else b""
            target = self._parse(host, path + query + b" HTTP/1.1", bare, token.issuer)
        if target is None or not self._signed_urls.allows(token, target.registry, target.content):
            return None, None
        return target, token.signed

    def _parse(self, host: str, line: bytes, bare: bytes, issuer: str) -> ParsedTarget | None:
        """
        Parse a request line.

        :param line: without token.
        :param bare: the line with an empty token, for the cache and the log.
        :param issuer: that of the token, empty where there is none.
        """
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        method, path, namespace = (part.decode("ascii") if part else None for part in match.groups())
        if method is None or path is None or not path.startswith(self._prefix + "/"):
            return None
        try:
            content = parse(path[len(self._prefix) :])
            if not isinstance(content, Content) or content.kind != "blobs":
                return None
            selected = self._select(content, namespace, host, issuer)
            self._origins.check_name(selected)  # where that does not matter, the API answers
        except CacheError:
            return None
        return self._store((host, bare, issuer), method, selected)

    def _select(self, content: Content, namespace: str | None, host: str, issuer: str) -> SelectedOrigin:
        if issuer:
            return self._origins.select_signed(content, namespace, host, issuer)
        return self._origins.select(content, namespace, host)

    def _store(
        self, key: tuple[str, bytes, str], method: str, selected: SelectedOrigin
    ) -> ParsedTarget | None:
        upstream, content, scope = selected.registry.upstream, selected.route, scope_of(selected)
        if not isinstance(content, Content) or scope is None:
            return None
        if not allowed(content.repository, upstream.allow, upstream.deny):
            return None
        link = Link(upstream.origin, content.repository, content.kind, content.digest)
        repository_key = (link.origin, link.repository)
        uri = sanitize(key[1].split(b" ")[1].decode("ascii"))
        target = ParsedTarget(method, uri, selected.registry, content, scope, link, repository_key)
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()
        self._targets[key] = target
        return target
