"""The children: started, started again, asked and told, and ended."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.aio.condition import Condition
from contentcache.workers.conversation import (
    Conversation,
    GoneError,
    LateError,
    NoAnswerError,
    SilentError,
    Values,
    converse,
)
from contentcache.workers.counted import Family, added, lasting
from contentcache.workers.restarts import Restarts
from contentcache.workers.spawned import Child, kill

#: What a child finds behind these numbers: its two lines to the parent, the lock, and the clients' socket.
CONTROL: Final = 3
INDEX: Final = 4
FRONT: Final = 5
LOCK: Final = 6

#: A worker is waited for so many seconds by those who need it.
_PATIENCE: Final = 30.0
#: And so many seconds for an answer: those of the others are not to wait for one that hangs.
_ANSWERED_IN: Final = 2.0
#: One that has hung up or was told to end, and still lives after so many seconds, is killed.
_LAST_SECONDS: Final = 10.0
#: And waited for so many seconds more: the kernel may need them to end what waits for a disk.
_KILLED_IN: Final = 5.0

#: First of all, before the imports that take seconds on a busy machine: a worker ends with its parent, since
#: until then it has the lock and the clients' socket (``PR_SET_PDEATHSIG``, ``SIGKILL``).
_RUN: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv.pop(1)) or os._exit(1); "
    "sys.path.insert(0, sys.argv.pop(1)); "
    "from contentcache.tap import be_worker; be_worker(int(sys.argv.pop(1)))"
)
#: Where the package is, wherever the daemon has gone since.
_HOME: Final = str(Path(__file__).resolve().parents[2])


@define(eq=False)
class Member:
    """One worker: the sockets that are its own for ever, and the process that has them now."""

    number: int
    front: socket.socket
    restarts: Restarts = field(factory=Restarts)
    conversation: Conversation | None = None
    process: Any = None
    born: float = 0.0
    ready: bool = False
    silent: bool = False
    using: set[str] = field(factory=set)
    counted: Sequence[Family] = ()
    #: Copies of open files that were handed to it, and that it may not have read.
    unread: list[int] = field(factory=list)


class Crew:
    """
    All of them. ``hello()`` is what a new one is told first; ``asked(number, name, values)`` answers what
    the crew does not know itself; ``ended(number)`` hears of each that ends; ``serve_index(number, end)``
    answers questions about the index. ``output`` takes what a child writes to its standard output, ``None``
    where the child has the parent's own.
    ``lock()`` is the open file that says whose the store is: free when the last child has ended, too.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        reactor: Any,
        *,
        hello: Callable[[], Mapping[str, Any]],
        asked: Callable[[int, str, Values], Awaitable[Any]],
        serve_index: Callable[[int, socket.socket], None],
        output: Callable[[str], None] | None,
        lock: Callable[[], int | None],
        environ: Mapping[str, str],
        ended: Callable[[int], None] = lambda _number: None,
    ) -> None:
        self._reactor = reactor
        self._hello = hello
        self._asked = asked
        self._serve_index = serve_index
        self._output = output
        self._lock = lock
        self._environ = environ
        self._worker_ended = ended
        self._members: dict[int, Member] = {}
        self._changed = Condition()
        self._ending = False
        self._counted_by_the_dead: Sequence[Family] = ()

    # For the parent.

    def start(self, fronts: Iterable[socket.socket]) -> None:
        """Start one worker for each socket."""
        for number, front in enumerate(fronts, 1):
            self._members[number] = Member(number, front)
            self._spawn(self._members[number])

    def uses(self, digest: object) -> bool:
        """Whether a worker has a content, or a pull of it is not in the index yet."""
        name = str(digest)
        return any(name in member.using for member in self._members.values())

    @property
    def standing(self) -> tuple[int, int]:
        """How many serve, and how many there should be."""
        serving = sum(member.ready and not member.silent for member in self._members.values())
        return serving, len(self._members)

    def tell(self, name: str, *, but: int | None = None, **values: Any) -> None:
        """Tell all of them, ``but`` one."""
        for member in self._members.values():
            if member.conversation is not None and member.number != but:
                member.conversation.tell(name, **values)

    async def ask(
        self,
        name: str,
        *,
        timeout: float = _ANSWERED_IN,  # noqa: ASYNC109  # there is no asyncio here
        **values: Any,
    ) -> dict[int, Any]:
        """What each of them answers within ``timeout`` seconds; whoever does not is left out."""
        asked = {
            member.number: self._or_none(member, member.conversation.ask(name, timeout=timeout, **values))
            for member in self._members.values()
            if member.conversation is not None and member.ready
        }
        answers = await gatherResults(asked.values())
        return {number: answer for number, answer in zip(asked, answers, strict=True) if answer is not None}

    def _or_none(self, member: Member, answer: Deferred[Any]) -> Deferred[Any]:
        def answered(value: Any) -> Any:
            member.silent = False
            return value

        def not_answered(failure: Failure) -> None:
            failure.trap(NoAnswerError)
            if failure.check(SilentError, LateError) and not member.silent:
                member.silent = True
                self._log.error(
                    "worker not responding",
                    worker=member.number,
                    pid=getattr(member.process, "pid", None),
                    hint="its clients wait; if this persists, kill the process: it is started again",
                )

        return answer.addCallbacks(answered, not_answered)

    async def counted(self) -> list[Sequence[Family]]:
        """What all of them have counted, those who are gone too."""
        for number, families in (await self.ask("metrics")).items():
            self._members[number].counted = families
        return [*(member.counted for member in self._members.values()), self._counted_by_the_dead]

    async def connect(self, number: int, descriptor: int) -> bool:
        """Hand a worker, or its successor, one end of a pair of sockets; ``False`` if there is none in time."""
        until = self._reactor.seconds() + _PATIENCE
        try:
            while (member := await self._ready(number, until)) is not None:
                conversation = member.conversation
                if conversation is None:
                    continue
                if conversation.is_silent:
                    return False
                copy = os.dup(descriptor)
                conversation.hand(copy)
                try:
                    return bool(await conversation.ask("caller"))
                except GoneError:
                    continue  # it has died just now
                except SilentError:
                    # It may still have to be sent: another file must not have this number meanwhile.
                    member.unread.append(copy)
                    return False
                except NoAnswerError:
                    return False
                finally:
                    if copy not in member.unread:
                        os.close(copy)
            return False
        finally:
            os.close(descriptor)

    async def settle(self) -> None:
        """Wait until all of them serve, or will not for a while."""
        until = self._reactor.seconds() + _PATIENCE
        for number in self._members:
            await self._ready(number, until)

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109  # there is no asyncio here
        """Have them take no new connection, and wait until they have done, or for ``timeout`` seconds."""
        self._ending = True
        for member in self._members.values():
            member.front.close()
        await self.ask("drain", timeout=timeout)

    async def end(self) -> None:
        """Have all of them end, and see that they do: those that do not are killed."""
        self._ending = True
        self.tell("end")
        if not await self._are_gone(_LAST_SECONDS):
            self._kill()
            if not await self._are_gone(_KILLED_IN):
                living = [member.number for member in self._members.values() if member.process is not None]
                self._log.error("workers not ended though killed", workers=living)

    async def _are_gone(self, seconds: float) -> bool:
        """Wait until all of them have ended, at most so long; whether they have."""
        until = self._reactor.seconds() + seconds
        while any(member.process is not None for member in self._members.values()):
            if not await self._change(until):
                return False
        return True

    async def _change(self, until: float) -> bool:
        """Wait until something has changed; ``False`` if nothing does in time."""
        remaining = until - self._reactor.seconds()
        if remaining <= 0:
            return False
        waiting = self._changed.wait()
        timer = self._reactor.callLater(remaining, waiting.cancel)
        try:
            await waiting
        except CancelledError:
            return False
        finally:
            if timer.active():
                timer.cancel()
        return True

    # One of them.

    def _spawn(self, member: Member) -> None:
        if self._ending:
            return
        control, theirs = socket.socketpair()
        index, its_index = socket.socketpair()
        lock = self._lock()
        with theirs, its_index, open(os.devnull, "rb") as nothing:
            child = {
                0: nothing.fileno(),
                1: 1 if self._output is None else "r",
                2: 2,
                CONTROL: theirs.fileno(),
                INDEX: its_index.fileno(),
                FRONT: member.front.fileno(),
                **({} if lock is None else {LOCK: lock}),
            }
            member.process = self._reactor.spawnProcess(
                Child(self._output, lambda reason: self._ended(member, reason)),
                sys.executable,
                [sys.executable, "-c", _RUN, str(os.getpid()), _HOME, str(member.number)],
                env=dict(self._environ),
                childFDs=child,
            )
        member.born = self._reactor.seconds()
        self._serve_index(member.number, index)
        conversation = Conversation(
            lambda name, values: self._heard(member, name, values), lambda: self._hung_up(member)
        )
        member.conversation = converse(self._reactor, control.detach(), conversation)
        conversation.tell("hello", **self._hello())

    def _heard(self, member: Member, name: str, values: Values) -> Any:
        match name:
            case "ready":
                member.ready = True
                self._log.info("worker ready", worker=member.number)
                self._changed.notify_all()
            case "cannot":
                self._log.error("worker cannot serve", worker=member.number, reason=values["why"])
            case "using":
                member.using.add(values["digest"])
            case "free":
                member.using.difference_update(values["digests"])
            case "disk" | "revoked":
                self.tell(name, but=member.number, **values)
            case "counted":
                member.counted = values["families"]
            case "connect":
                assert member.conversation is not None  # noqa: S101  # it is what has just spoken
                descriptor = member.conversation.take_descriptor()
                return False if descriptor is None else self.connect(values["to"], descriptor)
            case _:
                return self._asked(member.number, name, values)
        return None

    def _hung_up(self, member: Member) -> None:
        # Whatever it does from now on it does in vain. It ends by itself, unless it hangs.
        member.ready = False
        if member.process is not None:
            self._reactor.callLater(_LAST_SECONDS, _kill_if_still, member, member.process)

    def _ended(self, member: Member, reason: Failure) -> None:
        lived = self._reactor.seconds() - member.born
        conversation, member.conversation = member.conversation, None
        if conversation is not None:
            conversation.hang_up()
        member.process, member.ready, member.silent = None, False, False
        member.using.clear()
        self._worker_ended(member.number)
        while member.unread:
            os.close(member.unread.pop())
        self._counted_by_the_dead = added([self._counted_by_the_dead, lasting(member.counted)])
        member.counted = ()
        self._changed.notify_all()
        if self._ending:
            return
        pause = member.restarts.pause_after(lived)
        self._log.error(
            "worker ended, started again",
            worker=member.number,
            retry_in=f"{pause:g}s",
            reason=reason.getErrorMessage(),
        )
        self._reactor.callLater(pause, self._spawn, member)

    async def _ready(self, number: int, until: float) -> Member | None:
        member = self._members[number]
        while not member.ready or member.conversation is None or member.conversation.is_over:
            if self._ending or not await self._change(until):
                return None
        return member

    def _kill(self) -> None:
        for member in self._members.values():
            if member.process is not None:
                kill(member.process)


def _kill_if_still(member: Member, process: Any) -> None:
    if member.process is process:
        kill(process)
