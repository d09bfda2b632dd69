"""
A world for :class:`contentcache.core.download_planner.DownloadPlanner` to live in: hosts that are honest,
broken or lying, a file, and a truth. It carries out the steps as a driver does, and checks every one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from random import Random

from attrs import field, frozen, mutable

from contentcache.core.download_planner import (
    Backoff,
    Commit,
    DownloadPlanner,
    Fail,
    RequestRange,
    Restart,
    Step,
    Verify,
)

#: Seconds for which hosts that are not available are asked again.
RETRY_FOR = 5.0


class Manner(Enum):
    """How a host behaves. ``HONEST`` and ``UNSIZED`` always deliver the truth to the end."""

    HONEST = auto()
    UNSIZED = auto()  # never tells the size, not even with a 416
    RESETS = auto()  # the truth, but it breaks off at some byte, now and then before the first
    DEAD = auto()
    SLOW = auto()  # never answers in time
    LIES = auto()  # right size, wrong bytes
    SHORT = auto()  # says a smaller size and keeps to it
    LONG = auto()  # the same with a larger one
    OVERFLOWS = auto()  # says the right size and sends more
    EMPTY = auto()
    STOPS = auto()  # the truth, without a size, ended properly too early
    REFUSES = auto()  # 416, always, with any size
    WAVERS = auto()  # another size each time, wrong bytes, breaks off


TRUTHFUL = (Manner.HONEST, Manner.UNSIZED)
#: Whatever goes wrong with them, it is never their bytes or their word.
BLAMELESS = (*TRUTHFUL, Manner.RESETS, Manner.DEAD, Manner.SLOW)


@frozen
class Reply:
    """A body from byte ``start`` on; ``whole`` if it ends as HTTP says it must."""

    start: int
    total: int | None
    body: bytes
    whole: bool = True


@frozen
class NoMore:
    """A 416."""

    total: int | None


def wrong(content: bytes) -> bytes:
    """As many bytes as ``content`` has, all others."""
    return bytes(byte ^ 0xFF for byte in content)


@mutable
class World:
    """
    One truth, some hosts by name, and what has been seen of the fetch.

    ``leaves`` lets hosts vanish from the order now and then, as they do when the client goes in whose name
    they are asked.
    """

    truth: bytes
    manners: dict[str, Manner]
    random: Random
    file: bytearray = field(factory=bytearray)
    total: int | None = None
    leaves: bool = False
    steps: list[Step] = field(factory=list)
    blamed: list[str] = field(factory=list)

    def run(self, most_steps: int) -> Step:
        """Drive the fetch to its end."""
        planner = DownloadPlanner([(0, len(self.file))], self.total, retry_for=RETRY_FOR)
        now = 0.0
        while len(self.steps) < most_steps:
            order = self._order()
            step = planner.next(order, now)
            self.steps.append(step)
            match step:
                case RequestRange(host, offset):
                    assert host in order
                    assert offset == planner.prefix == len(self.file), (step, planner.prefix, len(self.file))
                    self._ask(planner, host, offset)
                case Backoff(seconds):
                    assert 0 < seconds <= RETRY_FOR
                    now += seconds
                case Verify():
                    assert planner.complete
                    planner.checked(right=self.file == self.truth)
                case Restart(blamed):
                    assert planner.prefix == 0
                    self.file.clear()
                    self.blamed += [blamed] if blamed is not None else []
                case Commit():
                    assert self.file == self.truth
                    return step
                case Fail():
                    return step
        raise AssertionError(f"no end after {most_steps} steps: {self.steps[-20:]}")

    def wholes(self) -> Sequence[str]:
        """The hosts in the order in which each was asked for the whole after the first new start."""
        since = next((place for place, step in enumerate(self.steps) if isinstance(step, Restart)), None)
        asked = (
            [step for step in self.steps[since:] if isinstance(step, RequestRange)]
            if since is not None
            else []
        )
        turns = [
            step.host for place, step in enumerate(asked) if place == 0 or asked[place - 1].host != step.host
        ]
        return tuple(turns)

    def _order(self) -> Sequence[str]:
        hosts = list(self.manners)
        turn = self.random.randrange(len(hosts))
        hosts = hosts[turn:] + hosts[:turn]
        if self.leaves and self.random.random() < 0.2:
            hosts = [host for host in hosts if self.random.random() < 0.7] or hosts[:1]
        return hosts

    def _ask(self, planner: DownloadPlanner, host: str, offset: int) -> None:
        reply = self._reply(self.manners[host], offset)
        if reply is None:
            planner.broke(host, repeatable=self.manners[host] is not Manner.SLOW)
        elif isinstance(reply, NoMore):
            planner.has_no_more(host, reply.total)
        elif planner.opened(host, reply.total):
            self._take(planner, host, reply, offset)
        else:
            planner.broke(host)

    def _take(self, planner: DownloadPlanner, host: str, reply: Reply, offset: int) -> None:
        most = planner.total
        position = reply.start
        body = reply.body
        while body:
            size = self.random.randint(1, len(body))
            piece, body = body[:size], body[size:]
            position += len(piece)
            if most is not None and position > most:
                planner.too_long(host)
                return
            fresh = piece[-(position - offset) :] if position > offset else b""
            if fresh:
                start = len(self.file)
                self.file += fresh
                planner.arrived(host, start, len(self.file))
                offset = position
        if reply.whole:
            planner.ended(host)
        else:
            planner.broke(host)

    def _reply(self, manner: Manner, offset: int) -> Reply | NoMore | None:
        match manner:
            case Manner.DEAD | Manner.SLOW:
                return None
            case Manner.RESETS if self.random.random() < 0.3:
                return None
            case Manner.REFUSES:
                size = len(self.truth)
                return NoMore(self.random.choice([None, 0, 1, offset, size, size + 3]))
        content, sizes = self._play(manner)
        total = self.random.choice(sizes)
        if offset and offset >= len(content) and manner is not Manner.EMPTY:
            return NoMore(total)
        start = 0 if self.random.random() < 0.2 else min(offset, len(content))  # some ignore ranges
        body = content[start:]
        if manner in {Manner.RESETS, Manner.STOPS, Manner.WAVERS}:
            body = body[: self.random.randint(0, len(body))]
        return Reply(start, total, body, whole=manner not in {Manner.RESETS, Manner.WAVERS})

    def _play(self, manner: Manner) -> tuple[bytes, Sequence[int | None]]:
        """The content that a host of this kind would have us believe in, and the sizes that it may tell."""
        truth, size = self.truth, len(self.truth)
        other = wrong(truth) + b"x" * self.random.randint(0, 5)
        plays: dict[Manner, tuple[bytes, Sequence[int | None]]] = {
            Manner.HONEST: (truth, [size]),
            Manner.UNSIZED: (truth, [None]),
            Manner.RESETS: (truth, [size, None]),
            Manner.LIES: (wrong(truth), [size, None]),
            Manner.SHORT: (wrong(truth)[: size // 2], [size // 2, None]),
            Manner.LONG: (truth + b"more", [size + 4, None]),
            Manner.OVERFLOWS: (truth + b"more", [size]),
            Manner.EMPTY: (b"", [0, None]),
            Manner.STOPS: (truth, [None]),
            Manner.WAVERS: (other, [len(other), None]),
        }
        return plays[manner]
