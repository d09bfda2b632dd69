"""What a client gets: a content that can be sent or described, and where it comes from."""

from __future__ import annotations

from enum import Enum
from types import TracebackType

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.header_policy import NO_HEADERS, Headers
from contentcache.delivery.bodies import Body
from contentcache.telemetry.request_ids import NO_DOWNLOAD, Provenance


class Outcome(Enum):
    """Where a content comes from: its parameters of ``Cache-Status`` (RFC 9211), and its label in the metrics."""

    HIT = "hit", "hit"
    #: Stored; the origin was asked whether this client may have it.
    AFFIRMED = "hit; detail=affirmed", "affirmed"
    #: Described from what the origin said now.
    DESCRIBED = "fwd=miss", "miss"
    STORED = "fwd=miss; stored", "miss"
    #: Only a part of it is downloaded.
    PARTIAL = "fwd=miss; detail=part", "miss"
    COALESCED = "fwd=miss; collapsed", "coalesced"
    #: Passed through to this client alone.
    UNCACHED = "fwd=miss; detail=uncached", "uncached"
    #: The origin said now which digest a tag has.
    RESOLVED = "fwd=request", "miss"

    def __init__(self, cache_status: str, label: str) -> None:
        self.cache_status = cache_status
        self._label = label

    def label(self, *, stale: bool) -> str:
        """
        One word for the metrics.

        >>> Outcome.COALESCED.label(stale=False), Outcome.AFFIRMED.label(stale=True)
        ('coalesced', 'stale')
        """
        return "stale" if stale and self in {Outcome.HIT, Outcome.AFFIRMED} else self._label


@frozen
class ContentHead:
    """The answer to a ``HEAD``: ``size`` in bytes, ``None`` where the origin does not say."""

    digest: Digest
    size: int | None
    media_type: str | None
    outcome: Outcome
    stale: bool = False
    notices: Headers = NO_HEADERS


@frozen
class ContentResponse:
    """
    A content that may be sent. ``stale`` says that the origin could not be asked; ``notices`` are the origin's
    warnings and rate limits.

    It is a context, and its end is the one place where the body is released: whoever gets one enters it in
    the same statement (``with await blob_service.get(...) as response``), before anything else can raise.
    """

    digest: Digest
    body: Body
    media_type: str | None
    outcome: Outcome
    stale: bool = False
    notices: Headers = NO_HEADERS
    provenance: Provenance = NO_DOWNLOAD

    def __enter__(self) -> ContentResponse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.body.close()

    @property
    def head(self) -> ContentHead:
        """The same without its body."""
        return ContentHead(
            self.digest, self.body.size, self.media_type, self.outcome, self.stale, self.notices
        )
