"""
Which origins have which stored bytes.

Blobs of all origins are in one store under their digests. An origin can authorize clients only for what it has
itself: stored bytes are served for it if it delivered them (a download that was verified) or has proved that it
has them. :meth:`Possession.require` is the one place where that is decided; every response from stored bytes, or
about them, requires it. What it has decided is remembered with a hot blob
(:class:`contentcache.delivery.hot_blobs.HotBlob`).

Rules of the proof:

* 4,096 bytes from a random offset that do not compress below half, requested with the client's own credential,
  equal the stored bytes; if fewer than 8 of 16 offsets have such bytes, and for manifests and small blobs, the
  whole content is the proof;
* for a minute an origin is asked for the same sample of a digest, with every credential: many credentials, and
  proofs that fail in any way, are worth no more tries than one;
* a host that ignores ``Range`` proves it by the whole content, which is hashed;
* a proof counts for (origin, digest). It is neither a grant nor a link: those are checked before;
* one proof of (origin, digest) runs at a time. What is refused to one client's credential is not refused to
  another: each then runs its own;
* other bytes are a failed proof: 404, and no new try with this client's credential for a minute.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable
from functools import partial
from typing import Final, TypeAlias

from attrs import frozen
from twisted.logger import Logger

from contentcache.aio.single_flight import SingleFlight
from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown, CacheError, DiskFailed, OriginRefused, UpstreamBroken
from contentcache.core.lru import LruCache
from contentcache.core.ports import Run, Timer
from contentcache.core.ranges import PARTIAL, parse_content_range
from contentcache.delivery.authorization import Authorization
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.shared_download import UndecidedError
from contentcache.storage.interfaces import BlobFile, BlobIndex, Store
from contentcache.upstream.answers import Answer, AnswerTooLarge, is_html
from contentcache.upstream.inflow import Inflow

#: Bytes of a sample.
SAMPLE: Final = 4096
#: Content of at most this many bytes is requested whole.
SMALL: Final = 64 << 10
#: Number of offsets that are tried for a sample that does not compress.
_TRIES: Final = 16
#: Number of those whose bytes must not compress: a client that knows a share of the blob then passes with at most
#: twice that probability.
_LEAST: Final = _TRIES // 2
#: A sample counts if it compresses to at least this many bytes.
_INCOMPRESSIBLE: Final = SAMPLE // 2
#: Seconds without a new try after a failed proof with the same credential, and with the same sample for all.
_FAILED_FOR: Final = 60.0
#: Number of possessions, and of failed proofs, in memory.
_MOST: Final = 10_000
#: Number of samples in memory.
_MOST_SAMPLES: Final = 1000
_NOT_FOUND: Final = 404
_OK: Final = 200


class NotPossessed(BlobUnknown):
    """The origin does not have the bytes that are stored under this digest, whatever it answers to ``HEAD``."""

    def __init__(self, request: ContentRequest) -> None:
        digest = request.content.digest
        super().__init__(f"the origin of {request.content.repository} does not deliver {digest}")
        if request.content.kind == "manifests":
            self.code = "MANIFEST_UNKNOWN"  # type: ignore[misc]  # one condition, two codes


@frozen
class Sample:
    """What proves a content of ``size`` bytes: the ``expected`` bytes from ``offset`` on, or all of it."""

    size: int
    offset: int = 0
    expected: bytes | None = None

    @property
    def range(self) -> str | None:
        """The value of ``Range`` to request it with."""
        return None if self.expected is None else f"bytes={self.offset}-{self.offset + SAMPLE - 1}"


#: An origin and the digest of bytes that are stored.
_Pair: TypeAlias = tuple[str, Digest]


@frozen
class _Proof:
    """The result of a proof that ran for the request with this key: ``error`` says why it failed."""

    request_key: bytes
    error: CacheError | None


class Possession:
    """
    Which origins have which stored bytes, and the proofs of it.

    ``random(n)`` is a number from 0 to ``n - 1`` that upstream cannot guess.
    """

    _log = Logger()

    def __init__(
        self,
        authorization: Authorization,
        store: Store,
        index: BlobIndex,
        *,
        run: Run,
        clock: Timer,
        random: Callable[[int], int],
    ) -> None:
        self._authorization = authorization
        self._store = store
        self._index = index
        self._run = run
        self._clock = clock
        self._random = random
        self._known: LruCache[_Pair, bool] = LruCache(_MOST)
        #: Keys of requests for which a proof has failed, and until when none is tried again.
        self._failed: LruCache[bytes, float] = LruCache(_MOST)
        #: The sample of each origin and digest, and until when it stays the same.
        self._samples: LruCache[_Pair, tuple[Sample, float]] = LruCache(_MOST_SAMPLES)
        self._proofs: SingleFlight[Hashable, _Proof] = SingleFlight()

    async def require(self, request: ContentRequest) -> None:
        """
        Return if the origin has the stored bytes; if that is unknown, ask it for a proof first.

        :raises NotPossessed: it does not.
        :raises OriginRefused: it does not let this client have them.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: it cannot be asked.
        :raises DiskFailed: the stored bytes cannot be read.
        :raises UndecidedError: they are not there any more.
        """
        pair = request.registry.upstream.origin, request.content.digest
        if self._known.get(pair):
            return
        if await self._is_recorded(*pair):
            self.note(*pair)
        else:
            await self._prove(pair, request)

    def note(self, origin: str, digest: Digest) -> None:
        """Record in memory what is in the index: ``origin`` has these bytes."""
        self._known.put((origin, digest), True)

    def clear(self) -> None:
        """The index was lost: forget the possessions that are in memory."""
        self._known.clear()

    async def _is_recorded(self, origin: str, digest: Digest) -> bool:
        try:
            return await self._run(self._index.possesses, origin, digest)
        except OSError as error:
            self._log.error(
                "possession not read from the index, origin must prove it",
                origin=origin,
                digest=digest,
                reason=error,
            )
            return False

    async def _prove(self, pair: _Pair, request: ContentRequest) -> None:
        request_key = self._authorization.request_key(request)
        self._check_failed(request_key, request)
        attempt = partial(self._attempt, request_key, request)
        # A request that came another way shares no proof: in a loop of caches the proof may wait for it.
        proof = await self._proofs.run((pair, request.via), attempt)
        if proof.error is not None and proof.request_key != request_key:
            # The refusal, or what came instead of the bytes, was another client's.
            proof = await self._proofs.run(request_key, attempt)
        if proof.error is not None:
            raise proof.error

    async def _attempt(self, request_key: bytes, request: ContentRequest) -> _Proof:
        try:
            await self._ask_for_sample(request_key, request)
        except CacheError as error:
            return _Proof(request_key, error)
        return _Proof(request_key, None)

    async def _ask_for_sample(self, request_key: bytes, request: ContentRequest) -> None:
        origin, digest = request.registry.upstream.origin, request.content.digest
        sample = await self._choose(request)
        asked = self._authorization.request_time()
        try:
            answer = await request.registry.ask(request.upstream_request("GET", range_=sample.range))
        except OriginRefused as refusal:
            if refusal.status == _NOT_FOUND:
                self._fail(request_key)
            await self._authorization.record_denied(request, refusal, asked=asked)
            raise
        is_page = is_html(answer.header("Content-Type"))
        if not await _is_proved(answer, digest, sample):
            if is_page:
                raise UpstreamBroken(f"{answer.host} answered with a page for people")
            self._fail(request_key)
            self._log.warn(
                "proof of possession failed",
                origin=origin,
                repository=request.content.repository,
                digest=digest,
            )
            raise NotPossessed(request)
        self.note(origin, digest)
        try:
            await self._run(self._index.record_possession, origin, digest)
        except OSError as error:
            self._log.error("possession not written to the index", origin=origin, digest=digest, reason=error)

    async def _choose(self, request: ContentRequest) -> Sample:
        """
        The sample that is asked for: for a while the same one, whoever asks and however the proof ends. One
        client's failure then is none of another's, and many tries are worth no more than one.
        """
        pair, now = (request.registry.upstream.origin, request.content.digest), self._clock.seconds()
        remembered = self._samples.get(pair)
        if remembered is not None and now < remembered[1]:
            return remembered[0]
        try:
            sample = await self._run(self._read_sample, request)
        except BlobUnknown as error:
            raise UndecidedError("the stored content is gone") from error
        except OSError as error:
            raise DiskFailed(f"{request.content.digest} cannot be read: {error}") from error
        self._samples.put(pair, (sample, now + _FAILED_FOR))
        return sample

    def _read_sample(self, request: ContentRequest) -> Sample:
        """Something of the stored bytes that cannot be guessed. Blocks."""
        file = self._store.open(request.content.digest)
        try:
            if request.content.kind == "manifests" or file.size <= SMALL:
                return Sample(file.size)
            return choose_sample(file, self._random)
        finally:
            file.close()

    def _fail(self, request_key: bytes) -> None:
        self._failed.put(request_key, self._clock.seconds() + _FAILED_FOR)

    def _check_failed(self, request_key: bytes, request: ContentRequest) -> None:
        until = self._failed.peek(request_key)
        if until is None:
            return
        if self._clock.seconds() < until:
            raise NotPossessed(request)
        self._failed.remove(request_key)


def choose_sample(file: BlobFile, random: Callable[[int], int]) -> Sample:
    """A part of a file that does not compress, since others could be guessed; all of it where most parts do."""
    found: list[Sample] = []
    for _ in range(_TRIES):
        offset = random(file.size - SAMPLE + 1)
        expected = file.read(offset, SAMPLE)
        if len(expected) == SAMPLE and len(zlib.compress(expected)) >= _INCOMPRESSIBLE:
            found.append(Sample(file.size, offset, expected))
    return found[0] if len(found) >= _LEAST else Sample(file.size)


async def _is_proved(answer: Answer, digest: Digest, sample: Sample) -> bool:
    """
    Whether the body of ``answer`` is what is stored.

    :raises UpstreamBroken: it was cut short.
    :raises UpstreamTimeout: it stalled.
    """
    if answer.status == PARTIAL and sample.expected is not None:
        sent = parse_content_range(answer.header("Content-Range"))
        if sent is None or sent.first != sample.offset or sent.size not in {None, sample.size}:
            answer.abandon()
            return False
        try:
            return await answer.read(SAMPLE) == sample.expected
        except AnswerTooLarge:
            return False
    if answer.status != _OK or answer.length not in {None, sample.size}:
        answer.abandon()
        return False
    return await _is_whole(answer, digest, sample.size)


async def _is_whole(answer: Answer, digest: Digest, size: int) -> bool:
    hasher = digest.hasher()
    came = 0

    def received(inflow: Inflow, data: bytes) -> None:
        nonlocal came
        came += len(data)
        if came > size:
            inflow.abandon()
        else:
            hasher.update(data)

    try:
        await answer.stream(received).ended
    except UpstreamBroken:
        if came <= size:
            raise
    return came == size and digest.is_of(hasher)
