"""HTTP authentication: the values of ``Authorization`` and ``Proxy-Authorization`` (RFC 9110 §11.4, RFC 7617)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final

#: No client sends longer credentials: the longest are tokens with a certificate chain or with many groups.
MAX_CREDENTIALS: Final = 16 << 10


def credentials_for(scheme: str, authorization: str | None) -> str | None:
    """
    What follows ``scheme`` in a header's value; ``None`` for another scheme, or for nothing after it.

    >>> credentials_for("Bearer", "bearer  abc"), credentials_for("Bearer", "Basic eDp5")
    ('abc', None)
    """
    given, _, rest = (authorization or "").partition(" ")
    rest = rest.strip(" ")
    return rest if rest and given.lower() == scheme.lower() else None


def encode_basic(username: bytes, password: bytes) -> str:
    """
    A user name and a password as a header's value.

    >>> encode_basic(b"alice", b"a:b")
    'Basic YWxpY2U6YTpi'
    """
    return "Basic " + b64encode(username + b":" + password).decode("ascii")


def decode_basic(credentials: str) -> tuple[bytes, bytes] | None:
    """
    The user name and the password in what follows ``Basic``; ``None`` where it is not padded base64 of them.

    Their charset is not known (RFC 7617 §2).

    >>> decode_basic("YWxpY2U6YTpi"), decode_basic("YQ==")
    ((b'alice', b'a:b'), None)
    """
    try:
        username, colon, password = b64decode(credentials, validate=True).partition(b":")
    except ValueError:  # binascii.Error, and characters beyond ASCII
        return None
    return (username, password) if colon else None
