"""The keys that verify blob tokens, from a JWK set in the operator's file (``signing.jwks``)."""

from __future__ import annotations

from typing import Final

from contentcache.auth.interfaces import AuthFault, read_file
from contentcache.core.ports import Run, Timer
from contentcache.delivery.signing_keys import Published
from contentcache.jose.jwk import InvalidJWKError
from contentcache.jose.keyset import KeySet, VerificationKey, encode_key_set, parse_key_set
from contentcache.persist.watched_file import WatchedFiles

#: Seconds for which the next cache may cache the set.
_MAX_AGE: Final = 60


class KeysFromFile:
    """
    The JWK set in the file at ``path``, read again when it changes; an invalid one then changes nothing.

    :raises AuthFault: the file cannot be used now.
    """

    def __init__(self, path: str, *, run: Run, timer: Timer) -> None:
        self._path = path
        self._file: WatchedFiles[tuple[KeySet, bytes]] = WatchedFiles(
            (path,), self._read, run=run, timer=timer
        )

    async def find(self, kid: str) -> VerificationKey:
        """The key with this ``kid`` (:class:`contentcache.delivery.signing_keys.SigningKeys`)."""
        return (await self._file.current())[0].find(kid)

    def at_hand(self, kid: str) -> VerificationKey | None:
        """The same, if the file has been checked within a second."""
        current = self._file.at_hand()
        if current is None or kid in current[0].duplicates:
            return None
        return current[0].keys.get(kid)

    async def published(self, *, via: str = "", anew: bool = False) -> Published:  # noqa: ARG002  # nobody is asked
        """The whole set (:class:`contentcache.delivery.signing_keys.SigningKeys`)."""
        return Published((await self._file.current())[1], _MAX_AGE, 0)

    def _read(self) -> tuple[KeySet, bytes]:
        try:
            keys = parse_key_set(read_file(self._path))
        except InvalidJWKError as error:
            raise AuthFault(self._path, f"{self._path} is not a JWK set: {error}") from None
        # Not the file itself: somebody may have left a private key in it.
        return keys, encode_key_set(list(keys.keys.values()))
