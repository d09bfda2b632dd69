"""
The steps of a download, from opening its file to leaving or committing it.

:class:`contentcache.core.download_planner.DownloadPlanner` says what is next; here it is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NoReturn

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from contentcache.aio.condition import wait_at_most
from contentcache.core.download_planner import (
    Backoff,
    Commit,
    DownloadPlanner,
    Fail,
    RequestRange,
    Restart,
    Verify,
)
from contentcache.core.errors import CacheError, ContentWrong, DiskFailed, UpstreamBroken, cache_failed
from contentcache.core.manifests import ManifestInvalid, check_manifest, manifest_digests
from contentcache.delivery.download_stream import FIRST_PART
from contentcache.delivery.shared_download import SignedManifest, StoredMeanwhile, UndecidedError, superseded
from contentcache.delivery.subscribers import Subscriber
from contentcache.telemetry.request_ids import current_id

if TYPE_CHECKING:
    from contentcache.aio.fair_semaphore import Permit
    from contentcache.delivery.download import Download

#: Seconds for which the held-back tail of a verified content waits for its being stored.
_LONGEST_COMMIT: Final = 0.1


class DownloadSteps:
    """Runs one download, once."""

    _log = Logger()

    def __init__(self, download: Download) -> None:
        self._download = download

    async def run(self) -> None:
        """Download until the content is stored, or nothing more can be done: then ``failure`` says why."""
        download = self._download
        download.trace(current_id())
        try:
            await self._open()
            while not await self._take_step():
                pass
        except CacheError as error:
            download.failure = error
            if isinstance(error, DiskFailed) and error.is_fault:
                download.context.report_disk(error.message)
            elif not isinstance(error, DiskFailed | UndecidedError):
                self._log.warn(
                    "download failed",
                    origin=download.key.origin,
                    repository=download.subscribers.repositories(),
                    digest=download.key.digest,
                    offset=download.planner.prefix,
                    reason=error.message,
                )
        except Exception:  # noqa: BLE001  # clients must not wait for ever because of a defect here
            self._log.failure("download crashed", origin=download.key.origin, digest=download.key.digest)
            download.failure = cache_failed()
        download.is_closing = True
        download.segments.close()
        await self._wait_idle()
        await self._leave_file()
        download.storage.shrink_reservation(download.planner.held.total())
        download.end()
        download.storage.release()

    async def _open(self) -> None:
        download = self._download
        file = await download.storage.open()
        total = file.size if download.in_place else download.options.total
        fits = total is None or not file.held or file.held[-1][1] <= total
        held = file.held if fits else ()
        download.is_open = download.options.total is not None
        download.planner = DownloadPlanner(
            held, total, retry_for=download.options.retry_for, promised=download.is_open
        )
        download.download_file.open(file, held)
        if not fits:
            await download.download_file.restart()
        if total is not None:
            await download.reserve()
        download.progress.announced = download.planner.prefix
        download.notify_ready()

    async def _take_step(self) -> bool:
        """Carry out the next step; whether it was the last one."""
        download = self._download
        if download.is_superseded:
            raise superseded()
        sources = self._sources()
        if self._must_wait(sources):
            await download.changed.wait()
            return False
        match download.planner.next(tuple(sources), download.context.clock.seconds()):
            case RequestRange(host, offset):
                await download.stream.request_range(sources[host], host, offset)
            case Backoff(seconds):
                await self._wait_for_upstream(seconds)
            case Verify():
                download.planner.checked(right=await self._matches_digest())
            case Restart(blamed):
                await self._restart(blamed)
            case Fail(wrong=True):
                raise ContentWrong("what upstream delivers is not what the digest says")
            case Fail():
                raise download.stream.error
            case Commit():
                await self._commit()
                return True
        return False

    def _sources(self) -> Mapping[str, Subscriber]:
        """The hosts that can be asked, each with a client in whose name."""
        # After a digest mismatch the clients that got bytes have left. At most one try of each host goes on
        # without them, else the next client would start from the same wrong bytes.
        return self._download.subscribers.sources(or_last=self._download.generation > 0)

    async def _wait_for_upstream(self, seconds: float) -> None:
        """Wait, without a permit, before the hosts are asked again; shorter if nobody needs it any more."""
        download, clock = self._download, self._download.context.clock
        if download.is_open:
            stream = download.stream
            stream.wait.begin(stream.repositories, download.planner.prefix, stream.error.message)
        if download.permit is not None:
            download.permit.release()
        until = clock.seconds() + seconds
        while self._is_needed() and (left := until - clock.seconds()) > 0:
            await wait_at_most(clock, left, download.changed)
        if download.permit is not None and self._is_needed():
            await self._acquire_again(download.permit)

    async def _acquire_again(self, permit: Permit[bytes]) -> None:
        # Without a timeout: what was sent already is not given up because others are downloading.
        acquiring = Deferred.fromCoroutine(permit.acquire(expires=False))
        acquiring.addErrback(lambda failure: failure.trap(CancelledError))
        acquiring.addBoth(lambda _result: self._download.changed.notify_all())
        while not acquiring.called:
            if self._is_needed():
                await self._download.changed.wait()
            else:
                acquiring.cancel()

    def _is_needed(self) -> bool:
        download = self._download
        return bool(self._sources()) and download.disk_error is None and not download.is_superseded

    def _must_wait(self, sources: Mapping[str, Subscriber]) -> bool:
        """
        Whether there is nothing to stream now: no subscriber wants all, or the next bytes come as a segment.

        :raises DiskFailed: a segment could not be written.
        :raises UndecidedError: nothing goes on, and there is no subscriber in whose name to ask upstream.
        """
        download = self._download
        if download.disk_error is not None:
            raise download.disk_error
        if download.planner.complete:
            return False
        if not sources and not download.segments.busy:
            # Whoever was refused knows why, and whoever comes now may know better.
            raise UndecidedError("nobody is left in whose name upstream can be asked")
        return not sources or not download.needs_all or download.segments.covers(download.planner.prefix)

    async def _matches_digest(self) -> bool:
        """
        Whether the digest is that of all bytes. Of a manifest it may be another one because it is signed:
        some registries do not say so by its type.

        :raises SignedManifest: it is.
        """
        download = self._download
        size = download.planner.total or 0
        if await download.download_file.matches_digest(size):
            return True
        if not download.options.is_manifest:
            return False
        content = await download.download_file.in_thread(download.file.read, 0, size)
        if download.key.digest in manifest_digests(
            content, download.stream.media_type, download.key.digest.algorithm
        ):
            raise SignedManifest(f"{download.key.digest} is a signed manifest")
        return False

    async def _restart(self, blamed: str | None) -> None:
        """After a digest mismatch: eject the host that is to blame, and begin again with an empty file."""
        download = self._download
        if download.in_place:
            await self._delete_stored()
        download.context.meter.digest_mismatch()
        self._log.warn(
            "digest mismatch, download restarted",
            origin=download.key.origin,
            repository=sorted(download.stream.repositories),
            digest=download.key.digest,
            upstream=blamed,
        )
        if blamed is not None:
            download.subscribers.eject_host(blamed, f"its {download.key.digest} was something else")
            download.stream.error = UpstreamBroken(
                f"{blamed} delivers something else than {download.key.digest}"
            )
        await self._wait_idle()
        download.generation += 1
        download.planner.restarted()
        download.progress.announced = 0
        await download.download_file.restart()
        download.progress.notify_all(download.planner.prefix)

    async def _delete_stored(self) -> NoReturn:
        download = self._download
        self._log.error(
            "stored blob corrupt, deleted",
            digest=download.key.digest,
            repository=download.subscribers.repositories(),
            tag=(),
            reason="digest mismatch",
        )
        await download.download_file.in_thread(download.file.discard)
        raise UndecidedError("the stored blob was corrupt")

    async def _commit(self) -> None:
        download = self._download
        download.storage.is_committing = True
        if download.options.is_manifest and not await self._is_storable():
            if not download.in_place:
                await download.storage.discard()
            self._release_tail()
            return
        # Who sees the end of a pull finds the blob in the store; but nobody waits long for a slow disk, for
        # what readers get is verified all the same.
        timeout = download.context.clock.callLater(_LONGEST_COMMIT, self._release_tail)
        try:
            origin = None if download.in_place else download.key.origin
            await download.storage.commit(download.planner.total or 0, origin)
        finally:
            if timeout.active():
                timeout.cancel()
            self._release_tail()

    async def _is_storable(self) -> bool:
        """
        Whether a manifest has the media type that upstream gives it. If not, its readers get it as upstream
        sent it.

        :raises ManifestInvalid: it is no manifest.
        """
        download = self._download
        content = await download.download_file.in_thread(download.file.read, 0, download.planner.total or 0)
        checked = check_manifest(content)
        if not checked.agrees(download.stream.media_type):
            download.media_type = download.stream.media_type
            return False
        download.media_type = checked.media_type(get=download.stream.media_type)
        return True

    def _release_tail(self) -> None:
        """All is verified: send the held-back tail."""
        download = self._download
        if not download.verified:
            download.verified = True
            download.stream.record_verified()
            download.open_responses()

    async def _wait_idle(self) -> None:
        """Wait until nothing comes in and no thread works on the file any more."""
        download = self._download
        download.download_file.abandon_bodies()
        while download.segments.busy:
            await download.changed.wait()
        await download.download_file.wait_idle()

    async def _leave_file(self) -> None:
        download = self._download
        if download.verified or download.in_place or not download.download_file.has_file:
            return
        # A page for people may have any type, and would be the first bytes of the next download. What is small
        # is not worth a resumption.
        is_small = (download.planner.total or download.planner.held.total()) < FIRST_PART
        is_wrong = isinstance(
            download.failure, ContentWrong | ManifestInvalid | SignedManifest | StoredMeanwhile
        )
        await download.storage.leave(
            tuple(download.planner.held), is_useless=is_small or is_wrong or download.stream.has_page
        )
