"""
Who is signed in to the pages.

Rules (times are monotonic seconds, passed by the caller):

* the browser has a random id, the gateway a hash of it with the account's name and whether it is an
  administrator. No password and no token is stored, so the registry cannot be asked again:
* therefore a session ends after ``idle`` seconds without a click, and after ``longest`` seconds in any case.
  Until then an account that was closed at the registry can still be used here;
* sessions are in memory: they end with the process, and with them what ``admins`` said when it started;
* at most ``capacity`` are kept, those that were used last; an account has at most ``per_account``.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from attrs import define, field

from contentcache.core.base64url import base64url_encode
from contentcache.core.lru import LruCache
from contentcache.gateway.authentication import Randomness, User

_BYTES: Final = 32


@define
class Session:
    """One signed-in browser. ``csrf`` is in each of its forms; ``notice`` is shown once."""

    user: User
    csrf: str = field(repr=False)
    started: float
    used: float
    notice: tuple[str, str] | None = None


class Sessions:
    """A bounded table of sessions under hashes of their ids."""

    def __init__(
        self,
        *,
        secret: bytes,
        randomness: Randomness,
        idle: float = 900.0,
        longest: float = 3600.0,
        capacity: int = 10_000,
        per_account: int = 20,
    ) -> None:
        self._secret = secret
        self._randomness = randomness
        self._idle = idle
        self._longest = longest
        self._per_account = per_account
        self._sessions: LruCache[bytes, Session] = LruCache(capacity)

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, user: User, now: float) -> str:
        """Start a session and return its id, which the browser does not have yet."""
        session_id = self.noise()
        own = [key for key in self._sessions if self._is_of(key, user)]
        for key in own[: max(0, len(own) + 1 - self._per_account)]:
            self._sessions.remove(key)
        self._sessions.put(self._hash(session_id), Session(user, self.noise(), now, now))
        return session_id

    def find(self, session_id: str | None, now: float, *, touch: bool = True) -> Session | None:
        """Return the session of an id; ``touch`` prolongs it."""
        if session_id is None:
            return None
        key = self._hash(session_id)
        session = self._sessions.peek(key)
        if session is None:
            return None
        if now - session.used >= self._idle or now - session.started >= self._longest:
            self._sessions.remove(key)
            return None
        if touch:
            session.used = now
            self._sessions.touch(key)
        return session

    def end(self, session_id: str | None) -> None:
        """End a session, if there is one."""
        if session_id is not None:
            self._sessions.remove(self._hash(session_id))

    def noise(self) -> str:
        """Return random text."""
        return base64url_encode(self._randomness(_BYTES))

    def form_token(self, noise: str) -> str:
        """Return the token of a form before there is a session, for the cookie that has ``noise``."""
        return self._hash(noise, b"form").hex()

    def _is_of(self, key: bytes, user: User) -> bool:
        session = self._sessions.peek(key)
        return session is not None and session.user.name == user.name

    def _hash(self, text: str, purpose: bytes = b"session") -> bytes:
        encoded = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(encoded, key=self._secret, person=purpose, digest_size=32).digest()


def equal_in_constant_time(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))
