"""
Checks of a request's head, before a byte of its body is read.

Plain functions over the head, testable without a socket. twisted.web would decide only after it had spooled the
body to a temporary file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from twisted.web.http_headers import Headers

from contentcache.core.errors import CacheError, MethodUnsupported, RequestMalformed

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.%]+\])(?::[0-9]{0,5})?")
_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ (HTTP/[0-9]\.[0-9])")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
#: At most once each: two of them would be ambiguous.
_SINGLE: Final = (b"Host", b"Authorization", b"Content-Length", b"Range", b"If-Range")
_METHODS: Final = (b"GET", b"HEAD", b"OPTIONS")
ALLOWED: Final = "GET, HEAD, OPTIONS"
_VERSIONS: Final = (b"HTTP/1.0", b"HTTP/1.1")
_PUSH: Final = "this is a cache: push to the origin registry instead, it takes what you send"


class ExpectationFailed(CacheError):
    """An expectation that is not supported (RFC 9110 §10.1.1)."""

    code = "UNSUPPORTED"
    status = 417


class VersionUnsupported(CacheError):
    """Neither HTTP/1.1 nor HTTP/1.0."""

    code = "UNSUPPORTED"
    status = 505


class TargetTooLong(CacheError):
    """A request line of more than ``limits.headers`` bytes (RFC 9112 §3)."""

    code = "UNSUPPORTED"
    status = 414


class HeadTooLarge(CacheError):
    """More than ``limits.headers`` bytes before the body (RFC 6585 §5)."""

    code = "UNSUPPORTED"
    status = 431


class HeadTooSlow(CacheError):
    """The head did not arrive within ``limits.headertime``."""

    code = "UNSUPPORTED"
    status = 408


def is_host(name: str) -> bool:
    """Whether a name can be a host's, with or without a port."""
    return _HOST.fullmatch(name.encode("latin-1", "replace")) is not None


def check_line(line: bytes, *, is_first: bool) -> None:
    """
    Check one line of a head. An empty line may come before the request line (RFC 9112 §2.2).

    :raises RequestMalformed: a folded line, a bare CR or LF (a proxy may have read them differently), or not a
        request line where one is expected.
    :raises VersionUnsupported: a request line of another HTTP version.
    """
    if line[:1] in {b" ", b"\t"} or b"\n" in line or b"\r" in line:
        raise RequestMalformed("folded lines and bare line ends are not taken")
    if is_first and line:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise RequestMalformed("this is not a request line")
        if match[1] not in _VERSIONS:
            raise VersionUnsupported("HTTP/1.1 is spoken here")


def check_head(method: bytes, version: bytes, headers: Headers) -> None:
    """
    Check the head of a request for reading, without a body.

    :raises RequestMalformed: ambiguous framing or fields (RFC 9112 §6.1), or a body.
    :raises MethodUnsupported: a method that writes.
    :raises ExpectationFailed: anything but ``100-continue`` is expected.
    """
    check_framing(version, headers)
    if method not in _METHODS:
        raise MethodUnsupported(_PUSH, headers={"Allow": ALLOWED})
    if headers.hasHeader(b"Transfer-Encoding") or _values(headers, b"Content-Length") not in ([], [b"0"]):
        raise RequestMalformed("a request without a body is expected")
    check_expectations(headers)


def check_expectations(headers: Headers) -> None:
    """:raises ExpectationFailed: anything but ``100-continue`` is expected."""
    if any(value.strip().lower() != b"100-continue" for value in _values(headers, b"Expect")):
        raise ExpectationFailed("nothing but 100-continue can be expected")


def check_framing(version: bytes, headers: Headers) -> None:
    """:raises RequestMalformed: framing or fields that a proxy may have read differently (RFC 9112 §6.1)."""
    if headers.hasHeader(b"Transfer-Encoding"):
        if headers.hasHeader(b"Content-Length"):
            raise RequestMalformed("both Content-Length and Transfer-Encoding are given")
        if [value.strip().lower() for value in _values(headers, b"Transfer-Encoding")] != [b"chunked"]:
            raise RequestMalformed("the only transfer coding is chunked")
        if version != b"HTTP/1.1":
            raise RequestMalformed("HTTP/1.0 has no transfer codings")
    if any(_LENGTH.fullmatch(value) is None for value in _values(headers, b"Content-Length")):
        raise RequestMalformed("Content-Length is not a number of bytes")
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
