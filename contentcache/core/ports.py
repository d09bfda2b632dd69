"""Ports: clock, timer and thread pool as types, as the application passes them in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from attrs import frozen

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Run(Protocol):
    """Runs what may block (a disk, SQLite, a long hash) where it delays nobody: in a bounded pool of threads."""

    def __call__(
        self, function: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Awaitable[Result]: ...


class DelayedCall(Protocol):
    """Something that is due later: ``IDelayedCall``, as much of it as is used."""

    def active(self) -> bool: ...
    def cancel(self) -> None: ...
    def reset(self, secondsFromNow: float, /) -> None: ...


class Timer(Protocol):
    """Monotonic seconds, and calls that are due later: ``IReactorTime``, as much of it as is used."""

    def callLater(self, delay: float, call: Callable[..., Any], /, *args: Any) -> DelayedCall: ...
    def seconds(self) -> float: ...


#: Seconds since the epoch, or monotonic seconds: the argument's name says which.
Clock = Callable[[], float]


@frozen
class Runtime:
    """What a long-running part acts with; ``wall`` tells seconds since the epoch, ``random`` draws from 0 to 1."""

    run: Run
    timer: Timer
    wall: Clock
    random: Callable[[], float]
