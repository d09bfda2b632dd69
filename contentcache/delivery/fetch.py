"""
One fetch of one content, owned by nobody.

Clients attach to it and leave it; it asks upstream in the name of those who are attached, puts what comes
into the partial file, and tells the readers how far they may go. What to do next is decided by
:class:`contentcache.core.filling.Filling`; this module only does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from contentcache.core.ports import Run, Timer
from contentcache.delivery.intake import Intake, TooLong
from contentcache.delivery.tasks import Bell, sleep
from contentcache.delivery.wants import Want
from contentcache.meter import Meter
from contentcache.storage.interfaces import PartialFile, Store
from contentcache.upstream.answers import Answer

#: A fetch that is past its first part is finished even if nobody is left.
FIRST_PART: Final = 64 << 10
#: So much of the end waits for the digest: no client ever completes what is not verified.
HELD_BACK: Final = 4 << 10


class UndecidedError(CacheError):
    """The content is here, but nobody has asked the origin whether this client may have it."""


@frozen
class Surroundings:
    """
    What a fetch needs around it.

    ``yes(want, answer's media type)`` and ``no(want, refusal)`` take note of what the origin said;
    ``room(bytes)`` makes room in the store; ``keep(digest, file, size)`` makes a verified file a blob, and
    blocks.
    """

    store: Store
    run: Run
    clock: Timer
    meter: Meter
    yes: Callable[[Want, str | None], None]
    no: Callable[[Want, OriginRefused], None]
    room: Callable[[int], Awaitable[bool]]
    keep: Callable[[Digest, PartialFile, int], None]


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
        self.generation = 0
        self.verified = False
        self.progress = Bell()
        self._around = around
        self._in_place = in_place
        self._largest = largest
        self._whole = whole
        self._filling = Filling()
        self._intake = Intake(digest, around.run)
        self._wants: list[Want] = []
        self._refused: set[bytes] = set()
        self._orders: dict[int, Sequence[str]] = {}
        self._head_in = False
        self._ending = False
        self._holders = 1
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
        return any(want.key == key for want in self._wants)

    def reach(self) -> int:
        """
        Up to which byte readers may go now.
        """
        if self.verified:
            return self._filling.prefix
        if self._whole:
            return 0
        end = self._filling.total
        prefix = self._filling.prefix
        return max(0, min(prefix, (prefix if end is None else end) - HELD_BACK))

    def attach(self, want: Want) -> None:
        """
        A client wants this content.
        """
        self._wants.append(want)
        self._refused.discard(want.key)
        self._answer_wants()

    def detach(self, want: Want) -> None:
        """
        A client has what it wanted, or has left.
        """
        if want in self._wants:
            self._wants.remove(want)
        if not self._wants and self._filling.prefix < FIRST_PART:
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
                self._around.meter.disk_failed()
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
        for want in self._wants:
            want.fail(want.refusal or self.failure or UndecidedError("the origin has not been asked"))
        self.progress.ring()
        self.release()

    def hold(self) -> None:
        """
        Keep the file open until :meth:`release`.
        """
        self._holders += 1

    def release(self) -> None:
        """
        The file is not needed any more by one who held it.
        """
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
        self._answer_wants()

    async def _fill(self) -> None:
        while True:
            sources = self._sources()
            if not sources and not self._filling.complete:
                raise self._error
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

    def _sources(self) -> Mapping[str, Want]:
        """
        The hosts that can be asked, in the order of their turn, each with a client in whose name.
        """
        sources: dict[str, Want] = {}
        seen: set[int] = set()
        for want in self._wants:
            registry = want.asking.registry
            if want.key in self._refused or id(registry) in seen:
                continue
            seen.add(id(registry))
            if id(registry) not in self._orders:
                # Once a fetch: each look at the order is somebody's turn.
                self._orders[id(registry)] = registry.order()
            for host in self._orders[id(registry)]:
                sources.setdefault(host, want)
        return sources

    async def _ask(self, want: Want, host: str, offset: int) -> None:
        try:
            range_ = f"bytes={offset}-" if offset else None
            answer = await want.asking.registry.ask_host(host, want.asking.request("GET", range_=range_))
        except OriginRefused as refusal:
            self._refuse(want, refusal)
            return
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken) as error:
            self._error = error
            self._filling.broke(host, repeatable=isinstance(error, UpstreamBroken))
            return
        if not self._wants:
            answer.abandon()
            return
        if answer.status == RANGE_NOT_SATISFIABLE:
            answer.abandon()
            self._filling.has_no_more(host, read_unsatisfied(answer.header("Content-Range")))
            return
        media_type = answer.header("Content-Type")
        self._judge(want, media_type)
        try:
            start = self._open(host, answer, offset)
        except UpstreamBroken as error:
            self._disappoint(want, host, error)
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
        self._answer_wants()
        self.progress.ring()

        def arrived(begin: int, end: int) -> None:
            self._filling.arrived(host, begin, end)
            self._intake.reaches(self._filling.prefix)
            self._around.meter.fetched(end - begin)
            self.progress.ring()

        try:
            most = total if total is not None else self._largest
            await self._intake.take(answer, start, offset, most, arrived)
        except TooLong as error:
            self._filling.too_long(host)
            self._error = error
        except (UpstreamBroken, UpstreamTimeout) as error:
            if self._wants or self._filling.prefix >= FIRST_PART:
                self._disappoint(want, host, error)
        else:
            self._filling.ended(host)

    async def _start_again(self, blamed: str | None) -> None:
        self._around.meter.restarted()
        self._log.warn(
            "what came for {digest} is not what its digest says; {host} is to blame, it is fetched again",
            digest=str(self.digest),
            host=blamed or "no single host",
        )
        if blamed is not None:
            for want in self._wants:
                want.asking.registry.failed(blamed)
        self._error = ContentWrong("what upstream delivers is not what the digest says")
        await self._intake.settle()
        self.generation += 1
        self._intake.replace(await self._fresh_file())
        self.progress.ring()

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
        # Readers may go on at once: what they get is verified, and needs no disk to be so.
        self.verified = True
        self.progress.ring()
        try:
            await self._around.run(
                self._around.keep, self.digest, self._intake.file, self._filling.total or 0
            )
        except OSError as error:
            self._around.meter.disk_failed()
            self._log.error(
                "{digest} is fetched but cannot be stored: {error}", digest=str(self.digest), error=str(error)
            )

    async def _leave_file(self) -> None:
        useless = not self.verified and (self._filling.prefix == 0 or isinstance(self.failure, ContentWrong))
        if useless and not self._in_place and self._intake.has_file:
            try:
                await self._around.run(self._intake.file.discard)
            except OSError as error:
                self._log.warn("a partial file cannot be taken away: {error}", error=str(error))

    # What is told to whom.

    def _judge(self, want: Want, media_type: str | None) -> None:
        self._around.yes(want, media_type)
        for other in self._wants:
            if other.key == want.key:
                other.judged = True

    def _refuse(self, want: Want, refusal: OriginRefused) -> None:
        self._refused.add(want.key)
        self._around.no(want, refusal)
        self._error = refusal
        for other in self._wants:
            if other.key == want.key:
                other.refusal = refusal
                if not other.judged:
                    other.fail(refusal)

    def _disappoint(self, want: Want, host: str, error: CacheError) -> None:
        self._error = error
        want.asking.registry.failed(host)
        self._filling.broke(host)
        self._log.info("{host}: {error}", host=host, error=str(error))

    def _answer_wants(self) -> None:
        if not self._head_in:
            return
        for want in self._wants:
            if want.judged:
                want.open()
