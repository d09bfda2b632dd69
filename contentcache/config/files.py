"""The files that a configuration names: read once here, so that a broken one is reported before the start."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from contentcache.config.document import Series
from contentcache.config.faults import InvalidValueError
from contentcache.config.readers import listing, secret, text
from contentcache.config.tables import Item, Table
from contentcache.jose.jwk import KEY_TYPES, InvalidJWKError
from contentcache.jose.keyset import entries_of, parse_key_set

T = TypeVar("T")

#: More than any bundle of authorities has.
LARGEST: Final = 8 << 20
_LARGEST_KEY: Final = 64 << 10

#: Lines and keys that a sentence names at most.
_MOST_REASONS: Final = 5
#: A user, a colon, and a hash of bcrypt with its cost, salt and sum.
_BCRYPT_ENTRY = re.compile(r"[^:]+:\$2[aby]\$(?:0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")


def certificates(item: Item) -> str:
    """The path of a file with at least one certificate in PEM."""
    path = text(item)
    _certificates(path)
    return path


def absolute_certificates(item: Item) -> str:
    """The same for a path from the root, as in ``cas``."""
    path = text(item)
    if not os.path.isabs(path):
        raise InvalidValueError(
            f"{item.described()} is a relative path; write the whole one, e.g. /certs/ca.pem"
        )
    return certificates(item)


def pair(table: Table, certificate: str = "certificate", key: str = "key") -> tuple[str, str] | None:
    """The paths of a certificate (its intermediates behind it) and its key, which must fit each other."""
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
    """The text in a file, without the newline at its end."""
    path = text(item)
    try:
        word = _content(path).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidValueError(f"{path!r} is not text in UTF-8") from None
    word = word.removesuffix("\n").removesuffix("\r")
    if not word or not word.isprintable():
        raise InvalidValueError(f"{path!r} does not hold a password in one line")
    return word


def users(item: Item) -> str:
    """
    The path of a file of users, at least one with a bcrypt hash; lines with others are warned of.

    The registry makes a file that is missing, with a password in its log; here it is a fault.
    """
    path = text(item)
    if not os.path.lexists(path):
        raise InvalidValueError(
            f"{path!r} does not exist; make it with: htpasswd -Bc {shlex.quote(path)} USER"
        )
    lines = [line.strip() for line in _content(path).decode("utf-8", "replace").splitlines()]
    entries = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith("#")}
    others = [number for number, line in entries.items() if not _BCRYPT_ENTRY.fullmatch(line)]
    if len(others) == len(entries):
        raise InvalidValueError(
            f"{path!r} has no user with a bcrypt hash, the only kind that is taken; "
            f"add one with: htpasswd -B {shlex.quote(path)} USER"
        )
    if others:
        where = f"line{'s' if len(others) > 1 else ''} {_listed(others)}"
        item.report.warn(
            item.position,
            f"{where} of {path!r}: no user and a bcrypt hash, so nobody can log in by it; use htpasswd -B",
        )
    return path


def token_keys(item: Item) -> str:
    """The path of a JWK set (RFC 7517 §5) with at least one public key, of any algorithm."""
    path = text(item)
    try:
        keys = entries_of(_content(path))
    except InvalidJWKError as error:
        raise InvalidValueError(f"{path!r} cannot be used: {error}") from None
    if not any(isinstance(key, dict) and key.get("kty") in KEY_TYPES for key in keys):
        raise InvalidValueError(f"{path!r} has no public key: none of its keys has a kty of EC, OKP or RSA")
    secret = [number for number, key in enumerate(keys) if isinstance(key, dict) and {"d", "k"} & key.keys()]
    if secret:
        item.report.warn(
            item.position, f"keys {_listed(secret)} of {path!r} are secret; keep only public ones here"
        )
    return path


def signing_keys(item: Item) -> str:
    """The path of a JWK set with at least one key that signed URLs may be signed with."""
    path = text(item)
    try:
        found = parse_key_set(_content(path))
    except InvalidJWKError as error:
        raise InvalidValueError(f"{path!r} cannot be used: {error}") from None
    reasons = "; ".join(found.skipped[:_MOST_REASONS])
    if not found.keys:
        raise InvalidValueError(
            f"{path!r} has no key for ES256, EdDSA or RS256{': ' if reasons else ''}{reasons}"
        )
    if reasons:
        item.report.warn(item.position, f"{path!r} has keys that are passed over: {reasons}")
    return path


def command(item: Item) -> tuple[str, ...]:
    """A program and its arguments: a list of them, or a text that is split as a shell does."""
    if isinstance(item.node, Series):
        words = listing(secret, repeats=True)(item)
        if len(words) < len(item.node.items):
            return ()
    else:
        try:
            words = tuple(shlex.split(secret(item)))
        except ValueError:
            raise InvalidValueError("has a quote or a backslash that nothing follows") from None
    if not words or not words[0]:
        raise InvalidValueError("names no program")
    program(words)
    return words


def signing_key(item: Item) -> str:
    """The path of a private key on P-256 in PEM, or of a file that is not there yet."""
    path = text(item)
    if os.path.exists(path) and not os.path.isfile(path):
        raise InvalidValueError(f"{path!r} is not a file")
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = load_pem_private_key(file.read(_LARGEST_KEY), None)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise InvalidValueError(f"{path!r} cannot be read: {error.strerror or error}") from None
    except TypeError:
        raise InvalidValueError(f"the key in {path!r} is encrypted; store it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidValueError(f"{path!r} does not hold a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidValueError(
            f"the key in {path!r} is not one on P-256 for ES256; take the file away, and one is made"
        )
    if mode & 0o077:
        item.report.warn(item.position, f"{path} can be read by others, who could sign with it; chmod 600 it")
    return path


def program(words: Sequence[str]) -> None:
    """Refuse a command whose program is not there, or may not be run. Its arguments may be secrets."""
    try:
        found = shutil.which(words[0])
    except ValueError:
        found = None
    if found is None:
        raise InvalidValueError(
            f"{words[0]!r} is no program that this user may run; write its whole path, and make it executable"
        )


def _listed(numbers: Sequence[int]) -> str:
    more = ", ..." if len(numbers) > _MOST_REASONS else ""
    return ", ".join(map(str, numbers[:_MOST_REASONS])) + more


def _content(path: str) -> bytes:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InvalidValueError(f"{path!r} is not a file")
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InvalidValueError(f"{path!r} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise InvalidValueError(f"{path!r} is not a path") from None
    if len(content) > LARGEST:
        raise InvalidValueError(f"{path!r} is larger than {LARGEST} bytes")
    return content


def _certificates(path: str) -> list[x509.Certificate]:
    content = _content(path)
    found = _parsed(lambda: x509.load_pem_x509_certificates(content))
    if not found:
        raise InvalidValueError(f"{path!r} does not hold certificates in PEM, or a broken one")
    return found


def _public_key(path: str) -> bytes:
    leaf = _certificates(path)[0]
    encoded = _parsed(lambda: leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if encoded is None:
        raise InvalidValueError(
            f"the first certificate in {path!r} has a key of a kind that is not supported"
        )
    return encoded


def _public_half(path: str) -> bytes:
    content = _content(path)
    try:
        key = _parsed(lambda: load_pem_private_key(content, None))
    except TypeError:
        raise InvalidValueError(f"the key in {path!r} is encrypted; store it without a passphrase") from None
    if key is None:
        raise InvalidValueError(f"{path!r} does not hold a private key in PEM")
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _parsed(parse: Callable[[], T]) -> T | None:
    try:
        return parse()
    except (ValueError, UnsupportedAlgorithm):
        return None
