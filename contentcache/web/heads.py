"""
What is decided at the end of a request's headers, before a byte of its body is taken.

Plain functions over the head, so that they can be tested without a socket. twisted.web would spool a body
to a temporary file first, and tell only then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from twisted.web.http_headers import Headers

from contentcache.core.errors import CacheError, MethodUnsupported, RequestMalformed

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.%]+\])(?::[0-9]{0,5})?")
#: At most once each: two of them could mean two things.
_SINGLE: Final = (b"Host", b"Authorization", b"Content-Length", b"Range", b"If-Range")
_METHODS: Final = (b"GET", b"HEAD")
_VERSIONS: Final = (b"HTTP/1.0", b"HTTP/1.1")
_PUSH: Final = "this is a cache: push to the origin registry instead, it takes what you send"


class ExpectationFailed(CacheError):
    """The client expects what nobody does here (RFC 9110 §10.1.1)."""

    code = "UNSUPPORTED"
    status = 417


class VersionUnsupported(CacheError):
    """Not HTTP/1.1, and not 1.0."""

    code = "UNSUPPORTED"
    status = 505


class HeadTooLarge(CacheError):
    """More than ``limits.headers`` bytes before the body (RFC 6585 §5)."""

    code = "UNSUPPORTED"
    status = 431


class HeadTooSlow(CacheError):
    """The head did not arrive within ``limits.headertime``."""

    code = "UNSUPPORTED"
    status = 408


def look_at(method: bytes, version: bytes, headers: Headers) -> None:
    """
    Refuse what is not to be acted on.

    :raises RequestMalformed: framed or phrased in doubt (RFC 9112 §6.1).
    :raises MethodUnsupported: anything that writes.
    :raises ExpectationFailed, VersionUnsupported: as they say.
    """
    if version not in _VERSIONS:
        raise VersionUnsupported("HTTP/1.1 is spoken here")
    _look_at_framing(version, headers)
    if method not in _METHODS:
        raise MethodUnsupported(_PUSH, headers={"Allow": "GET, HEAD"})
    if headers.hasHeader(b"Transfer-Encoding") or _values(headers, b"Content-Length") not in ([], [b"0"]):
        raise RequestMalformed("a request without a body is expected")
    if any(value.strip().lower() != b"100-continue" for value in _values(headers, b"Expect")):
        raise ExpectationFailed("nothing but 100-continue can be expected")


def _look_at_framing(version: bytes, headers: Headers) -> None:
    if headers.hasHeader(b"Transfer-Encoding"):
        if headers.hasHeader(b"Content-Length"):
            raise RequestMalformed("both Content-Length and Transfer-Encoding are given")
        if [value.strip().lower() for value in _values(headers, b"Transfer-Encoding")] != [b"chunked"]:
            raise RequestMalformed("the only transfer coding is chunked")
        if version != b"HTTP/1.1":
            raise RequestMalformed("HTTP/1.0 has no transfer codings")
    for name in _SINGLE:
        if len(_values(headers, name)) > 1:
            raise RequestMalformed(f"{name.decode()} is given twice")
    hosts = _values(headers, b"Host")
    if not hosts and version == b"HTTP/1.1":
        raise RequestMalformed("the Host header is missing")
    if hosts and hosts[0] and _HOST.fullmatch(hosts[0]) is None:
        raise RequestMalformed("the Host header is no host")


def _values(headers: Headers, name: bytes) -> Sequence[bytes]:
    return headers.getRawHeaders(name) or []
