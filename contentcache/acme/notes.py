"""
What is noted beside a certificate, and how notes are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeGuard

from attrs import asdict, evolve, field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from contentcache.acme.timing import Span, Window
from contentcache.tls.files import Identity


@frozen
class Note:
    """
    What is known of a certificate besides: the directory of its server, and when that suggests to renew.

    ``ask_again`` is when to look at that suggestion, ``None`` where the server makes none. ``since`` is when
    we got the certificate, ``None`` where that is not known; ``hurried`` so many before it in a row were
    renewed as soon as they were there.
    """

    server: str = ""
    suggested: Window | None = None
    ask_again: float | None = None
    since: float | None = None
    hurried: int = 0

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Note:
        """
        Read one; whatever makes no sense in it is as if it were not there.
        """
        server, window, hurried = found.get("server"), found.get("suggested"), found.get("hurried")
        note = cls(
            server if isinstance(server, str) else "",
            ask_again=_moment(found.get("ask_again")),
            since=_moment(found.get("since")),
            hurried=hurried if isinstance(hurried, int) and hurried > 0 else 0,
        )
        if (
            isinstance(window, list)
            and all(map(_is_moment, window))
            and len(window) == len(("start", "stop"))
        ):
            note = evolve(note, suggested=Window(*map(float, window)))
        return note

    def document(self) -> Mapping[str, object]:
        """
        How it is written.
        """
        window = None if self.suggested is None else [self.suggested.start, self.suggested.stop]
        return {**asdict(self), "suggested": window}


@frozen
class Kept:
    """
    A certificate with its key, and the note beside it.
    """

    identity: Identity
    note: Note

    @property
    def span(self) -> Span:
        """
        Its life.
        """
        return Span.of(self.identity.chain[0])

    def leaf_pem(self) -> bytes:
        """
        The certificate itself.
        """
        return self.identity.chain[0].public_bytes(Encoding.PEM)

    def due(self) -> float:
        """
        When to renew it, seconds since 1970.

        The server's suggestion counts, but for one to renew what it has just made: who follows that asks for
        certificates until the server's limits end it.
        """
        span, note = self.span, self.note
        if note.suggested is None:
            return span.due()
        since = span.begins if note.since is None else note.since
        return max(span.due(note.suggested), min(span.due(), since + span.youth(note.hurried)))


@frozen
class Begun:
    """
    An order that was handed in to a server: its URL, the private key in PEM, and when that was.
    """

    server: str
    url: str
    key: bytes = field(repr=False)
    since: float

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Begun | None:
        """
        Read one; ``None`` where it makes no sense.
        """
        server, url, key, since = (found.get(name) for name in ("server", "url", "key", "since"))
        if not (isinstance(server, str) and isinstance(url, str) and isinstance(key, str)):
            return None
        try:
            load_pem_private_key(key.encode("utf-8"), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return None
        return cls(server, url, key.encode("utf-8"), since) if _is_moment(since) else None

    def document(self) -> Mapping[str, object]:
        """
        How it is written.
        """
        return {**asdict(self), "key": self.key.decode("ascii")}


@frozen
class Wait:
    """
    Nothing is asked of the server for a host ``until`` then, seconds since 1970, after so many ``failures``
    in a row; ``says`` is the last one.
    """

    until: float
    failures: int
    says: str

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Wait | None:
        """
        Read one; ``None`` where it makes no sense.
        """
        until, failures, says = (found.get(name) for name in ("until", "failures", "says"))
        if not (_is_moment(until) and isinstance(failures, int) and isinstance(says, str)):
            return None
        return cls(until, max(1, failures), says)

    def document(self) -> Mapping[str, object]:
        """
        How it is written.
        """
        return asdict(self)


def _is_moment(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and isfinite(value)


def _moment(value: object) -> float | None:
    return float(value) if _is_moment(value) else None
