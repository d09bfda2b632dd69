"""Several callers share one running call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SingleFlight(Generic[Key, Result]):
    """
    Runs at most one call for each key; callers that come while it runs are waiters for its result.

    The call belongs to nobody: it goes on when its waiters are cancelled, since a thread or an upstream
    cannot be called back, and the others still want the result.
    """

    def __init__(self) -> None:
        self._waiters: dict[Key, list[Deferred[Result]]] = {}

    def __contains__(self, key: Key) -> bool:
        """Whether a call for ``key`` is running."""
        return key in self._waiters

    async def run(self, key: Key, call: Callable[[], Awaitable[Result]]) -> Result:
        """
        The result of the call that runs for ``key``, else of ``call``, which is started.

        Every waiter gets the result, or the exception that the call raised. A caller that must not share
        more than its key says has to put all that ``call`` depends on into the key.
        """
        waiter: Deferred[Result] = Deferred(lambda cancelled: self._leave(key, cancelled))
        waiters = self._waiters.get(key)
        if waiters is not None:
            waiters.append(waiter)
        else:
            # Registered before it starts: a call may end at once, without waiting for anything.
            self._waiters[key] = [waiter]
            Deferred.fromCoroutine(_awaited(call)).addBoth(self._notify_all, key)
        return await waiter

    def _leave(self, key: Key, waiter: Deferred[Result]) -> None:
        waiters = self._waiters.get(key, [])
        if waiter in waiters:
            waiters.remove(waiter)

    def _notify_all(self, result: Result | Failure, key: Key) -> None:
        for waiter in self._waiters.pop(key):
            if not waiter.called:  # a waiter that was notified has cancelled this one
                waiter.callback(result)  # a Failure calls the errbacks


async def _awaited(call: Callable[[], Awaitable[Result]]) -> Result:
    return await call()
