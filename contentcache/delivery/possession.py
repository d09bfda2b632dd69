"""
Which origins have which stored bytes.

Blobs of all origins lie in one store under their digests. An origin can let clients have only what it has
itself: stored bytes are served in its name if it delivered them (a download that was verified) or has proved
that it has them. :meth:`Possession.require` is the one place where that is decided; whatever serves stored
bytes, or tells of them, passes through it. What it let pass may be remembered beside an open blob
(:class:`contentcache.delivery.hot_blobs.HotBlob`).

Rules of the proof:

* 4,096 bytes from a random offset that do not compress below half, asked for with the client's own
  credential, equal the stored bytes; where at fewer than 8 of 16 offsets there are such bytes, and for
  manifests and small blobs, the whole content proves it;
* for a minute an origin is asked for the same sample of a digest, whoever asks: many credentials, and proofs
  that end in whatever way, are worth no more tries than one;
* a host that ignores ``Range`` proves it by the whole content, which is hashed;
* a proof belongs to (origin, digest). It is neither a grant nor a link: those are looked at before;
* one proof of (origin, digest) runs at a time. What one client's credential is refused is no other client's
  answer: each of them then asks in its own name;
* other bytes are a failed proof: 404, and not tried again for this client's credential for a minute.
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
from contentcache.upstream.answers import Answer, AnswerTooLarge, Inflow, is_html

#: Bytes of a sample.
SAMPLE: Final = 4096
#: Content of at most so many bytes is asked for whole.
SMALL: Final = 64 << 10
#: Number of offsets that are looked at for a sample that does not compress.
_TRIES: Final = 16
#: Of so many the sample must not compress: then whoever knows a part passes with twice its share at the most.
_LEAST: Final = _TRIES // 2
#: A sample counts if it compresses to no fewer bytes than this.
_INCOMPRESSIBLE: Final = SAMPLE // 2
#: Seconds for which a failed proof is not tried again for a client, nor with another sample for any.
_FAILED_FOR: Final = 60.0
#: Number of possessions, and of failed proofs, in memory.
_MOST: Final = 10_000
#: Number of samples in memory.
_MOST_SAMPLES: Final = 1000
_NOT_FOUND: Final = 404
_OK: Final = 200


class NotPossessed(BlobUnknown):
    """The origin has not got the bytes that are stored under this digest, whatever it says of them."""

    def __init__(self, request: ContentRequest) -> None:
        digest = request.content.digest
        super().__init__(f"the origin of {request.content.repository} does not deliver {digest}")
        if request.content.kind == "manifests":
            self.code = "MANIFEST_UNKNOWN"  # type: ignore[misc]  # one condition, two codes


@frozen
class Sample:
    """What is to be proved of a content of ``size`` bytes: ``expected`` from byte ``offset`` on, or all of it."""

    size: int
    offset: int = 0
    expected: bytes | None = None

    @property
    def range(self) -> str | None:
        """The value of ``Range`` that asks for it."""
        return None if self.expected is None else f"bytes={self.offset}-{self.offset + SAMPLE - 1}"


#: An origin and the digest of bytes that are stored.
_Pair: TypeAlias = tuple[str, Digest]


@frozen
class _Proof:
    """How a proof ended that ran for ``question``: ``error`` says why it failed."""

    question: bytes
    error: CacheError | None


class Possession:
    """
    Knows which origins have which stored bytes, and lets them prove it.

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
        #: Questions for which a proof has failed, and until when none is tried again.
        self._failed: LruCache[bytes, float] = LruCache(_MOST)
        #: The sample of each origin and digest, and until when it stays the same.
        self._samples: LruCache[_Pair, tuple[Sample, float]] = LruCache(_MOST_SAMPLES)
        self._proofs: SingleFlight[Hashable, _Proof] = SingleFlight()

    async def require(self, request: ContentRequest) -> None:
        """
        Return if the origin that is asked has the stored bytes; let it prove that first if that is unknown.

        :raises NotPossessed: it has not.
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
        """It is known, and recorded, that ``origin`` has these bytes."""
        self._known.put((origin, digest), True)

    def forget(self) -> None:
        """The index has been lost: believe nothing that only it knew."""
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
        question = self._authorization.request_key(request)
        self._check_failed(question, request)
        attempt = partial(self._attempt, question, request)
        # A request that came another way shares no proof: in a loop of caches the proof may wait for it.
        proof = await self._proofs.run((pair, request.via), attempt)
        if proof.error is not None and proof.question != question:
            # The refusal, or what came instead of the bytes, was another client's.
            proof = await self._proofs.run(question, attempt)
        if proof.error is not None:
            raise proof.error

    async def _attempt(self, question: bytes, request: ContentRequest) -> _Proof:
        try:
            await self._ask_for_sample(question, request)
        except CacheError as error:
            return _Proof(question, error)
        return _Proof(question, None)

    async def _ask_for_sample(self, question: bytes, request: ContentRequest) -> None:
        origin, digest = request.registry.upstream.origin, request.content.digest
        sample = await self._choose(request)
        asked = self._authorization.request_time()
        try:
            answer = await request.registry.ask(request.upstream_request("GET", range_=sample.range))
        except OriginRefused as refusal:
            if refusal.status == _NOT_FOUND:
                self._fail(question)
            await self._authorization.record_denied(request, refusal, asked=asked)
            raise
        is_page = is_html(answer.header("Content-Type"))
        if not await _is_proved(answer, digest, sample):
            if is_page:
                raise UpstreamBroken(f"{answer.host} answered with a page for people")
            self._fail(question)
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

    def _fail(self, question: bytes) -> None:
        self._failed.put(question, self._clock.seconds() + _FAILED_FOR)

    def _check_failed(self, question: bytes, request: ContentRequest) -> None:
        until = self._failed.peek(question)
        if until is None:
            return
        if self._clock.seconds() < until:
            raise NotPossessed(request)
        self._failed.remove(question)


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
