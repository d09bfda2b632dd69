"""
Blobs and manifests by digest: from the store, from a fetch that is running, from a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from attrs import frozen
from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.errors import (
    CacheError,
    ContentWrong,
    DiskFailed,
    OriginRefused,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.ports import Clock, Run, Timer
from contentcache.delivery.access import Access, Yes
from contentcache.delivery.bodies import (
    Body,
    Flow,
    GrowingBody,
    MemoryBody,
    Rest,
    ShortError,
    StoredBody,
    hash_prefix,
)
from contentcache.delivery.fetch import Fetch, Surroundings, UndecidedError
from contentcache.delivery.passing import Check, PassedBody, carry_on
from contentcache.delivery.shelf import Shelf
from contentcache.delivery.tasks import in_background, unless_left
from contentcache.delivery.turns import Turns
from contentcache.delivery.wants import Asking, Want
from contentcache.meter import Meter
from contentcache.storage.interfaces import BlobFile, BlobRecord, Index, Store

#: For so many seconds a digest that was wrong everywhere is not fetched again.
_WRONG_FOR: Final = 60.0
_MOST_WRONG: Final = 10_000
_ATTEMPTS: Final = 5


@frozen
class Served:
    """
    A content that may be sent. ``status`` is for ``Cache-Status``; ``stale`` that the origin could not be
    asked. ``body.close()`` is owed.
    """

    digest: Digest
    body: Body
    media_type: str | None
    status: str
    stale: bool = False

    @property
    def outcome(self) -> str:
        """
        One word for the metrics.
        """
        if self.status.startswith("hit"):
            return "stale" if self.stale else "hit"
        return next((word for word in ("collapsed", "uncached") if word in self.status), "miss")


@frozen
class Described:
    """
    The answer to a ``HEAD``: ``size`` in bytes, ``None`` where the origin does not say.
    """

    digest: Digest
    size: int | None
    media_type: str | None
    status: str
    stale: bool = False


class Contents:
    """
    All contents that are named by a digest.

    ``make_room(bytes)`` says whether the store can take so many more; ``manifest_limit`` is in bytes.
    """

    _log = Logger()

    def __init__(
        self,
        access: Access,
        store: Store,
        index: Index,
        *,
        run: Run,
        clock: Timer,
        wall: Clock,
        turns: Turns,
        meter: Meter,
        make_room: Callable[[int], Awaitable[bool]],
        manifest_limit: int,
    ) -> None:
        self._access = access
        self._shelf = Shelf(store, index, wall)
        self._index = index
        self._run = run
        self._clock = clock
        self._wall = wall
        self._turns = turns
        self._meter = meter
        self._make_room = make_room
        self._manifest_limit = manifest_limit
        self._fetches: dict[Digest, Fetch] = {}
        self._readers: Counter[Digest] = Counter()
        self._pulls: dict[Digest, float] = {}
        self._flushing: dict[Digest, float] = {}
        self._wrong: dict[Digest, float] = {}
        self._around = Surroundings(
            store=store,
            run=run,
            clock=clock,
            meter=meter,
            yes=self._heard_yes,
            no=self._heard_no,
            room=make_room,
            keep=self._shelf.keep,
        )

    # For the reaper and for who watches.

    def in_use(self, digest: Digest) -> bool:
        """
        Whether a reader or a fetch has this content, or a pull of it is not in the index yet.
        """
        return (
            digest in self._fetches
            or digest in self._readers
            or digest in self._pulls
            or digest in self._flushing
        )

    @property
    def fetching(self) -> int:
        """How many fetches are running."""
        return len(self._fetches)

    async def flush(self) -> None:
        """
        Write the last pulls into the index.
        """
        if self._flushing or not self._pulls:
            return
        self._flushing, self._pulls = self._pulls, {}
        try:
            await self._run(self._index.touch, self._flushing)
        finally:
            self._flushing = {}

    # For the web.

    async def describe(self, asking: Asking) -> Described:
        """
        Answer a ``HEAD``: what is here is told from here, if the client may have it; else the origin tells.

        :raises CacheError: as :meth:`get` does.
        """
        digest = asking.content.digest
        self._check_wrong(digest)
        yes = await self._access.remembered(asking)
        record = await self._run(self._shelf.verified, digest)
        if record is not None:
            yes = yes or await self._ask(asking)
            status = "hit; detail=affirmed" if yes.asked else "hit"
            return Described(digest, record.size, yes.media_type, status, yes.stale)
        fetch = self._fetches.get(digest)
        if yes is not None and fetch is not None and fetch.size is not None:
            return Described(digest, fetch.size, yes.media_type, "fwd=miss; collapsed")
        yes = await self._access.size_of(asking)
        return Described(digest, yes.size, yes.media_type, "fwd=miss")

    async def get(self, asking: Asking, yes: Yes | None = None) -> Served:
        """
        A body that this client may have; ``yes`` if the origin has just said so.

        :raises OriginRefused: the origin does not let it.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: the origin cannot be asked, or the
            content cannot be had.
        :raises Overloaded: too many fetches at once.
        """
        for _ in range(_ATTEMPTS):
            self._check_wrong(asking.content.digest)
            try:
                return await self._get(asking, yes or await self._access.remembered(asking))
            except UndecidedError:
                continue
            except DiskFailed as error:
                self._log.error("passed through uncached: {error}", error=error.message)
                return await self._pass_through(asking)
        raise UpstreamUnavailable("this content comes and goes; try again")

    async def keep(self, digest: Digest, content: bytes) -> None:
        """
        Store a small content that has come whole and verified.
        """
        if digest in self._fetches or not await self._make_room(len(content)):
            return
        try:
            await self._run(self._shelf.put, digest, content)
        except OSError as error:
            self._meter.disk_failed()
            self._log.error("a manifest cannot be stored: {error}", error=str(error))

    # How it is done.

    async def _get(self, asking: Asking, yes: Yes | None) -> Served:
        digest = asking.content.digest
        await self._until_closed(digest)
        if digest not in self._fetches:
            record, file = await unless_left(self._run(self._shelf.look, digest), _close)
            if file is not None:
                return await self._serve_stored(asking, file, yes)
            if record is not None and digest not in self._fetches:
                # It lies in the store, but nobody has ever verified it.
                yes = yes or await self._ask(asking)
                return await self._join(asking, yes, in_place=True)
        fetch = self._fetches.get(digest)
        if yes is None and fetch is not None and not self._is_in_question(fetch, asking):
            yes = await self._ask(asking)
        return await self._join(asking, yes, in_place=False)

    async def _until_closed(self, digest: Digest) -> None:
        # One that ends without the content takes nobody aboard; the next one goes on from its partial file.
        while (fetch := self._fetches.get(digest)) is not None and fetch.is_ending:
            await fetch.progress.wait()

    async def _serve_stored(self, asking: Asking, file: BlobFile, yes: Yes | None) -> Served:
        digest = asking.content.digest
        self._readers[digest] += 1
        body = StoredBody(file, self._run, lambda: self._closed(digest))
        try:
            yes = yes or await self._ask(asking)
        except BaseException:
            body.close()
            raise
        self._pulls[digest] = self._wall()
        status = "hit; detail=affirmed" if yes.asked else "hit"
        return Served(digest, body, yes.media_type, status, yes.stale)

    def _closed(self, digest: Digest) -> None:
        self._readers[digest] -= 1
        if self._readers[digest] <= 0:
            del self._readers[digest]
        self._pulls[digest] = self._wall()

    async def _join(self, asking: Asking, yes: Yes | None, *, in_place: bool) -> Served:
        digest = asking.content.digest
        fetch = self._fetches.get(digest)
        status = "fwd=miss; collapsed"
        if fetch is None:
            if not in_place and not await self._make_room(0):
                raise DiskFailed("there is no room in the store")
            fetch = self._fetches.get(digest)
        if fetch is None:
            fetch = self._start(asking, in_place=in_place)
            status = "hit" if in_place else "fwd=miss; stored"
        elif fetch.is_ending or (yes is None and not self._is_in_question(fetch, asking)):
            raise UndecidedError("another fetch has begun or ended meanwhile")
        if fetch.verified:
            status = "hit"
        want = Want(asking, self._access.key(asking), judged=yes is not None)
        fetch.attach(want)
        try:
            await want.opened
        except BaseException:
            fetch.detach(want)
            raise
        body = GrowingBody(
            fetch, self._run, partial(self._carry_on, asking, fetch), lambda: self._left(fetch, want)
        )
        if body.size == 0:
            await self._until_verified(body)
        media_type = fetch.media_type if yes is None else yes.media_type or fetch.media_type
        return Served(digest, body, media_type, status, yes is not None and yes.stale)

    async def _until_verified(self, body: GrowingBody) -> None:
        # A head alone would complete an empty content.
        try:
            await body.until_verified()
        except ShortError as error:
            body.close()
            raise UpstreamBroken(str(error)) from error
        except BaseException:
            body.close()
            raise

    def _left(self, fetch: Fetch, want: Want) -> None:
        fetch.detach(want)
        self._pulls[fetch.digest] = self._wall()

    def _is_in_question(self, fetch: Fetch, asking: Asking) -> bool:
        """
        Whether the fetch's own first request goes out in this client's name, and its answer is the verdict.
        """
        return fetch.takes_candidates and fetch.has_want(self._access.key(asking))

    def _start(self, asking: Asking, *, in_place: bool) -> Fetch:
        content = asking.content
        is_manifest = content.kind == "manifests"
        fetch = Fetch(
            content.digest,
            self._around,
            in_place=in_place,
            largest=self._manifest_limit if is_manifest else None,
            whole=is_manifest,
        )
        self._fetches[content.digest] = fetch
        in_background(self._run_fetch(fetch, self._access.key(asking), needs_turn=not in_place))
        return fetch

    async def _run_fetch(self, fetch: Fetch, key: bytes, *, needs_turn: bool) -> None:
        try:
            if needs_turn:
                try:
                    await self._turns.take(key)
                except CacheError as error:
                    self._meter.limited("fetches")
                    await fetch.give_up(error)
                    return
            try:
                await fetch.run()
            finally:
                if needs_turn:
                    self._turns.give_back()
        finally:
            del self._fetches[fetch.digest]
            fetch.progress.ring()
        if isinstance(fetch.failure, ContentWrong):
            self._remember_wrong(fetch.digest)

    async def _pass_through(self, asking: Asking) -> Served:
        answer = await asking.registry.ask(asking.request("GET"))
        media_type = answer.header("Content-Type")
        digest = asking.content.digest
        await self._access.affirmed(asking, media_type)
        body: Body
        if asking.content.kind == "manifests" or answer.length == 0:
            content = await answer.read(self._manifest_limit)
            if Digest.of(content, digest.algorithm) != digest:
                raise ContentWrong("what upstream delivers is not what the digest says")
            body = MemoryBody(content)
        else:
            body = PassedBody(asking, answer, self._meter)
        return Served(digest, body, media_type, "fwd=miss; detail=uncached")

    async def _carry_on(self, asking: Asking, fetch: Fetch, flow: Flow, rest: Rest) -> None:
        check = None
        if rest.of_whole:
            check = Check(fetch.digest, fetch.digest.hasher())
            await hash_prefix(fetch.file, rest.start, check.hasher, self._run)
        await carry_on(asking, flow, rest, check, self._meter)

    async def _ask(self, asking: Asking) -> Yes:
        try:
            return await self._access.ask(asking)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken):
            yes = await self._access.stale(asking)
            if yes is None:
                raise
        except OriginRefused as refusal:
            yes = await self._access.stale(asking) if refusal.status == 429 else None  # noqa: PLR2004
            if yes is None:
                raise
        return yes

    # What fetches report.

    def _heard_yes(self, want: Want, media_type: str | None) -> None:
        in_background(self._access.affirmed(want.asking, media_type))

    def _heard_no(self, want: Want, refusal: OriginRefused) -> None:
        in_background(self._access.refused(want.asking, refusal))

    # Digests that are wrong everywhere.

    def _check_wrong(self, digest: Digest) -> None:
        until = self._wrong.get(digest)
        if until is None:
            return
        if self._clock.seconds() < until:
            raise ContentWrong(f"no upstream delivers the content that {digest} names")
        del self._wrong[digest]

    def _remember_wrong(self, digest: Digest) -> None:
        self._wrong[digest] = self._clock.seconds() + _WRONG_FOR
        if len(self._wrong) > _MOST_WRONG:
            del self._wrong[next(iter(self._wrong))]


def _close(looked: tuple[BlobRecord | None, BlobFile | None]) -> None:
    file = looked[1]
    if file is not None:
        file.close()
