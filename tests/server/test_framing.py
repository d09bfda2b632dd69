"""Tests for :mod:`contentcache.server.framing`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from contentcache.core.errors import CacheError, MethodUnsupported, RequestMalformed
from contentcache.server.framing import ExpectationFailed, VersionUnsupported, check_head, check_line

_HOST = ("Host", "cache.example")


class LookAtTests(SynchronousTestCase):
    """``check_head``."""

    def refuses(
        self, error: type[CacheError], *fields: tuple[str, str], method: bytes = b"GET", version: str = "1.1"
    ) -> CacheError:
        """The refusal of a head."""
        headers = Headers()
        for name, value in fields:
            headers.addRawHeader(name, value)
        caught = self.assertRaises(error, check_head, method, b"HTTP/" + version.encode(), headers)
        assert isinstance(caught, CacheError)
        return caught

    def passes(self, *fields: tuple[str, str], method: bytes = b"GET", version: str = "1.1") -> None:
        """A head is nothing to refuse."""
        headers = Headers()
        for name, value in fields:
            headers.addRawHeader(name, value)
        check_head(method, b"HTTP/" + version.encode(), headers)

    def test_good(self) -> None:
        """What clients send passes."""
        self.passes(_HOST)
        self.passes(_HOST, method=b"HEAD")
        self.passes(version="1.0")
        self.passes(_HOST, ("Content-Length", "0"), ("Expect", "100-Continue"))
        for host in (
            "",
            "cache:5000",
            "127.0.0.1:1",
            "[::1]:5000",
            "[fe80::1%25eth0]".replace("%25eth0", ""),
        ):
            self.passes(("Host", host))

    def test_writes(self) -> None:
        """Whatever is not GET, HEAD or OPTIONS is refused, in any case of letters, and told what is taken."""
        for method in (b"POST", b"PUT", b"PATCH", b"DELETE", b"CONNECT", b"TRACE", b"get", b"X"):
            error = self.refuses(MethodUnsupported, _HOST, ("Content-Length", "5"), method=method)
            self.assertEqual((error.status, error.headers), (405, {"Allow": "GET, HEAD, OPTIONS"}))
            self.assertIn("push to the origin", error.message)
        self.refuses(MethodUnsupported, _HOST, ("Transfer-Encoding", "chunked"), method=b"POST")

    def test_framing_in_doubt(self) -> None:
        """Where two could see two ends of a request it is malformed, whatever its method."""
        cases = [
            (("Content-Length", "5"), ("Transfer-Encoding", "chunked")),
            (("Content-Length", "5"), ("Content-Length", "5")),
            (("Content-Length", "5"), ("Content-Length", "6")),
            *(
                (("Content-Length", value),)
                for value in ("+5", "-5", "0x5", "5 5", "5,5", "", "5_0", "9" * 5000)
            ),
            *(
                (("Transfer-Encoding", value),)
                for value in ("identity", "gzip", "gzip, chunked", "chunked, chunked", "xchunked", "")
            ),
            (("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")),
        ]
        for fields in cases:
            for method in (b"GET", b"POST"):
                self.refuses(RequestMalformed, _HOST, *fields, method=method)
        self.refuses(RequestMalformed, ("Transfer-Encoding", "chunked"), method=b"POST", version="1.0")

    def test_get_with_body(self) -> None:
        """A body where none belongs is malformed: it is not read, so nothing can follow it."""
        self.refuses(RequestMalformed, _HOST, ("Content-Length", "5"))
        self.refuses(RequestMalformed, _HOST, ("Content-Length", "00"))
        self.refuses(RequestMalformed, _HOST, ("Transfer-Encoding", "chunked"))

    def test_host(self) -> None:
        """HTTP/1.1 has exactly one host, and it looks like one."""
        self.refuses(RequestMalformed)
        self.refuses(RequestMalformed, _HOST, _HOST)
        for host in ("a b", "a/b", "user@a", "a:port", "a:123456", "a,b", "[::1", "a?b", "é", "a:1:2"):
            self.refuses(RequestMalformed, ("Host", host))

    def test_twice(self) -> None:
        """Fields with one meaning are given once."""
        for name in ("Authorization", "Range", "If-Range"):
            self.refuses(RequestMalformed, _HOST, (name, "a"), (name, "a"))

    def test_expectation(self) -> None:
        """Nothing but 100-continue can be expected."""
        self.assertEqual(self.refuses(ExpectationFailed, _HOST, ("Expect", "miracles")).status, 417)


class LookAtLineTests(SynchronousTestCase):
    """``check_line``."""

    def test_good(self) -> None:
        """A request line, an empty line before it, a field."""
        check_line(b"GET /v2/?a=b HTTP/1.1", is_first=True)
        check_line(b"M-SEARCH * HTTP/1.0", is_first=True)
        check_line(b"", is_first=True)
        check_line(b"Host: a b", is_first=False)

    def test_malformed(self) -> None:
        """Folding, bare line ends, and what is no request line."""
        for line in (b" Host: a", b"\tfolded", b"A: b\nC: d", b"A: b\rC: d"):
            for is_first in (True, False):
                self.assertRaises(RequestMalformed, check_line, line, is_first=is_first)
        lines = (
            b"GET /",
            b"GET  / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET\t/ HTTP/1.1",
            b"GET / HTTP/1.10",
            b"GET / http/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET /\xe9 HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"/ HTTP/1.1",
        )
        for line in lines:
            self.assertRaises(RequestMalformed, check_line, line, is_first=True)

    def test_version(self) -> None:
        """Another HTTP is named as such."""
        for line in (b"PRI * HTTP/2.0", b"GET / HTTP/3.0", b"GET / HTTP/0.9", b"GET / HTTP/1.2"):
            error = self.assertRaises(VersionUnsupported, check_line, line, is_first=True)
            self.assertEqual(getattr(error, "status", None), 505)
