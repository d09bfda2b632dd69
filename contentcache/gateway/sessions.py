"""
Who is signed in to the pages.

Rules (times are monotonic seconds, given by the caller):

* the browser holds a random id, the gateway a hash of it and what belongs to it: the account's name, and
  whether it is an administrator. No password and no token is kept, so the registry cannot be asked again:
* therefore a session ends after ``idle`` seconds without a click, and after ``longest`` seconds in any case.
  For so long an account that the registry has closed can still be used here;
* sessions are in memory: they end with the process, and with them what ``admins`` said when it started;
* at most ``capacity`` are kept, those that were used last; an account has at most ``each``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import OrderedDict
from typing import Final

from attrs import define, field

from contentcache.gateway.accounts import Account, Randomness

_BYTES: Final = 32


@define
class Session:
    """One signed-in browser. ``csrf`` stands in each of its forms; ``notice`` is shown once."""

    account: Account
    csrf: str = field(repr=False)
    began: float
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
        each: int = 20,
    ) -> None:
        self._secret = secret
        self._randomness = randomness
        self._idle = idle
        self._longest = longest
        self._capacity = capacity
        self._each = each
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, account: Account, now: float) -> str:
        """A new session; its id, which is in nobody's hands yet."""
        session_id = self.noise()
        mine = [key for key, session in self._sessions.items() if session.account.name == account.name]
        for key in mine[: max(0, len(mine) + 1 - self._each)]:
            del self._sessions[key]
        self._sessions[self._hash(session_id)] = Session(account, self.noise(), now, now)
        while len(self._sessions) > self._capacity:
            self._sessions.popitem(last=False)
        return session_id

    def find(self, session_id: str | None, now: float, *, touch: bool = True) -> Session | None:
        """The session of an id; ``touch`` says that somebody has clicked."""
        if session_id is None:
            return None
        key = self._hash(session_id)
        session = self._sessions.get(key)
        if session is None:
            return None
        if now - session.used >= self._idle or now - session.began >= self._longest:
            del self._sessions[key]
            return None
        if touch:
            session.used = now
            self._sessions.move_to_end(key)
        return session

    def end(self, session_id: str | None) -> None:
        """Forget a session, if there is one."""
        if session_id is not None:
            self._sessions.pop(self._hash(session_id), None)

    def noise(self) -> str:
        """Text that nobody can guess."""
        return base64.urlsafe_b64encode(self._randomness(_BYTES)).decode().rstrip("=")

    def sealed(self, noise: str) -> str:
        """What a form carries before there is a session, beside the cookie that has ``noise``."""
        return self._hash(noise, b"form").hex()

    def _hash(self, text: str, purpose: bytes = b"session") -> bytes:
        encoded = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(encoded, key=self._secret, person=purpose, digest_size=32).digest()


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))
