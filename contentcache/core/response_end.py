"""
How a response ended: one value, which the log and the metrics are made from.

An error says who is to blame for a response that it interrupts (``CacheError.ended_by``). A lost connection does
not say why it was lost: what ends connections on this side, a shutdown or a stalled client, says so before.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from attrs import frozen

from contentcache.core.errors import CacheError, EndedBy

#: Who can end a response before it is complete.
ENDED_BY: Final[tuple[EndedBy, ...]] = get_args(EndedBy)


@frozen
class ResponseEnd:
    """How a response ended; ``reason`` says in words why one is incomplete."""

    how: Literal["complete"] | EndedBy
    reason: str = ""

    @classmethod
    def of(cls, error: CacheError) -> ResponseEnd:
        """
        The end of a response that ``error`` interrupts.

        >>> ResponseEnd.of(CacheError("upstream broke the body off"))
        ResponseEnd(how='upstream', reason='upstream broke the body off')
        """
        return cls(error.ended_by, error.message)


COMPLETE: Final = ResponseEnd("complete")
CLIENT_DISCONNECTED: Final = ResponseEnd("client", "the client disconnected")
SHUTDOWN: Final = ResponseEnd("drain", "the daemon stops, and http.draintimeout has passed")
