"""
The keys that sign blob tokens, and their rotation: generated, published, used and deleted by the clock.

The file ``signingkey`` holds the current key; its time of modification says since when it signs. Beside it:

* ``….next``: the next key, published for at least :data:`NOTICE` seconds before it signs, so that caches have
  loaded it by then;
* ``….old``: the public half of the previous key, published until the last token that it has signed expires;
* ``….lock``: for gateways that share the folder.

Each step is one atomic rename: whenever a gateway is killed, the next one finds a current key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from contentcache.core.ports import Clock
from contentcache.jose.blob_tokens import LEEWAY, SigningKey
from contentcache.jose.jwk import thumbprint
from contentcache.jose.keyset import KeySet, VerificationKey, encode_key_set
from contentcache.persist.atomic_file import read_bounded, replace_durably, write_atomically
from contentcache.persist.file_lock import FileLock

#: Seconds for which a cache may cache the set.
MAX_AGE: Final = 300
#: Seconds between the publication of a key and its first signature: time for caches and for the other
#: gateways.
NOTICE: Final = 2.0 * MAX_AGE
#: Seconds between two calls of :meth:`KeyFiles.rotate`.
ROTATE_INTERVAL: Final = 30.0

_MAX_FILE: Final = 64 << 10
_PRIVATE: Final = 0o600


class SigningKeyError(Exception):
    """A key file cannot be read, written or replaced. The message names the file."""


@frozen
class Keys:
    """The key that signs, and all keys that are published."""

    signing: SigningKey = field(repr=False)
    published: tuple[VerificationKey, ...]

    def key_set(self) -> KeySet:
        """The published keys by name."""
        return KeySet(MappingProxyType({key.kid: key for key in self.published}))

    def document(self) -> bytes:
        """The published keys as a JWK set."""
        return encode_key_set(self.published)


class KeyFiles:
    """
    The key files at ``path``. :meth:`rotate` blocks: call it in a thread, then read ``keys``.

    :param lifetime: seconds for which a key signs.
    :param url_lifetime: seconds for which a token that it has signed is valid.
    :param wall: seconds since the epoch.
    """

    def __init__(self, path: str, *, lifetime: float, url_lifetime: float, wall: Clock) -> None:
        self._path = Path(path)
        self._next = Path(path + ".next")
        self._old = Path(path + ".old")
        self._lifetime = lifetime
        self._publish_old_for = url_lifetime + 2 * LEEWAY + ROTATE_INTERVAL
        self._wall = wall
        self.keys: Keys | None = None

    def rotate(self) -> bool:
        """
        Read the keys, generate those that are missing, and replace the current key at the end of its lifetime.

        Returns whether another key signs now.

        :raises SigningKeyError: a file cannot be read or written; ``keys`` are those that can be read, or stay
            as they were.
        """
        before = self.keys
        try:
            try:
                with self._locked():
                    self._advance()
                    keys = self._read()
            except OSError:
                # On a disk that is full or read-only the current key stays in use.
                self.keys = self._read()
                raise
        except OSError as error:
            raise SigningKeyError(f"{error.filename or self._path}: {error.strerror or error}") from error
        self.keys = keys
        return before is not None and before.signing.kid != keys.signing.kid

    def signer(self) -> SigningKey | None:
        """Return the key that signs now."""
        return None if self.keys is None else self.keys.signing

    def key_set(self) -> KeySet:
        """Return all published keys, whose signatures are valid."""
        return KeySet() if self.keys is None else self.keys.key_set()

    def _advance(self) -> None:
        now = self._wall()
        if not self._path.exists():
            if self._next.exists():
                replace_durably(self._next, self._path)
            else:
                write_atomically(self._path, _generate(), mode=_PRIVATE, modified=now)
        age = now - _since(self._path, now)
        if age >= self._lifetime - 2 * NOTICE and not self._next.exists():
            write_atomically(self._next, _generate(), mode=_PRIVATE, modified=now)
        if age >= self._lifetime and now - _since(self._next, now) >= NOTICE:
            public = _load(self._path).private.public_key()
            pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            write_atomically(self._old, pem, mode=_PRIVATE, modified=now)
            os.utime(self._next, (now, now))
            replace_durably(self._next, self._path)
        elif self._old.exists() and now - _since(self._old, now) >= self._publish_old_for:
            self._old.unlink()

    def _read(self) -> Keys:
        signing = _load(self._path)
        published = [signing.verification_key()]
        if self._next.exists():
            published.append(_load(self._next).verification_key())
        if self._old.exists():
            published.append(_load_public(self._old))
        by_name = {key.kid: key for key in published}
        return Keys(signing, tuple(by_name.values()))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(f"{self._path}.lock", mode=_PRIVATE)
        lock.acquire(timeout=None)
        try:
            yield
        finally:
            lock.release()


def _generate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load(path: Path) -> SigningKey:
    try:
        key = load_pem_private_key(_content(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SigningKeyError(f"{path} does not hold a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SigningKeyError(f"the key in {path} is not one on P-256")
    return SigningKey(thumbprint(key.public_key()), "ES256", key)


def _load_public(path: Path) -> VerificationKey:
    try:
        key = load_pem_public_key(_content(path))
    except (ValueError, UnsupportedAlgorithm):
        raise SigningKeyError(f"{path} does not hold a public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise SigningKeyError(f"the key in {path} is not one on P-256")
    return VerificationKey(thumbprint(key), "ES256", key)


def _content(path: Path) -> bytes:
    return read_bounded(path, _MAX_FILE, follow_links=True)


def _since(path: Path, now: float) -> float:
    """Since when a file has its key. A time in the future, from a clock that was wrong, counts as now."""
    return min(path.stat().st_mtime, now)
