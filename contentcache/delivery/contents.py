"""Blobs and manifests by digest: from the store, from a fetch that is running, from a new one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from attrs import evolve
from twisted.logger import Logger

from contentcache.aio.fair_semaphore import FairSemaphore
from contentcache.aio.tasks import in_background, unless_left
from contentcache.core.digest import Digest
from contentcache.core.disproved import Disproved
from contentcache.core.errors import (
    CacheError,
    ContentWrong,
    DiskFailed,
    ManifestTooLarge,
    OriginRefused,
    Overloaded,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from contentcache.core.manifests import (
    CheckedManifest,
    ManifestInvalid,
    check_manifest,
    manifest_digests,
)
from contentcache.core.ports import Clock, Run, Timer
from contentcache.delivery.access import Access
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
from contentcache.delivery.continuing import continue_from_stored
from contentcache.delivery.downloads import Downloads
from contentcache.delivery.fetch import Fetch
from contentcache.delivery.making import (
    AskFirst,
    DownloadKey,
    LoopPossible,
    Making,
    NotShareable,
    StoredMeanwhile,
    UndecidedError,
)
from contentcache.delivery.manifests import StoredManifest, StoredManifests, read_manifest, too_large
from contentcache.delivery.origin_word import Yes
from contentcache.delivery.other_workers import OtherWorkers, Owners
from contentcache.delivery.passing import Check, PassedBody, carry_on
from contentcache.delivery.possession import Possession
from contentcache.delivery.pulls import Pulls
from contentcache.delivery.reserving import Reserving
from contentcache.delivery.served import Described, Served
from contentcache.delivery.shelf import Shelf
from contentcache.delivery.surroundings import Surroundings
from contentcache.delivery.wants import Asking, Want
from contentcache.delivery.warm import Warm
from contentcache.meter import Meter
from contentcache.storage.interfaces import BlobFile, BlobRecord, Index, Room, Store

_ATTEMPTS: Final = 50
#: Of so many contents that parts are asked of the size is remembered.
_MOST_SIZES: Final = 10_000


class Contents:
    """
    All contents that are named by a digest.

    Downloads reserve their bytes in the ``room`` of the store; ``random(n)`` is a number from 0 to
    ``n - 1``; ``manifest_limit`` is in bytes,
    ``fill_after`` the share of a content from which on the rest of it is fetched too; ``small`` is how many
    small blobs are kept open for those who find them in :attr:`warm`. Where there are ``other_workers``,
    each has the fetches of some contents, and its clients read along here.
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
        downloads: FairSemaphore[bytes],
        meter: Meter,
        room: Room,
        random: Callable[[int], int],
        manifest_limit: int,
        fill_after: float,
        small: int = 0,
        other_workers: OtherWorkers | None = None,
    ) -> None:
        self._access = access
        #: What the disk refused last, until it takes something again.
        self.disk_fault: str | None = None
        self._shelf = Shelf(store, index, wall)
        self._run = run
        self._clock = clock
        self._semaphore = downloads
        self._meter = meter
        self._reserving = Reserving(room, self.flush)
        self._manifest_limit = manifest_limit
        self._fill_after = fill_after
        self._other_workers = other_workers or OtherWorkers()
        self._running = Downloads()
        self._sizes: dict[DownloadKey, int] = {}
        self._manifests = StoredManifests(run, manifest_limit)
        self._pulls = Pulls(index, run, wall, self._other_workers.on_use)
        self._possession = Possession(access, store, index, run=run, clock=clock, random=random)
        self.warm = Warm(access, self._pulls, run, small)
        self._disproved = Disproved()
        self._around = Surroundings(
            store=store,
            run=run,
            clock=clock,
            meter=meter,
            question_time=access.question_time,
            is_known_target=access.origin_word.is_known_target,
            yes=self.record_allowed,
            no=self.record_denied,
            reserving=self._reserving,
            keep=self._shelf.keep,
            disk=self._heard_of_disk,
        )

    # For the evictor and for who watches.

    def in_use(self, digest: Digest) -> bool:
        """Whether a reader or a fetch has this content, or a pull of it is not in the index yet."""
        return digest in self._running or digest in self._pulls

    @property
    def fetching(self) -> int:
        """How many fetches of ours are running."""
        return sum(isinstance(fetch, Fetch) for fetch in self._running)

    def lost_index(self) -> None:
        """The index is made anew: what it knew is not believed any more."""
        self.warm.close()
        self._possession.forget()
        self._access.lost_index()

    async def flush(self) -> None:
        """Write the last pulls into the index."""
        self.warm.tidy()
        await self._pulls.flush()

    # For the web.

    async def describe(self, asking: Asking) -> Described:
        """
        Answer a ``HEAD``: what is here is told from here, if the client may have it; else the origin tells.

        :raises CacheError: as :meth:`get` does.
        """
        digest = asking.content.digest
        self._check_disproved(asking)
        yes = await self._access.remembered(asking)
        record = await self._run(self._shelf.verified, digest)
        if asking.content.kind == "manifests":
            if record is None:
                yes = await self._access.ask(asking, with_body=False)
            size = None if record is None else record.size
            yes = yes or await self._ask(asking, with_body=False, size=size)
            return await self.describe_manifest(asking, yes)
        if record is not None:
            yes = yes or await self._ask(asking, with_body=False, size=record.size)
            await self._possession.require(asking)
            status = "hit; detail=affirmed" if yes.asked else "hit"
            return Described(digest, record.size, None, status, yes.stale, yes.notices)
        fetch = self._running.get(_key(asking))
        if yes is not None and fetch is not None and fetch.size is not None and not fetch.in_place:
            return Described(digest, fetch.size, None, "fwd=miss; collapsed")
        yes = await self._access.size_of(asking)
        # A cache before this one asks so before it asks for a part.
        self._note_size(_key(asking), yes.size)
        return Described(digest, yes.size, None, "fwd=miss", notices=yes.notices)

    async def describe_manifest(self, asking: Asking, yes: Yes) -> Described:
        """Answer a ``HEAD`` of a manifest that this client may have: what is stored beats what ``HEAD`` says."""
        digest = asking.content.digest
        stored = await self._possessed_manifest(asking)
        if stored is not None:
            status = "hit; detail=affirmed" if yes.asked else "hit"
            media_type = await self._media_type(asking, stored.checked, yes)
            return Described(digest, stored.size, media_type, status, yes.stale, yes.notices)
        if (yes.size or 0) > self._manifest_limit:
            raise too_large(yes.size, self._manifest_limit)
        if yes.size is not None:
            media_type = yes.media_type or yes.head_type
            return Described(digest, yes.size, media_type, "fwd=miss", yes.stale, yes.notices)
        # Only the manifest itself tells its length, and whoever asks for that comes for the manifest next.
        with await self.get(asking, yes) as served:
            return Described(
                digest, served.body.size, served.media_type, served.status, served.stale, served.notices
            )

    async def _possessed_manifest(self, asking: Asking) -> StoredManifest | None:
        """
        The same as :meth:`stored_manifest` where the origin that is asked has it.

        :raises NotPossessed: it has not.
        """
        stored = await self.stored_manifest(asking.content.digest)
        if stored is None:
            return None
        try:
            await self._possession.require(asking)
        except UndecidedError:
            return None  # it was stored
        return stored

    async def stored_manifest(self, digest: Digest) -> StoredManifest | None:
        """A content as a manifest, if it is stored, or was, verified and checked; ``None`` if it is none."""
        known = self._manifests.known(digest)
        if known is not None:
            return known
        _, file = await unless_left(self._run(self._shelf.look, digest), _close)
        if file is None:
            return None
        try:
            return await self._manifests.check(digest, file)
        except (ManifestInvalid, ManifestTooLarge, OSError):
            return None
        finally:
            file.close()

    async def _media_type(self, asking: Asking, checked: CheckedManifest, yes: Yes) -> str | None:
        """What to serve a manifest as: what is stored and what ``GET`` said beat what ``HEAD`` says."""
        said = None
        if checked.declared is None:
            said = yes.media_type or await self._access.media_type(asking)
        return checked.media_type(get=said, head=yes.head_type)

    async def get(self, asking: Asking, yes: Yes | None = None, *, whole: bool = True) -> Served:
        """
        A body that this client may have; ``yes`` if the origin has just said so. Of a content that only parts
        are wanted of (not ``whole``), only those are fetched.

        :raises OriginRefused: the origin does not let it.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: the origin cannot be asked, or the
            content cannot be had.
        :raises Overloaded: too many fetches at once.
        """
        for _ in range(_ATTEMPTS):
            self._check_disproved(asking)
            try:
                return await self._get(asking, yes or await self._access.remembered(asking), whole=whole)
            except AskFirst:
                yes = await self._ask(asking, with_body=True)
            except NotShareable:
                return await self._pass_through(asking)
            except UndecidedError:
                continue
            except DiskFailed as error:
                self._heard_of_disk(error.message)
                return await self._pass_through(asking)
        raise UpstreamUnavailable("this content comes and goes; try again")

    async def keep(self, key: DownloadKey, content: bytes) -> None:
        """Store a small content that has come whole and verified from ``origin``."""
        owners = self._remote_owners(key.digest)
        if owners is not None:
            await owners.store(key, content)
            return
        if key.digest in self._running:
            return
        reserved = self._reserving.begin(key)
        try:
            await reserved.grow(len(content))
            await self._run(self._shelf.put, key.digest, key.origin, content)
        except DiskFailed:
            return
        except OSError as error:
            self._heard_of_disk(f"a manifest cannot be stored: {error}")
        finally:
            reserved.release()

    # For other workers.

    async def share(self, want: Want, *, in_place: bool, total: int | None) -> tuple[Fetch, bool]:
        """
        Let a client of another worker join the fetch of a content of ours, which begins if there is none;
        ``in_place`` and ``total`` are as in :class:`contentcache.delivery.fetch.Fetch`. Answers whether there
        was one, too.

        :raises UndecidedError: the content is here by now.
        :raises AskFirst: the fetch goes on in others' names, and the want is not judged.
        :raises DiskFailed: there is no room for it.
        """
        key = _key(want.asking)
        digest = key.digest
        self._check_disproved(want.asking)
        await self._until_closed(key, in_place=in_place)
        if self._running.get(key) is None:
            record, file = await unless_left(self._run(self._shelf.look, digest), _close)
            if file is not None:
                file.close()
            if file is not None or (record is not None) is not in_place:
                raise UndecidedError("it is in the store by now")
            if not in_place and not await self._reserving.has_room(key):
                raise DiskFailed("there is no room in the store")
        # What the origin has told this worker of the client counts here, and nowhere else.
        want.judged = want.judged or await self._access.remembered(want.asking) is not None
        fetch = self._running.get(key)
        if fetch is None:
            self._check_disproved(want.asking)
            return self._start_own(want, in_place=in_place, total=total), False
        if not isinstance(fetch, Fetch) or fetch.is_ending or fetch.in_place is not in_place:
            raise UndecidedError("another fetch has begun or ended meanwhile")
        if not want.judged and not (fetch.takes_candidates and fetch.has_want(want.key)):
            raise AskFirst("the origin has not been asked")
        self._check_loop(fetch, want.asking, asked=want.judged)
        fetch.attach(want)
        return fetch, True

    # How it is done.

    async def _get(self, asking: Asking, yes: Yes | None, *, whole: bool) -> Served:
        key = _key(asking)
        digest = key.digest
        await self._until_closed(key)
        if self._running.get(key) is None:
            record, file = await unless_left(self._run(self._shelf.look, digest), _close)
            if file is not None:
                with ExitStack() as held:
                    held.callback(file.close)
                    return await self._serve_stored(asking, file, yes, held)
            if record is not None and self._running.get(key) is None:
                # It lies in the store, but nobody has ever verified it.
                yes = yes or await self._ask(asking, with_body=True, size=record.size)
                await self._verify_stored(asking)
                return await self._get(asking, yes, whole=whole)
        fetch = self._running.get(key)
        if yes is None and fetch is not None and not self._is_in_question(fetch, asking):
            # The fetch may have had its answer, a yes for this client too, since we looked.
            yes = await self._access.remembered(asking)
            yes = yes or await self._ask(asking, with_body=True, size=fetch.size)
            if self._running.get(key) is not fetch:
                # It has ended meanwhile: what it has stored is not fetched again.
                return await self._get(asking, yes, whole=whole)
        if fetch is None and not whole:
            # To answer for a part one must know the size of the whole.
            yes = await self._sized(asking, yes)
        return await self._join(asking, yes, whole=whole)

    async def _sized(self, asking: Asking, yes: Yes | None) -> Yes:
        """A yes that knows the size of the whole."""
        key = _key(asking)
        known = self._sizes.get(key)
        if yes is not None and known is not None:
            return evolve(yes, size=known)
        yes = await self._access.size_of(asking, with_body=True)
        self._note_size(key, yes.size)
        return yes

    def _note_size(self, key: DownloadKey, size: int | None) -> None:
        if size is not None:
            self._sizes[key] = size
            if len(self._sizes) > _MOST_SIZES:
                del self._sizes[next(iter(self._sizes))]

    async def _until_closed(self, key: DownloadKey, *, in_place: bool = False) -> None:
        # One that ends without the content takes nobody aboard; the next one goes on from its partial file.
        # Stored bytes that are being verified are served to nobody before that is done.
        while (fetch := self._running.get(key)) is not None and (
            fetch.is_ending or fetch.in_place is not in_place
        ):
            await fetch.progress.wait()

    async def _verify_stored(self, asking: Asking) -> None:
        """
        Hash a stored blob that nobody has verified yet, in the place where it is.

        :raises UndecidedError: it was something else, and is gone.
        """
        await self._until_closed(_key(asking), in_place=True)
        want = Want(asking, self._access.key(asking), judged=True)
        fetch = self._running.get(_key(asking))
        if fetch is None:
            fetch = self._start(want, in_place=True, total=None)
        else:
            fetch.attach(want)
        try:
            await want.opened
        finally:
            fetch.detach(want)

    async def _serve_stored(self, asking: Asking, file: BlobFile, yes: Yes | None, held: ExitStack) -> Served:
        """Serve ``file``, which ``held`` closes unless it is handed over, with the body, by the last statements."""
        digest = asking.content.digest
        self._pulls.begin(digest)
        held.callback(self._pulls.end, digest)
        body = StoredBody(file, self._run, partial(self._pulls.end, digest))
        held.pop_all()
        held.callback(body.close)
        media_type = None
        yes = yes or await self._ask(asking, with_body=True, size=body.size)
        await self._possession.require(asking)
        if asking.content.kind == "manifests":
            stored = await self._manifests.check(digest, file)
            media_type = await self._media_type(asking, stored.checked, yes)
        self._pulls.note(digest)
        if asking.content.kind == "blobs":
            self.warm.keep(digest, file, asking.registry.upstream.origin)
        status = "hit; detail=affirmed" if yes.asked else "hit"
        served = Served(digest, body, media_type, status, yes.stale, yes.notices)
        held.pop_all()
        return served

    async def _join(self, asking: Asking, yes: Yes | None, *, whole: bool) -> Served:
        key = _key(asking)
        digest = key.digest
        fetch = self._running.get(key)
        status = "fwd=miss; collapsed"
        if fetch is None and self._remote_owners(digest) is None:
            if not await self._reserving.has_room(key):
                raise DiskFailed("there is no room in the store")
            fetch = self._running.get(key)
        total = None if whole or yes is None else yes.size
        whole = whole or (fetch is None and total is None)
        want = Want(asking, self._access.key(asking), judged=yes is not None, whole=whole)
        # Detached unless it is handed over, with the body, by the last two statements.
        with ExitStack() as held:
            if fetch is None:
                self._check_disproved(asking)  # by a fetch that has ended since we looked
                fetch = self._start(want, in_place=False, total=total)
                held.callback(fetch.detach, want)
                status = "fwd=miss; stored" if whole else "fwd=miss; detail=part"
            elif fetch.is_ending or fetch.in_place or not (yes or self._is_in_question(fetch, asking)):
                raise UndecidedError("another fetch has begun or ended meanwhile")
            else:
                self._check_loop(fetch, asking, asked=yes is not None)
                status = "hit" if fetch.verified else status
                held.callback(fetch.detach, want)
                fetch.attach(want)
            await want.opened
            if want.joined:
                status = "fwd=miss; collapsed"
            # It reads from the file as long as its client takes, perhaps long after the download has ended.
            self._pulls.begin(digest)
            held.callback(self._pulls.end, digest)
            body = GrowingBody(
                fetch, self._run, partial(self._carry_on, asking, fetch), partial(self._left, fetch, want)
            )
            held.pop_all()
            held.callback(body.close)
            if body.size == 0 or asking.content.kind == "manifests":
                await self._until_verified(body, fetch)
            if asking.content.kind == "manifests":
                in_background(self._access.learn_media_type(asking, fetch.media_type))
            stale, notices = (False, {}) if yes is None else (yes.stale, yes.notices)
            served = Served(digest, body, fetch.media_type, status, stale, {**notices, **want.notices})
            held.pop_all()
            return served

    async def _until_verified(self, body: GrowingBody, fetch: Making) -> None:
        # A head alone would complete an empty content; and a wrong manifest had better be an error. Where the
        # disk takes no more, or the content is in the store by now, get() knows another way.
        try:
            await body.until_verified()
        except ShortError as error:
            if isinstance(fetch.failure, ManifestTooLarge | ManifestInvalid | NotShareable):
                raise fetch.failure from error
            raise UpstreamBroken(str(error)) from error

    def _left(self, fetch: Making, want: Want) -> None:
        try:
            fetch.detach(want)
        finally:
            self._pulls.end(fetch.key.digest)

    def _remote_owners(self, digest: Digest) -> Owners | None:
        """The owners, if another worker is the owner of ``digest``."""
        owners = self._other_workers.owners
        return None if owners is None or owners.is_own(digest) else owners

    def _is_in_question(self, fetch: Making, asking: Asking) -> bool:
        """Whether the fetch's own first request goes out in this client's name, and its answer is the verdict."""
        return fetch.takes_candidates and fetch.has_want(self._access.key(asking))

    def _check_loop(self, fetch: Making, asking: Asking, *, asked: bool) -> None:
        """
        Let a request that came through a cache wait for a running download only if the download cannot be
        waiting for that request: caches that name each other would wait until their timeouts.

        :raises AskFirst: nobody knows yet which caches are behind the upstream; its answer will tell.
        :raises LoopPossible: it may be.
        """
        # Of another worker's download only that worker knows whom it asks: it looks, too.
        if not isinstance(fetch, Fetch) or fetch.verified or fetch.has_want(self._access.key(asking)):
            return
        if asking.registry.may_lead_back(asking.via, fetch.upstream_host):
            raise (LoopPossible if asked else AskFirst)("this download may be waiting for this very request")

    def _start(self, want: Want, *, in_place: bool, total: int | None) -> Making:
        key = _key(want.asking)
        owners = self._remote_owners(key.digest)
        if owners is None:
            return self._start_own(want, in_place=in_place, total=total)
        fetch = owners.join(key, self, in_place=in_place, total=total)
        self._begin(fetch, want, needs_turn=False)
        return fetch

    def _start_own(self, want: Want, *, in_place: bool, total: int | None) -> Fetch:
        is_manifest = want.asking.content.kind == "manifests"
        fetch = Fetch(
            _key(want.asking),
            self._around,
            in_place=in_place,
            largest=self._manifest_limit if is_manifest else None,
            whole=is_manifest,
            total=total,
            fill_after=self._fill_after,
        )
        self._begin(fetch, want, needs_turn=not in_place)
        return fetch

    def _begin(self, fetch: Making, want: Want, *, needs_turn: bool) -> None:
        identity = self._access.identity(want.asking)
        with ExitStack() as held:
            held.callback(self._running.remove, fetch)
            self._running.add(fetch)
            self._other_workers.on_use(fetch.key.digest)
            fetch.attach(want)
            held.pop_all()
        in_background(self._run_fetch(fetch, identity, needs_turn=needs_turn))

    async def _run_fetch(self, fetch: Making, key: bytes, *, needs_turn: bool) -> None:
        release = None
        try:
            if needs_turn:
                try:
                    release = await self._semaphore.acquire(key)
                except CacheError as error:
                    self._meter.limited("fetches")
                    await fetch.give_up(error)
                    return
            await fetch.run()
        finally:
            if release is not None:
                release()
            try:
                self._learn(fetch)
            finally:
                self._running.remove(fetch)
                fetch.progress.tell(fetch.prefix)
            if isinstance(fetch, Fetch) and fetch.stored:
                for other in self._running.others(fetch.key):
                    if isinstance(other, Fetch):
                        in_background(self._supersede(other))

    def _learn(self, fetch: Making) -> None:
        origin = fetch.key.origin
        if isinstance(fetch.failure, ContentWrong):
            self._disprove(fetch)
        elif fetch.verified and not fetch.in_place:
            self._disproved.remove(origin, fetch.key.digest)
            if fetch.target is not None:
                self._access.origin_word.learn_target(origin, fetch.target)

    async def _supersede(self, fetch: Fetch) -> None:
        """Another origin's download has stored the blob: who is attached goes on from the store."""
        if await fetch.supersede():
            self._running.remove(fetch)
            fetch.progress.tell(fetch.prefix)

    async def _pass_through(self, asking: Asking) -> Served:
        asked = self._access.question_time()
        answer = await asking.registry.ask(asking.request("GET"))
        media_type = answer.header("Content-Type")
        digest = asking.content.digest
        if not (answer.moved or answer.is_page):
            in_background(self._access.affirmed(asking, media_type, asked=asked))
        body: Body
        if asking.content.kind == "manifests" or answer.length == 0:
            content = await read_manifest(answer, self._manifest_limit)
            if digest not in manifest_digests(content, media_type, digest.algorithm):
                raise ContentWrong("what upstream delivers is not what the digest says")
            body = MemoryBody(content)
        else:
            body = PassedBody(asking, answer, self._meter)
        if asking.content.kind == "manifests":
            media_type = media_type or check_manifest(content).media_type(get=None)
        return Served(digest, body, media_type, "fwd=miss; detail=uncached", notices=answer.notices())

    async def _carry_on(
        self, asking: Asking, fetch: Making, flow: Flow, rest: Rest, release: Callable[[], None]
    ) -> None:
        if isinstance(fetch.failure, StoredMeanwhile):
            _record, stored = await unless_left(self._run(self._shelf.look, fetch.key.digest), _close)
            await continue_from_stored(
                fetch, stored, flow, rest, release, authorize=partial(self.get, asking), run=self._run
            )
            return
        check = None
        if rest.of_whole:
            check = Check(fetch.key.digest, fetch.key.digest.hasher())
            await hash_prefix(fetch.file, rest.start, check.hasher, self._run)
        release()
        await carry_on(asking, flow, rest, check, self._meter)

    async def _ask(self, asking: Asking, *, with_body: bool, size: int | None = None) -> Yes:
        try:
            return await self._access.ask(asking, with_body=with_body, size=size)
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

    def _heard_of_disk(self, fault: str | None) -> None:
        if fault is not None:
            self._meter.disk_failed()
            if self.disk_fault != fault:
                self._log.error("store not writable, pulls pass through uncached", reason=fault)
        elif self.disk_fault is not None:
            self._log.info("store writable again")
        if fault != self.disk_fault:
            self._other_workers.on_disk_fault(fault)
        self.disk_fault = fault

    def record_allowed(self, want: Want, media_type: str | None, asked: float) -> None:
        """The origin has said yes to a client's question, asked at ``asked``."""
        if want.told is not None:
            want.told.yes(media_type, asked)
        else:
            in_background(self._access.affirmed(want.asking, media_type, asked=asked))

    def record_denied(self, want: Want, refusal: OriginRefused, asked: float) -> None:
        """The origin has said no to a client's question, asked at ``asked``."""
        if want.told is not None:
            want.told.no(refusal, asked)
        else:
            in_background(self._access.refused(want.asking, refusal, asked=asked))

    def _disprove(self, fetch: Making) -> None:
        # Where another worker has made it, that one knows in whose names.
        origin, digest, now = fetch.key.origin, fetch.key.digest, self._clock.seconds()
        for asking in fetch.senders if isinstance(fetch, Fetch) else ():
            self._disproved.add(origin, digest, self._client(asking), now)

    def _client(self, asking: Asking) -> bytes:
        # The origin itself speaks by signed URLs, of which each is good for one request.
        return b"signed" if asking.credential.signed is not None else self._access.identity(asking)

    def _check_disproved(self, asking: Asking) -> None:
        digest, client = asking.content.digest, self._client(asking)
        if self._disproved.has(asking.registry.upstream.origin, digest, client, self._clock.seconds()):
            raise ContentWrong(f"no upstream delivers the content that {digest} names")


def download_semaphore(limit: int, timeout: float, timer: Timer) -> FairSemaphore[bytes]:
    """At most ``limit`` downloads at once, fair between credentials; further ones wait ``timeout`` seconds."""
    return FairSemaphore(
        limit,
        timer=timer,
        timeout=timeout,
        refusal=lambda: Overloaded(
            "too many downloads at once; try again soon", headers={"Retry-After": "5"}
        ),
    )


def _key(asking: Asking) -> DownloadKey:
    return DownloadKey(asking.registry.upstream.origin, asking.content.digest)


def _close(looked: tuple[BlobRecord | None, BlobFile | None]) -> None:
    file = looked[1]
    if file is not None:
        file.close()
