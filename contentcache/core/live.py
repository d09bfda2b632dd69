"""Values that a reload of the configuration replaces while their readers run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Live(Generic[T]):
    """
    The one place of a frozen value: :attr:`now` is what it is now.

    Who reads :attr:`now` each time needs nothing else. :meth:`replace` returns when all followers have the new
    value, so no request sees the old one of one option and the new one of another.

    >>> limits = Live((1, 2))
    >>> first = limits.derive(lambda both: both[0])
    >>> limits.replace((3, 4)); first.now
    3
    """

    __slots__ = ("_followers", "now")

    def __init__(self, now: T) -> None:
        self.now = now
        self._followers: list[Callable[[T], object]] = []

    def replace(self, value: T) -> None:
        """Replace the value, and tell all who follow it if it is another one."""
        if value == self.now:
            return
        self.now = value
        for follower in self._followers:
            follower(value)

    def follow(self, follower: Callable[[T], object]) -> None:
        """Call ``follower``, which must not fail, with the value now and with each later one."""
        self._followers.append(follower)
        follower(self.now)

    def derive(self, function: Callable[[T], U]) -> Live[U]:
        """What ``function`` makes of the value, now and later."""
        derived = Live(function(self.now))
        self._followers.append(lambda value: derived.replace(function(value)))
        return derived
