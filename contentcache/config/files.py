"""
The files that a configuration names: read once here, so that a broken one is told before the start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from contentcache.config.faults import Wrong
from contentcache.config.readers import text
from contentcache.config.tables import Item, Table

T = TypeVar("T")

#: More than any bundle of authorities has.
LARGEST: Final = 8 << 20


def certificates(item: Item) -> str:
    """
    The path of a file with at least one certificate in PEM.
    """
    path = text(item)
    _certificates(path)
    return path


def absolute_certificates(item: Item) -> str:
    """
    The same for a path from the root, as in ``cas``.
    """
    path = text(item)
    if not os.path.isabs(path):
        raise Wrong(f"{item.shown()} is a relative path; write the whole one, e.g. /certs/ca.pem")
    return certificates(item)


def pair(table: Table, certificate: str = "certificate", key: str = "key") -> tuple[str, str] | None:
    """
    The paths of a certificate (its intermediates behind it) and its key, which must fit each other.
    """
    for present, absent in ((certificate, key), (key, certificate)):
        if table.has(present) and not table.has(absent):
            table.fault(absent, f"is required where {present} is given")
    public = table.read(certificate, lambda item: (text(item), _public_key(text(item))), None)
    private = table.read(key, lambda item: (text(item), _public_half(text(item))), None)
    if public is None or private is None:
        return None
    if public[1] != private[1]:
        table.fault(key, f"{private[0]!r} is not the key of the certificate in {public[0]!r}")
    return public[0], private[0]


def password(item: Item) -> str:
    """
    The text in a file, without the newline at its end.
    """
    path = text(item)
    try:
        word = _content(path).decode("utf-8")
    except UnicodeDecodeError:
        raise Wrong(f"{path!r} is not text in UTF-8") from None
    word = word.removesuffix("\n").removesuffix("\r")
    if not word or not word.isprintable():
        raise Wrong(f"{path!r} does not hold a password in one line")
    return word


def _content(path: str) -> bytes:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise Wrong(f"{path!r} is not a file")
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise Wrong(f"{path!r} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise Wrong(f"{path!r} is not a path") from None
    if len(content) > LARGEST:
        raise Wrong(f"{path!r} is larger than {LARGEST} bytes")
    return content


def _certificates(path: str) -> list[x509.Certificate]:
    content = _content(path)
    found = _parsed(lambda: x509.load_pem_x509_certificates(content))
    if not found:
        raise Wrong(f"{path!r} does not hold certificates in PEM, or a broken one")
    return found


def _public_key(path: str) -> bytes:
    leaf = _certificates(path)[0]
    encoded = _parsed(lambda: leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if encoded is None:
        raise Wrong(f"the first certificate in {path!r} has a key of a kind that is not supported")
    return encoded


def _public_half(path: str) -> bytes:
    content = _content(path)
    try:
        key = _parsed(lambda: load_pem_private_key(content, None))
    except TypeError:
        raise Wrong(f"the key in {path!r} is encrypted; store it without a passphrase") from None
    if key is None:
        raise Wrong(f"{path!r} does not hold a private key in PEM")
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _parsed(parse: Callable[[], T]) -> T | None:
    try:
        return parse()
    except (ValueError, UnsupportedAlgorithm):
        return None
