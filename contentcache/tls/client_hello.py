"""
What a client says first on a TLS connection: which protocols it offers by ALPN.

OpenSSL's callback for ALPN comes too late to change the certificate in TLS 1.2, and the callback for the
server's name is not told of ALPN. So the bytes of the ClientHello (RFC 8446 §4.1.2) are read once more, here.
"""

from __future__ import annotations

from typing import Final

from attrs import define

#: No honest ClientHello is longer; OpenSSL refuses those above 128 KiB itself.
LONGEST: Final = 1 << 17

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16
_RECORD_HEAD: Final = 5
_MESSAGE_HEAD: Final = 4
_VERSION_AND_RANDOM: Final = 2 + 32


class _Cut(Exception):
    """There are fewer bytes than their own lengths say."""


@define
class _Reader:
    """Takes numbers and length-prefixed pieces from the front of some bytes."""

    rest: bytes

    def take(self, count: int) -> bytes:
        if len(self.rest) < count:
            raise _Cut
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def piece(self, size: int) -> bytes:
        """What follows a length of ``size`` bytes."""
        return self.take(self.number(size))


def offered_protocols(data: bytes) -> tuple[bytes, ...]:
    """
    The names that a ClientHello offers by ALPN (RFC 7301 §3.1).

    ``data`` are the first bytes of a connection, at least the whole ClientHello. Empty where it offers none,
    or cannot be read: then OpenSSL is about to refuse it.
    """
    try:
        hello = _Reader(_message(data))
        hello.take(_VERSION_AND_RANDOM)
        for size in (1, 2, 1):  # session, cipher suites, compression
            hello.piece(size)
        extensions = _Reader(hello.piece(2))
        while extensions.rest:
            kind, content = extensions.number(2), extensions.piece(2)
            if kind == _ALPN:
                return _names(_Reader(_Reader(content).piece(2)))
    except _Cut:
        pass
    return ()


def _names(names: _Reader) -> tuple[bytes, ...]:
    found = []
    while names.rest:
        found.append(names.piece(1))
    return tuple(found)


def _message(data: bytes) -> bytes:
    """The ClientHello's content, which may be spread over several records (RFC 8446 §5.1)."""
    records, content = _Reader(data), b""
    while len(content) < _MESSAGE_HEAD or len(content) < _MESSAGE_HEAD + int.from_bytes(content[1:4], "big"):
        head = records.take(_RECORD_HEAD)
        if head[0] != _HANDSHAKE:
            raise _Cut
        content += records.take(int.from_bytes(head[3:5], "big"))
    if content[0] != _CLIENT_HELLO:
        raise _Cut
    return content[_MESSAGE_HEAD : _MESSAGE_HEAD + int.from_bytes(content[1:4], "big")]
