"""
One request at a time to a host that is in doubt, for all who come meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

from contentcache.core.errors import CacheError
from contentcache.core.rotation import Rotation

T = TypeVar("T")


class Trials:
    """
    The circuit before each host of ``rotation``, which decides who may go, try or wait.

    A host that sends a head is there, whatever the head says: then all go on. Where nothing came, those who
    waited have their answer too. And where the trial was only broken off, another of them makes the next.
    """

    def __init__(self, rotation: Rotation[str]) -> None:
        self._rotation = rotation
        self._waiting: dict[str, list[Deferred[bool]]] = {}

    async def ask(self, host: str, asking: Callable[[Callable[[], None]], Awaitable[T]]) -> T:
        """
        Await ``asking(heard)``, which calls ``heard`` as soon as ``host`` has answered.

        :raises CacheError: what ``asking`` raises, or the trial that this request has waited for.
        """
        while (admission := self._rotation.admit(host)) == "wait":
            if await self._outcome(host):
                admission = "go"
                break
        if admission == "go":
            return await asking(lambda: None)
        trial = _Trial(lambda outcome: self._end(host, outcome))
        try:
            return await asking(lambda: trial.end(True))
        except CacheError as error:
            trial.end(error)
            raise
        finally:
            trial.end(False)

    def answered(self, host: str) -> None:
        """
        ``host`` is well: nobody need wait for what becomes of a trial.
        """
        self._rotation.answered(host)
        self._wake(host, True)

    def _outcome(self, host: str) -> Deferred[bool]:
        """Fires with whether the host has answered, fails with what the trial has met."""
        queue = self._waiting.setdefault(host, [])
        waiting: Deferred[bool] = Deferred(queue.remove)
        queue.append(waiting)
        return waiting

    def _end(self, host: str, outcome: CacheError | bool) -> None:
        self._rotation.tried(host)
        self._wake(host, outcome)

    def _wake(self, host: str, outcome: CacheError | bool) -> None:
        queue = self._waiting.pop(host, [])
        while queue:  # who is woken may end another's wait
            waiting = queue.pop(0)
            if isinstance(outcome, CacheError):
                waiting.errback(_again(outcome))
            else:
                waiting.callback(outcome)


class _Trial:
    """
    Ends once.
    """

    def __init__(self, ended: Callable[[CacheError | bool], None]) -> None:
        self._ended = ended
        self._over = False

    def end(self, outcome: CacheError | bool) -> None:
        if not self._over:
            self._over = True
            self._ended(outcome)


def _again(error: CacheError) -> CacheError:
    # Each has its own: an exception that several coroutines raise collects all their tracebacks.
    return type(error)(error.message, detail=error.detail, headers=error.headers)
