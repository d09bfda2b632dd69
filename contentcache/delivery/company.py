"""Who else works at the same store: other workers, as the delivery sees them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from attrs import field, frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused
from contentcache.core.via import FAMILY
from contentcache.delivery.access import Revocation
from contentcache.delivery.making import DownloadKey, Making
from contentcache.delivery.wants import Want
from contentcache.storage.interfaces import Room


class Verdicts(Protocol):
    """Takes note of what the origin said to a client of another worker."""

    def yes(self, want: Want, media_type: str | None, asked: float) -> None: ...
    def no(self, want: Want, refusal: OriginRefused, asked: float) -> None: ...


class Elsewhere(Protocol):
    """The other workers: each content that is not here yet belongs to one of all."""

    def owns(self, digest: Digest) -> bool:
        """Whether it belongs to this one."""

    def borrow(self, key: DownloadKey, verdicts: Verdicts, *, in_place: bool, total: int | None) -> Making:
        """Have it made by the one whose it is."""

    async def keep(self, key: DownloadKey, content: bytes) -> None:
        """Have the one whose it is store a small content that has come whole and verified."""


def _unnoticed(_digest: Digest) -> None:
    """Nobody else is there to take note."""


def _unreviewed(_in_use: Callable[[Digest], bool]) -> None:
    """The same."""


@frozen
class Company:
    """
    What a worker shares with the others; alone, it sees to everything itself.

    ``secret`` names credentials and ``pseudonym`` the cache, the same in all. ``elsewhere`` has the others'
    fetches. ``serves`` says that there are clients here, ``tends`` that the store is swept and listed here.

    ``in_use(digest)``, where the readers are elsewhere, says whether anybody has a content;
    ``room``, where the sweeping is elsewhere, is where downloads reserve theirs.
    ``noticed(digest)`` hears of each content that a reader or a fetch takes, ``reviewed(in_use)`` from time
    to time how to tell what is still in use, ``gone(digest)`` what was deleted, ``revoked(revocation)`` which
    grants have ended, ``lost()`` that the index was lost, and ``disk(fault)`` what the disk refuses,
    ``None`` when it takes something again.
    """

    secret: bytes = field(factory=lambda: secrets.token_bytes(64), repr=False)
    pseudonym: str = field(factory=lambda: FAMILY + secrets.token_hex(4))
    elsewhere: Elsewhere | None = None
    serves: bool = True
    tends: bool = True
    in_use: Callable[[Digest], bool] | None = None
    room: Room | None = None
    noticed: Callable[[Digest], None] = _unnoticed
    reviewed: Callable[[Callable[[Digest], bool]], None] = _unreviewed
    gone: Callable[[Digest], None] = _unnoticed
    revoked: Callable[[Revocation], None] = lambda _revocation: None
    disk: Callable[[str | None], None] = lambda _fault: None
    lost: Callable[[], None] = lambda: None
