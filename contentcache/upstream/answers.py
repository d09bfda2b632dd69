"""Answers of an upstream: a head that is safe to pass on, and a body that is never held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.web.http_headers import Headers

from contentcache.core import header_policy
from contentcache.core.errors import UpstreamBroken
from contentcache.core.ports import Timer
from contentcache.core.ranges import parse_length
from contentcache.upstream.content_coding import Decoder, content_codings
from contentcache.upstream.inflow import Inflow, Received
from contentcache.upstream.responses import release_with

T = TypeVar("T")

#: Header in which our agent puts ``Content-Encoding``, so that only an answer decodes a body.
CODINGS: Final = b"Contentcache-Content-Encoding"


class Response(Protocol):
    """The response of treq to an unbuffered request."""

    @property
    def code(self) -> int: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def length(self) -> object: ...

    def deliverBody(self, protocol: TwistedProtocol, /) -> object: ...


def is_html(media_type: str | None) -> bool:
    """
    Whether an answer is a page for people, whatever its status says: a login page, a proxy's error.

    >>> is_html("text/html; charset=utf-8"), is_html("application/json"), is_html(None)
    (True, False, False)
    """
    essence = (media_type or "").partition(";")[0].strip().lower()
    return essence in {"text/html", "application/xhtml+xml"}


class AnswerTooLarge(UpstreamBroken):
    """A body that was to be held in memory has more bytes than it may."""


class _Incoming:
    """The body of an answer, which is streamed once, or released."""

    def __init__(self, response: Response, clock: Timer, stall_timeout: float) -> None:
        self.decoder: Decoder | None = None
        self.count: Callable[[float], object] | None = None
        self.then: list[Callable[[], None]] = []
        self._response = response
        self._clock = clock
        self._stall_timeout = stall_timeout
        self._streamed = False

    def stream(self, received: Received) -> Inflow:
        self._streamed = True
        inflow = Inflow(received, self._clock, self._stall_timeout, self.decoder)
        inflow.count = self.count
        for call in self.then:
            inflow.ended.addBoth(_pass_on, call)
        self._response.deliverBody(inflow)
        return inflow

    def abandon(self) -> None:
        self.decoder = None
        inflow = self.stream(lambda _inflow, _data: None)
        inflow.ended.addErrback(lambda _failure: None)
        inflow.abandon()

    def release(self) -> None:
        if not self._streamed:
            self.abandon()


@frozen
class Answer:
    """
    An answer of ``host``. ``redirected`` says that the registry itself answered with a redirect: then
    ``status`` and headers are the target's, or the redirect's own where it was not followed. ``moved`` says
    the same, and is true for a redirect to the registry's own host too; ``target`` is the other host that the
    redirect leads to. ``is_head`` says that it answers a ``HEAD``.
    """

    host: str
    status: int
    redirected: bool
    _response: Response = field(repr=False)
    _clock: Timer = field(repr=False)
    _stall_timeout: float = field(repr=False)
    is_head: bool = False
    moved: bool = False
    target: str | None = None
    _incoming: _Incoming = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        incoming = _Incoming(self._response, self._clock, self._stall_timeout)
        object.__setattr__(self, "_incoming", incoming)  # attrs' way for frozen classes
        release_with(self, incoming.release, self._clock)

    def then(self, call: Callable[[], None]) -> Answer:
        """
        Call ``call`` once the body has ended, was cut short or abandoned, or once nothing refers to an answer
        whose body was not streamed.
        """
        self._incoming.then.append(call)
        return self

    def counted_by(self, count: Callable[[float], object]) -> Answer:
        """Have ``count`` called with the number of bytes of each piece of the body, as it arrives."""
        self._incoming.count = count
        return self

    @property
    def codings(self) -> Sequence[str]:
        """The codings in which upstream sent the body although it was asked for none, the last one last."""
        values = self._response.headers.getRawHeaders(CODINGS) or ()
        return content_codings([value.decode("latin-1") for value in values])

    @property
    def is_readable(self) -> bool:
        """Whether the body has no coding, or is decoded."""
        return not self.codings or self._incoming.decoder is not None

    def decode(self) -> None:
        """
        Decode the body while it is received, if it has a coding.

        :raises UpstreamBroken: the coding is not known.
        """
        if self.codings:
            self._incoming.decoder = Decoder(self.codings)

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        values = self.values(name)
        return values[0] if values else None

    @property
    def length(self) -> int | None:
        """
        The length of the body in bytes, or for ``HEAD`` that which the body would have; ``None`` where it is
        unknown.
        """
        if self.codings and (self.is_head or self._incoming.decoder is not None):
            return None  # it is the length of the compressed body
        named = parse_length(self.header("Content-Length"))
        if named is not None or self.is_head:
            # For a HEAD Twisted's client says 0: the length of its own body, and not of a GET's.
            return named
        # Twisted's client removes the header from a response that has a body.
        length = self._response.length
        return length if isinstance(length, int) else None

    @property
    def is_page(self) -> bool:
        """Whether it is a page for people: a login, a portal, a proxy's error."""
        return is_html(self.header("Content-Type"))

    def values(self, name: str) -> Sequence[str]:
        """All values of a header. Bytes that are no ASCII are read as latin-1 (RFC 9110 §5.5)."""
        # By bytes: Twisted decodes what is asked for by text as UTF-8, and raises where it is none.
        values = self._response.headers.getRawHeaders(name.encode("ascii")) or ()
        return tuple(value.decode("latin-1") for value in values)

    def passed_headers(self) -> header_policy.Headers:
        """The headers that may reach a client."""
        return header_policy.passed(self._response.headers.getAllRawHeaders())

    def notices(self) -> header_policy.Headers:
        """Headers about the request itself: warnings and rate limits."""
        return header_policy.passed(self._response.headers.getAllRawHeaders(), notices_only=True)

    def stream(self, received: Received) -> Inflow:
        """Receive the body. To be called once."""
        return self._incoming.stream(received)

    def abandon(self) -> None:
        """Stop the body without reading it."""
        self._incoming.abandon()

    async def read(self, limit: int) -> bytes:
        """
        The whole body, for small ones.

        :raises AnswerTooLarge: it has more than ``limit`` bytes.
        :raises UpstreamBroken: it is cut short.
        :raises UpstreamTimeout: it stalls.
        """
        pieces: list[bytes] = []
        size = 0
        too_long = False

        def received(inflow: Inflow, data: bytes) -> None:
            nonlocal size, too_long
            size += len(data)
            if size > limit:
                too_long = True
                inflow.abandon()
            else:
                pieces.append(data)

        inflow = self.stream(received)
        try:
            await inflow.ended
        except CancelledError:
            inflow.abandon()
            raise
        except UpstreamBroken:
            if too_long:
                raise AnswerTooLarge(f"upstream's answer is larger than {limit} bytes") from None
            raise
        return b"".join(pieces)


def _pass_on(result: T, call: Callable[[], None]) -> T:
    call()
    return result


def check_coding(answer: Answer, method: str, kind: str) -> None:
    """
    Let what is compressed be decoded, or refuse it.

    :raises UpstreamBroken: it cannot be decoded, or is a blob, whose bytes must come as they are.
    """
    if not answer.codings or method == "HEAD":
        return
    if answer.status >= 400:  # noqa: PLR2004
        with suppress(UpstreamBroken):  # then the status and the headers have to say enough
            answer.decode()
    elif kind != "blobs":
        try:
            answer.decode()
        except UpstreamBroken:
            answer.abandon()
            raise
    elif not answer.redirected:
        # Storage says so of objects that were stored compressed, and sends them as they are, with the right
        # digest. A proxy before a registry compresses what it passes on: its ranges and lengths are of other
        # bytes than those that were asked for.
        codings = ", ".join(answer.codings)[:100]
        answer.abandon()
        raise UpstreamBroken(
            f"{answer.host} compresses blobs (Content-Encoding: {codings!r}) although it was asked not to, so"
            " that they have another digest; turn that off at the registry or the proxy before it"
        )
