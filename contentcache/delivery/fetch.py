"""
One fetch of one content, owned by nobody.

Clients attach to it and leave it; it asks upstream in the name of those who are attached, puts what comes
into the partial file, and tells the readers how far they may go. What to do next is decided by
:class:`contentcache.core.filling.Filling`; this module only does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from attrs import frozen
from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.errors import (
    BlobUnknown,
    CacheError,
    ContentWrong,
    DiskFailed,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.filling import Ask, Check, Filling, GiveUp, Keep, Pause, StartAgain
from contentcache.core.opening import RANGE_NOT_SATISFIABLE, read_opening, read_unsatisfied
from contentcache.core.ports import DelayedCall, Run, Timer
from contentcache.delivery.intake import Intake, TooLong
from contentcache.delivery.tasks import Bell, sleep
from contentcache.delivery.wants import Attendance, Want
from contentcache.meter import Meter
from contentcache.storage.interfaces import PartialFile, Store
from contentcache.upstream.answers import Answer

#: A fetch that is past its first part is finished even if nobody is left.
FIRST_PART: Final = 64 << 10
#: So much of the end waits for the digest: no client ever completes what is not verified.
HELD_BACK: Final = 4 << 10
#: Readers hear of so many new bytes at once, of fewer after so many seconds.
_MUCH: Final = 1 << 20
_SOON: Final = 0.01
#: For so many seconds the end of a verified content waits for its being stored.
_LONGEST_COMMIT: Final = 0.1


class UndecidedError(CacheError):
    """The content is here, but nobody has asked the origin whether this client may have it."""


@frozen
class Surroundings:
    """
    What a fetch needs around it.

    ``yes(want, answer's media type)`` and ``no(want, refusal)`` take note of what the origin said;
    ``room(bytes)`` makes room in the store; ``keep(digest, file, size)`` makes a verified file a blob, and
    blocks; ``disk(fault)`` hears what the disk refuses, and ``None`` when it has taken something.
    """

    store: Store
    run: Run
    clock: Timer
    meter: Meter
    yes: Callable[[Want, str | None], None]
    no: Callable[[Want, OriginRefused], None]
    room: Callable[[int], Awaitable[bool]]
    keep: Callable[[Digest, PartialFile, int], None]
    disk: Callable[[str | None], None]


class Fetch:
    """
    The making of one content. ``in_place`` says that it is a blob of the store which nobody has ever
    verified: all its bytes are there, and upstream is asked only if they turn out wrong.

    ``largest`` bounds the size (manifests); with ``whole`` no byte leaves before all are verified.
    """

    _log = Logger()

    def __init__(
        self,
        digest: Digest,
        around: Surroundings,
        *,
        in_place: bool = False,
        largest: int | None = None,
        whole: bool = False,
    ) -> None:
        self.digest = digest
        self.media_type: str | None = None
        self.origins: set[str] = set()
        self.generation = 0
        self.verified = False
        self.progress = Bell()
        self._around = around
        self._in_place = in_place
        self._largest = largest
        self._whole = whole
        self._filling = Filling()
        self._intake = Intake(digest, around.run)
        self._clients = Attendance()
        self._head_in = False
        self._ending = False
        self._holders = 1
        self._told = 0
        self._telling: DelayedCall | None = None
        self._error: CacheError = UpstreamUnavailable("no upstream was asked")
        self.failure: CacheError | None = None

    # For those who read.

    @property
    def size(self) -> int | None:
        """How many bytes the content has, as far as is known."""
        return self._filling.total

    @property
    def file(self) -> PartialFile:
        """Where the bytes are."""
        return self._intake.file

    @property
    def takes_candidates(self) -> bool:
        """Whether the fetch's first answer is still to come, and can be the verdict for who attaches now."""
        return not (self._head_in or self._in_place)

    def has_want(self, key: bytes) -> bool:
        """
        Whether a client with this question is attached.
        """
        return self._clients.asks(key)

    def reach(self) -> int:
        """
        Up to which byte readers may go now.
        """
        if self.verified:
            return self._filling.prefix
        if self._whole:
            return 0
        # What they have been told of, not what has come since: in large steps all get on faster.
        told, end = self._told, self._filling.total
        return max(0, min(told, (told if end is None else end) - HELD_BACK))

    def attach(self, want: Want) -> None:
        """
        A client wants this content. The file stays open for it until :meth:`detach`.
        """
        self._holders += 1
        self._clients.add(want)
        self._answer()

    def detach(self, want: Want) -> None:
        """
        A client has what it wanted, or has left.
        """
        if not self._clients.remove(want):
            return
        self._release()
        if not self._clients and self._filling.prefix < FIRST_PART:
            self._intake.stop()

    @property
    def is_ending(self) -> bool:
        """
        Whether the fetch is over without the content, and puts its file away.
        """
        return self._ending and not self.verified

    # The work.

    async def run(self) -> None:
        """
        Fetch until the content is stored, or nothing more can be done. Never raises what can be expected:
        ``failure`` has it.
        """
        try:
            await self._open_file()
            await self._fill()
        except CacheError as error:
            self.failure = error
            if isinstance(error, DiskFailed):
                self._around.disk(error.message)
        except Exception:  # noqa: BLE001  # a defect of ours must not leave clients waiting
            self._log.failure("the fetch of {digest} has failed", digest=str(self.digest))
            self.failure = UpstreamUnavailable("the cache has failed; its log says why")
        self._ending = True
        await self._intake.settle()
        await self._leave_file()
        self._end()

    async def give_up(self, error: CacheError) -> None:
        """
        Never mind.
        """
        self.failure = error
        self._end()

    def _end(self) -> None:
        self._clients.dismiss(self.failure or UndecidedError("the origin has not been asked"))
        self._tell()
        self._release()

    def _release(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            self._intake.close()

    async def _open_file(self) -> None:
        store = self._around.store
        try:
            file = await self._around.run(store.adopt if self._in_place else store.resume, self.digest)
        except BlobUnknown as error:
            raise UndecidedError("the blob has just gone") from error
        except OSError as error:
            raise DiskFailed(f"the store cannot be written: {error}") from error
        self._filling = Filling(file.size, total=file.size if self._in_place else None)
        self._intake.replace(file)
        self._intake.reaches(self._filling.prefix)
        self._head_in = self._in_place
        self._told = self._filling.prefix
        self._answer()

    async def _fill(self) -> None:
        while True:
            sources = self._clients.sources()
            if not sources and not self._filling.complete:
                # Whoever was refused knows why, and whoever comes now may know better.
                raise UndecidedError("nobody is left in whose name upstream can be asked")
            step = self._filling.next(tuple(sources))
            match step:
                case Ask(host, offset):
                    await self._ask(sources[host], host, offset)
                case Pause(seconds):
                    await sleep(self._around.clock, seconds)
                case Check():
                    self._filling.checked(right=await self._intake.is_right())
                case StartAgain(blamed):
                    await self._start_again(blamed)
                case Keep():
                    await self._keep()
                    return
                case GiveUp(wrong=True):
                    raise ContentWrong("what upstream delivers is not what the digest says")
                case GiveUp():
                    raise self._error

    async def _ask(self, want: Want, host: str, offset: int) -> None:
        try:
            self.origins.add(want.asking.registry.upstream.origin)
            range_ = f"bytes={offset}-" if offset else None
            answer = await want.asking.registry.ask_host(host, want.asking.request("GET", range_=range_))
        except OriginRefused as refusal:
            self._around.no(want, refusal)
            self._clients.say_no(want.key, refusal)
            return
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            self._error = error
            self._filling.broke(host, repeatable=isinstance(error, UpstreamBroken))
            return
        if not self._clients:
            answer.abandon()
            return
        if answer.status == RANGE_NOT_SATISFIABLE:
            answer.abandon()
            self._filling.has_no_more(host, read_unsatisfied(answer.header("Content-Range")))
            return
        media_type = answer.header("Content-Type")
        self._around.yes(want, media_type)
        self._clients.say_yes(want.key)
        try:
            start = self._open(host, answer, offset)
        except UpstreamBroken as error:
            # Of two who disagree about the size nobody knows yet which one is wrong: neither is set back.
            self._error = error
            self._filling.broke(host)
            answer.abandon()
            return
        self.media_type = media_type
        await self._receive(want, host, answer, start, offset)

    def _open(self, host: str, answer: Answer, offset: int) -> int:
        """
        The byte that the body of ``answer`` starts with.
        """
        opening = read_opening(answer.status, answer.length, answer.header("Content-Range"), offset)
        if not self._filling.opened(host, opening.total):
            raise UpstreamBroken(f"{host} says another size than others did")
        if self._largest is not None and (opening.total or 0) > self._largest:
            raise UpstreamBroken(f"{self.digest} has {opening.total} bytes, more than limits.manifest allows")
        return opening.start

    async def _receive(self, want: Want, host: str, answer: Answer, start: int, offset: int) -> None:
        total = self._filling.total
        if not self._head_in and not await self._around.room(max(0, (total or 0) - offset)):
            answer.abandon()
            raise DiskFailed("there is no room in the store")
        self._head_in = True
        self._answer()
        self.progress.ring()

        def arrived(begin: int, end: int) -> None:
            self._filling.arrived(host, begin, end)
            self._intake.reaches(self._filling.prefix)
            self._around.meter.fetched(end - begin)
            self._tell_soon()

        try:
            most = total if total is not None else self._largest
            await self._intake.take(answer, start, offset, most, arrived)
        except TooLong as error:
            self._filling.too_long(host)
            self._error = error
        except (UpstreamBroken, UpstreamTimeout) as error:
            if self._clients or self._filling.prefix >= FIRST_PART:
                self._disappoint(want, host, error)
        else:
            self._filling.ended(host)

    def _tell_soon(self) -> None:
        """
        Wake the readers, but not for every few bytes: each of them costs a turn.
        """
        if self._told == 0 or self._filling.prefix - self._told >= _MUCH:
            self._tell()
        elif self._telling is None:
            self._telling = self._around.clock.callLater(_SOON, self._tell)

    def _tell(self) -> None:
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        self._telling = None
        self._told = self._filling.prefix
        self.progress.ring()

    async def _start_again(self, blamed: str | None) -> None:
        self._around.meter.restarted()
        self._log.warn(
            "what came for {digest} is not what its digest says; {host} is to blame, it is fetched again",
            digest=str(self.digest),
            host=blamed or "no single host",
        )
        if blamed is not None:
            self._clients.blame(blamed, f"its {self.digest} was something else")
            self._error = UpstreamBroken(f"{blamed} delivers something else than {self.digest}")
        await self._intake.settle()
        self.generation += 1
        self._told = 0
        self._intake.replace(await self._fresh_file())
        self._tell()

    async def _fresh_file(self) -> PartialFile:
        file = self._intake.file
        try:
            if not self._in_place:
                await self._around.run(file.truncate, 0)
                return file
            await self._around.run(file.discard)
            fresh = await self._around.run(self._around.store.resume, self.digest)
            await self._around.run(fresh.truncate, 0)
        except OSError as error:
            raise DiskFailed(f"the store cannot be written: {error}") from error
        self._in_place = False
        file.close()
        return fresh

    async def _keep(self) -> None:
        # Who sees the end of a pull finds the blob in the store; but nobody waits long for a slow disk, for
        # what readers get is verified all the same.
        impatience = self._around.clock.callLater(_LONGEST_COMMIT, self._release_readers)
        try:
            await self._around.run(
                self._around.keep, self.digest, self._intake.file, self._filling.total or 0
            )
        except OSError as error:
            self._around.disk(f"{self.digest} is fetched but cannot be stored: {error}")
        else:
            self._around.disk(None)
        finally:
            if impatience.active():
                impatience.cancel()
            self._release_readers()

    def _release_readers(self) -> None:
        if not self.verified:
            # Where every byte was there before, upstream's head has never come: these wait still.
            self.verified = self._head_in = True
            self._answer()
            self._tell()

    async def _leave_file(self) -> None:
        useless = not self.verified and (self._filling.prefix == 0 or isinstance(self.failure, ContentWrong))
        if useless and not self._in_place and self._intake.has_file:
            try:
                await self._around.run(self._intake.file.discard)
            except OSError as error:
                self._log.warn("a partial file cannot be taken away: {error}", error=str(error))

    def _disappoint(self, want: Want, host: str, error: CacheError) -> None:
        self._error = error
        want.asking.registry.failed(host, error.message)
        self._filling.broke(host)

    def _answer(self) -> None:
        if self._head_in:
            self._clients.open()
