"""
The protocols that a TLS client offers by ALPN in its ClientHello.

OpenSSL's callback for ALPN comes too late to change the certificate in TLS 1.2, and the callback for the
server name does not know ALPN. So the ClientHello (RFC 8446 §4.1.2) is parsed once more, here.
"""

from __future__ import annotations

from typing import Final

from attrs import define

#: OpenSSL refuses a longer ClientHello itself.
MAX_CLIENT_HELLO: Final = 1 << 17

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16
_RECORD_HEAD: Final = 5
_MESSAGE_HEAD: Final = 4
_VERSION_AND_RANDOM: Final = 2 + 32


class _TruncatedError(Exception):
    """There are fewer bytes than their own lengths say."""


@define
class _Reader:
    """Reads numbers and length-prefixed vectors from the front of some bytes."""

    rest: bytes

    def read(self, count: int) -> bytes:
        if len(self.rest) < count:
            raise _TruncatedError
        data, self.rest = self.rest[:count], self.rest[count:]
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.read(size), "big")

    def vector(self, size: int) -> bytes:
        """The bytes after a length of ``size`` bytes."""
        return self.read(self.number(size))


def offered_protocols(data: bytes) -> tuple[bytes, ...]:
    """
    The names that a ClientHello offers by ALPN (RFC 7301 §3.1).

    ``data`` are the first bytes of a connection, at least the whole ClientHello. Empty where it offers none,
    or cannot be parsed: then OpenSSL refuses it.
    """
    try:
        hello = _Reader(_message(data))
        hello.read(_VERSION_AND_RANDOM)
        for size in (1, 2, 1):  # session, cipher suites, compression
            hello.vector(size)
        extensions = _Reader(hello.vector(2))
        while extensions.rest:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == _ALPN:
                return _names(_Reader(_Reader(content).vector(2)))
    except _TruncatedError:
        pass
    return ()


def _names(names: _Reader) -> tuple[bytes, ...]:
    found = []
    while names.rest:
        found.append(names.vector(1))
    return tuple(found)


def _message(data: bytes) -> bytes:
    """The ClientHello's content, which may be spread over several records (RFC 8446 §5.1)."""
    records, content = _Reader(data), b""
    while len(content) < _MESSAGE_HEAD or len(content) < _MESSAGE_HEAD + int.from_bytes(content[1:4], "big"):
        head = records.read(_RECORD_HEAD)
        if head[0] != _HANDSHAKE:
            raise _TruncatedError
        content += records.read(int.from_bytes(head[3:5], "big"))
    if content[0] != _CLIENT_HELLO:
        raise _TruncatedError
    return content[_MESSAGE_HEAD : _MESSAGE_HEAD + int.from_bytes(content[1:4], "big")]
