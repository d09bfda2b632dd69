"""Look at the place that a registry redirects to, before its redirect counts for anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.web.http_headers import Headers

from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.core.ports import Timer
from contentcache.gateway.blob_answers import SNIFFED, total_size
from contentcache.upstream.agent import UpstreamTransport, why
from contentcache.upstream.answers import Answer, Inflow

_OK: Final = 200


@frozen
class TargetAnswer:
    """
    What the target answered to ``GET`` of the first byte: ``begun`` has what came of the body, where the head
    has no ``media_types`` that could tell; ``size`` is that of the blob in bytes, if it is said.
    """

    status: int
    media_types: Sequence[str] = ()
    size: int | None = None
    begun: bytes = field(default=b"", repr=False)


class RedirectTarget(Protocol):
    """Whatever a registry redirects to."""

    async def first_byte(self, location: str, /) -> TargetAnswer:
        """
        Ask for the first byte at ``location``, without any credentials.

        :raises CacheError: there is no answer, or the place must not be asked.
        """


class FollowedTarget:
    """
    A :class:`RedirectTarget` for the registry that ``transport`` leads to, under the rules by which a cache
    follows its redirects. ``timeout`` is in seconds, and counts for everything together.
    """

    def __init__(self, transport: UpstreamTransport, registry: str, timer: Timer, *, timeout: float) -> None:
        self._transport = transport
        self._registry = registry
        self._timer = timer
        self._timeout = timeout

    async def first_byte(self, location: str, /) -> TargetAnswer:
        """Ask (:class:`RedirectTarget`)."""
        try:
            return await with_timeout(self._timer, self._timeout, self._ask(location))
        except (CacheError, CancelledError):
            raise
        except DeadlineError as error:
            raise UpstreamTimeout("the storage behind the registry did not answer in time") from error
        except Exception as error:
            raise UpstreamUnavailable(f"the storage cannot be reached: {why(error)}") from error

    async def _ask(self, location: str) -> TargetAnswer:
        url = self._transport.policy.follow(self._registry + "/v2/", location.encode("latin-1"))
        headers = Headers({"Range": ["bytes=0-0"], "Accept": ["*/*"]})
        followed = await self._transport.fetch_following("GET", url, headers)
        response: Any = followed.response
        answer = Answer(self._registry, response.code, True, response, self._timer, self._timeout)
        fields: Headers = response.headers

        def values(name: bytes) -> list[str]:
            return [value.decode("latin-1") for value in fields.getRawHeaders(name) or ()]

        media_types = [each for each in values(b"Content-Type") if each.strip()]
        lengths = [answer.length] if answer.status == _OK else map(total_size, values(b"Content-Range"))
        size = next(iter(lengths), None)
        if answer.status == _OK and not media_types:
            return TargetAnswer(answer.status, (), size, await first_bytes(answer, SNIFFED))
        answer.abandon()
        return TargetAnswer(answer.status, media_types, size)


async def first_bytes(answer: Answer, count: int) -> bytes:
    """
    The first ``count`` bytes of a body, without its coding, or as many as come; the rest is not waited for.

    :raises UpstreamBroken, UpstreamTimeout: nothing of it can be read.
    """
    try:
        answer.decode()
    except UpstreamBroken:
        answer.abandon()
        raise
    begun = bytearray()

    def received(inflow: Inflow, data: bytes) -> None:
        begun.extend(data)
        if len(begun) > count:
            inflow.abandon()

    inflow = answer.stream(received)
    try:
        await inflow.ended
    except (UpstreamBroken, UpstreamTimeout):
        if not begun:
            raise
        # What has come is what there is to look at.
    finally:
        inflow.abandon()
    return bytes(begun[:count])
