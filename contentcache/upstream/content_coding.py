"""
Bodies that an upstream has compressed although it was asked not to (RFC 9110 §8.4).

gzip and deflate are decoded, with a bound on the result, so that a small body cannot fill the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from contentcache.core.errors import UpstreamBroken

#: Most bytes that a compressed body may have when it is decoded.
LARGEST_DECODED: Final = 16 << 20
_PIECE: Final = 256 << 10
_GZIP: Final = 16 + zlib.MAX_WBITS
_ZLIB: Final = zlib.MAX_WBITS
#: The low four bits of the first byte of zlib's format (RFC 1950 §2.2); some servers omit its frame.
_DEFLATED: Final = 8

_NAMES: Final = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


def content_codings(values: Sequence[str]) -> Sequence[str]:
    """
    The codings that ``Content-Encoding`` names, in lower case; ``identity`` is none.

    >>> content_codings(["X-GZip", "identity, br"])
    ['x-gzip', 'br']
    """
    named = [name.strip().lower() for value in values for name in value.split(",")]
    return [name for name in named if name not in {"", "identity"}]


class Decoder:
    """
    Decodes one coding, piece by piece.

    :raises UpstreamBroken: there are several codings, or one that is not known.
    """

    def __init__(self, codings: Sequence[str], largest: int = LARGEST_DECODED) -> None:
        self._name = _NAMES.get(codings[0]) if len(codings) == 1 else None
        if self._name is None:
            named = ", ".join(codings)[:100]
            raise UpstreamBroken(
                f"upstream sends Content-Encoding: {named!r} although it was asked for none; this cache"
                " decodes gzip and deflate, one at a time"
            )
        self._largest = largest
        self._decoded = 0
        self._decompressor: Any = None
        self._is_whole = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        """
        The decoded bytes of ``data``, in pieces.

        :raises UpstreamBroken: it is damaged, or too large when it is decoded.
        """
        while data:
            if self._decompressor is None:
                if self._is_whole and not data.strip(b"\0"):
                    return  # padding
                self._decompressor = zlib.decompressobj(self._window(data[0]))
            decompressor = self._decompressor
            try:
                piece = decompressor.decompress(data, _PIECE)
            except zlib.error as error:
                raise UpstreamBroken(f"upstream's {self._name} body is damaged") from error
            data = decompressor.unconsumed_tail
            if decompressor.eof:
                # gzip may be made of several members, one after the other (RFC 1952 §2.2).
                data = decompressor.unused_data if self._name == "gzip" else b""
                self._is_whole, self._decompressor = True, None
            else:
                self._is_whole = False
            self._decoded += len(piece)
            if self._decoded > self._largest:
                raise UpstreamBroken(f"upstream's {self._name} body has more than {self._largest} bytes")
            if piece:
                yield piece

    def end(self) -> None:
        """
        To be called at the end of the body.

        :raises UpstreamBroken: it is cut short.
        """
        if not self._is_whole:
            raise UpstreamBroken(f"upstream's {self._name} body is cut short")

    def _window(self, first: int) -> int:
        if self._name == "gzip":
            return _GZIP
        return _ZLIB if first & 15 == _DEFLATED else -zlib.MAX_WBITS
