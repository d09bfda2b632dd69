"""Work for one client, who may leave at any moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def or_leave(work: Deferred[T], undo: Callable[[T], object] = lambda _result: None) -> Deferred[T]:
    """
    The same result. Whoever cancels this one, since the client has left, gets ``CancelledError`` in any case,
    and not what the work fails with because it is given up: that says nothing of whoever was asked. A result
    that comes all the same is given to ``undo``.
    """
    left = False

    def leave(_mine: Deferred[T]) -> None:
        nonlocal left
        left = True
        work.cancel()

    mine: Deferred[T] = Deferred(leave)

    def done(result: T) -> None:
        if left:
            undo(result)
        else:
            mine.callback(result)

    work.addCallbacks(done, lambda failure: None if left else mine.errback(failure))
    return mine
