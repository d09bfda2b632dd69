"""What a client may have, ready to be sent or told of."""

from __future__ import annotations

from types import TracebackType

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.header_policy import NO_HEADERS, Headers
from contentcache.delivery.bodies import Body


@frozen
class ContentResponse:
    """
    A content that may be sent. ``status`` is for ``Cache-Status``; ``stale`` that the origin could not be
    asked. ``notices`` are the origin's warnings and rate limits.

    It is a context, and its end is the one place where the body is released: whoever gets one enters it in
    the same statement (``with await contents.get(...) as served``), before anything else can raise.
    """

    digest: Digest
    body: Body
    media_type: str | None
    status: str
    stale: bool = False
    notices: Headers = NO_HEADERS

    def __enter__(self) -> ContentResponse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.body.close()

    @property
    def outcome(self) -> str:
        """One word for the metrics."""
        if self.status.startswith("hit"):
            return "stale" if self.stale else "affirmed" if "affirmed" in self.status else "hit"
        if "collapsed" in self.status:
            return "coalesced"
        return "uncached" if "uncached" in self.status else "miss"


@frozen
class ContentHead:
    """The answer to a ``HEAD``: ``size`` in bytes, ``None`` where the origin does not say."""

    digest: Digest
    size: int | None
    media_type: str | None
    status: str
    stale: bool = False
    notices: Headers = NO_HEADERS
