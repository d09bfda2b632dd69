"""Coroutines that nobody waits for, and work that outlives whoever started it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

T = TypeVar("T")
_log = Logger()


def in_background(coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[None]:
    """Start a coroutine that nobody waits for; what it raises is a defect, and logged."""
    return Deferred.fromCoroutine(coroutine).addErrback(
        lambda failure: _log.failure("a task has failed", failure=failure)
    )


async def unless_left(work: Awaitable[T], undo: Callable[[T], object]) -> T:
    """
    Await ``work`` that goes on whatever happens here; if we are cancelled meanwhile, ``undo`` gets its
    result.

    For work in threads that opens something: its result must not be lost with the client who asked for it.
    """
    mine: Deferred[T] = Deferred()
    left = False

    async def deliver() -> None:
        try:
            result = await work
        except Exception as error:  # noqa: BLE001  # it is whoever waits who wants it
            if not left:
                mine.errback(error)
            return
        if left:
            undo(result)
        else:
            mine.callback(result)

    in_background(deliver())
    try:
        return await mine
    finally:
        left = True
