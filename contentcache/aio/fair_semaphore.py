"""Bounded concurrency, fair between keys."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from contentcache.core.errors import Overloaded
from contentcache.core.ports import Timer

Key = TypeVar("Key", bound=Hashable)


@frozen
class Release:
    """Gives a permit back; calling it a second time does nothing."""

    _once: list[Callable[[], None]]

    def __call__(self) -> None:
        """Give the permit back."""
        if self._once:
            self._once.pop()()


@frozen
class QueueBounds:
    """How many may wait in all, and how many of them with the same key."""

    waiters: int
    per_key: int


class SemaphorePerKey(Generic[Key]):
    """``limit`` permits for each key; waiters of a key are served first come, first served."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._semaphores: dict[Key, FairSemaphore[None]] = {}

    def resize(self, limit: int | None) -> None:
        """Have another limit from now on; permits that are held beyond it are not taken away."""
        self._limit = limit
        for semaphore in self._semaphores.values():
            semaphore.resize(limit)

    async def acquire(self, key: Key) -> Release:
        """Wait for a permit of this key; what is returned gives it back."""
        semaphore = self._semaphores.get(key)
        if semaphore is None:
            semaphore = self._semaphores[key] = FairSemaphore(self._limit)
        return await semaphore.acquire(None)


class FairSemaphore(Generic[Key]):
    """
    ``limit`` permits (``None``: no limit). Waiters are served round robin between their keys, so that a key
    with a thousand waiters delays the others by one each.

    ``refusal`` makes the error for those who cannot wait: beyond ``bounds``, or longer than ``timeout``
    seconds. While the queue is full, a key without waiters takes the last place of the key that has most.
    """

    def __init__(
        self,
        limit: int | None,
        *,
        refusal: Callable[[], Overloaded] = lambda: Overloaded("too many requests at once; try again soon"),
        timer: Timer | None = None,
        timeout: float | None = None,
        bounds: QueueBounds | None = None,
    ) -> None:
        self._limit = limit
        self._acquired = 0
        self._refusal = refusal
        self._timer = timer
        self._timeout = timeout
        self._bounds = bounds
        self._queues: OrderedDict[Key, deque[Deferred[None]]] = OrderedDict()
        self._serving = False

    def resize(self, limit: int | None, timeout: float | None = None) -> None:
        """
        Have another limit, and ``timeout`` for who waits from now on. Permits that are held beyond the limit are
        not taken away.
        """
        self._limit, self._timeout = limit, timeout
        self._serve()

    @property
    def waiting(self) -> int:
        """How many wait for a permit."""
        return sum(map(len, self._queues.values()))

    async def acquire(self, key: Key, *, expires: bool = True) -> Release:
        """
        Wait for a permit; what is returned gives it back. The wait has no timeout unless it ``expires``.

        :raises Overloaded: none became free in time, or too many wait already.
        """
        if self._has_free() and not self._queues:
            self._acquired += 1
        else:
            await self._wait(key, expires=expires)
        return Release([self._release])

    async def _wait(self, key: Key, *, expires: bool) -> None:
        self._make_place(key)
        waiter: Deferred[None] = Deferred(lambda _cancelled: self._leave(key, waiter))
        self._queues.setdefault(key, deque()).append(waiter)
        if self._timer is None or self._timeout is None or not expires:
            await waiter
            return
        call = self._timer.callLater(self._timeout, self._refuse, key, waiter)
        try:
            await waiter
        finally:
            if call.active():
                call.cancel()

    def _make_place(self, key: Key) -> None:
        if self._bounds is None:
            return
        own = self._queues.get(key, ())
        if len(own) >= self._bounds.per_key:
            raise self._refusal()
        if self.waiting >= self._bounds.waiters:
            longest, queue = max(self._queues.items(), key=lambda entry: len(entry[1]))
            if own or len(queue) <= 1:
                raise self._refusal()
            self._refuse(longest, queue[-1])

    def _release(self) -> None:
        self._acquired -= 1
        self._serve()

    def _has_free(self) -> bool:
        return self._limit is None or self._acquired < self._limit

    def _serve(self) -> None:
        if self._serving:
            return  # a waiter that was served has released already: the loop below goes on, and not deeper
        self._serving = True
        try:
            while self._queues and self._has_free():
                self._acquired += 1
                self._next().callback(None)
        finally:
            self._serving = False

    def _next(self) -> Deferred[None]:
        key, queue = self._queues.popitem(last=False)
        waiter = queue.popleft()
        if queue:
            self._queues[key] = queue  # at the end of the round: the other keys come first
        return waiter

    def _refuse(self, key: Key, waiter: Deferred[None]) -> None:
        self._leave(key, waiter)
        waiter.errback(self._refusal())

    def _leave(self, key: Key, waiter: Deferred[None]) -> None:
        queue = self._queues[key]
        queue.remove(waiter)
        if not queue:
            del self._queues[key]


class Permit(Generic[Key]):
    """A permit of one user of a semaphore, which it can release for a while and acquire again."""

    def __init__(self, semaphore: FairSemaphore[Key], key: Key) -> None:
        self._semaphore = semaphore
        self._key = key
        self._release: Release | None = None

    async def acquire(self, *, expires: bool = True) -> None:
        """
        Wait for it, as :meth:`FairSemaphore.acquire` does.

        :raises Overloaded: as there.
        """
        self._release = await self._semaphore.acquire(self._key, expires=expires)

    def release(self) -> None:
        """Release it, if it is held."""
        release, self._release = self._release, None
        if release is not None:
            release()
