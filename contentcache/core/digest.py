"""Digests as the OCI image spec defines them (image-spec 1.1, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Protocol

from attrs import frozen

from contentcache.core.errors import DigestInvalid

#: Registered algorithms, and how many hexadecimal digits each has.
HEX_LENGTHS: Final = {"sha256": 64, "sha512": 128}

_DIGEST = re.compile(r"(?P<algorithm>sha256|sha512):(?P<hex>[0-9a-f]+)", re.ASCII)


class Hasher(Protocol):
    """A running hash, as ``hashlib`` returns it."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


@frozen(order=True, cache_hash=True)
class Digest:
    """
    The digest by which a content is named.

    >>> str(Digest.of(b""))[:23]
    'sha256:e3b0c44298fc1c14'
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """
        Read ``algorithm:hex``.

        :raises DigestInvalid: other algorithms, upper-case or too few digits.

        >>> Digest.parse("sha256:abc")
        Traceback (most recent call last):
        ...
        contentcache.core.errors.DigestInvalid: 'sha256:abc' is not a sha256 or sha512 digest
        """
        match = _DIGEST.fullmatch(text)
        if match is None or len(match["hex"]) != HEX_LENGTHS[match["algorithm"]]:
            raise DigestInvalid(f"{text[:160]!r} is not a sha256 or sha512 digest")
        return cls(match["algorithm"], match["hex"])

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``content``."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def hasher(self) -> Hasher:
        """A fresh hash of this algorithm."""
        return hashlib.new(self.algorithm)

    def is_of(self, hasher: Hasher) -> bool:
        """Whether ``hasher`` has hashed exactly this content."""
        return hasher.hexdigest() == self.hex

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
