"""Waiting on the real reactor for something to be so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred

_STEP: Final = 0.002


def until(condition: Callable[[], object]) -> Deferred[None]:
    """Let the reactor go on until something is so; the test's own timeout bounds it."""
    reactor: Any = global_reactor
    reached: Deferred[None] = Deferred()

    def look() -> None:
        if condition():
            reached.callback(None)
        else:
            reactor.callLater(_STEP, look)

    look()
    return reached
