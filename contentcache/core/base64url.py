"""Base64url without padding (RFC 7515 §2)."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode


def base64url_encode(content: bytes) -> str:
    """
    Encode without padding.

    >>> base64url_encode(b"\\xff")
    '_w'
    """
    return urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def lenient_base64url_decode(text: str) -> bytes:
    """
    Decode, however oddly it is written; for what is not verified.

    :raises ValueError: its length cannot be right.

    >>> lenient_base64url_decode("_w"), lenient_base64url_decode("_x==")
    (b'\\xff', b'\\xff')
    """
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
