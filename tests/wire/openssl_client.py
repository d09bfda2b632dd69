"""
A TLS client with OpenSSL itself, for what Python's ``ssl`` has no call for: updating keys (RFC 8446 §4.6.3),
and saying that no more will be sent while going on to read.

The library is the one that Python's ``ssl`` is linked with.
"""

from __future__ import annotations

import _ssl
import ctypes
import socket
import struct
from types import TracebackType
from typing import Any, Final, Self

_UPDATE_REQUESTED: Final = 1
#: Until a call that waits for the server fails.
_SECONDS: Final = 60
_CLOSED: Final = 6  # SSL_ERROR_ZERO_RETURN


def _library() -> Any:
    library = ctypes.CDLL(_ssl.__file__)
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


class OpenSSLClient:
    """A connected, blocking TLS 1.3 client over ``plain``, which checks no certificate. A context manager."""

    def __init__(self, plain: socket.socket) -> None:
        self._library = library = _library()
        # The calls below know nothing of Python's timeouts; the kernel's end a test that hangs.
        plain.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plain.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _SECONDS, 0))
        self._plain = plain
        self._context = ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_client_method())))
        self._ssl = ctypes.c_void_p(library.SSL_new(self._context))
        library.SSL_set_fd(self._ssl, plain.fileno())
        self._check(library.SSL_connect(self._ssl))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.SSL_free(self._ssl)
        self._library.SSL_CTX_free(self._context)
        self._plain.close()

    def send(self, data: bytes) -> None:
        """Send ``data``."""
        self._check(self._library.SSL_write(self._ssl, data, len(data)))

    def read(self, length: int) -> bytes:
        """Some bytes, at most ``length``; none where the server has sent its ``close_notify``."""
        buffer = ctypes.create_string_buffer(length)
        count = self._library.SSL_read(self._ssl, buffer, length)
        if count <= 0 and self._library.SSL_get_error(self._ssl, count) == _CLOSED:
            return b""
        self._check(count)
        return buffer.raw[:count]

    def read_all(self) -> bytes:
        """All bytes until the server's ``close_notify``."""
        got = bytearray()
        while data := self.read(64 << 10):
            got += data
        return bytes(got)

    def update_keys(self) -> None:
        """Send a KeyUpdate that requests one of the server."""
        self._check(self._library.SSL_key_update(self._ssl, _UPDATE_REQUESTED))
        self._check(self._library.SSL_do_handshake(self._ssl))

    def close_notify(self) -> None:
        """Say that no more will be sent; the server's bytes can still be read."""
        self._library.SSL_shutdown(self._ssl)

    def _check(self, result: int) -> None:
        if result <= 0:
            code = self._library.SSL_get_error(self._ssl, result)
            raise ConnectionError(f"TLS has failed with SSL_get_error {code}")
