"""One request and its response, in the terms of the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from twisted.internet.interfaces import IPushProducer
from twisted.web.http import datetimeToString
from zope.interface import implementer

from contentcache.aio.condition import Condition
from contentcache.core.errors import CacheError, OriginRefused, RequestMalformed
from contentcache.core.header_policy import Headers, first, lines_of
from contentcache.core.ports import Timer
from contentcache.core.routes import split_target
from contentcache.server.channel import ServerRequest
from contentcache.server.errors import EVERYWHERE, as_answer, phrase
from contentcache.server.public_name import Caller, PublicName
from contentcache.server.stall_timer import Watch
from contentcache.wire.sendfile import can_send_files

_MOST_PARAMETERS: Final = 32
#: Where nothing more is to be said of the cache's part (RFC 9211 §2).
_NO_PART: Final = "contentcache"


@implementer(IPushProducer)
class Exchange:
    """
    Reads a request, writes its response, and knows how fast the client takes it.

    ``patience`` is for how many seconds a client may take nothing.
    """

    def __init__(self, request: ServerRequest, timer: Timer, patience: float) -> None:
        self._request = request
        self._watch = Watch(request.channel.transport, timer, patience, request.channel.forceAbortClient)
        self._paused = False
        self._condition = Condition()
        self._streaming = False
        #: The ``Via`` of the response, where it has one.
        self.answer_via: Callable[[], str] | None = None
        self.method: str = request.method.decode("latin-1")
        self.path, self._query, authority = split_target(request.uri.decode("latin-1"))
        self.host = (authority or self.header("Host") or "").lower()
        #: Who calls, once :meth:`identify_caller` knows better than the connection.
        self.caller = Caller(getattr(request.channel, "address", ""), self.host, "")

    # The request.

    @property
    def request(self) -> ServerRequest:
        """Twisted's own, for the log."""
        return self._request

    def header(self, name: str) -> str | None:
        """The value of a header; several are joined (RFC 9110 §5.3)."""
        values = self.values(name)
        return ", ".join(values) if values else None

    def values(self, name: str) -> tuple[str, ...]:
        """All values of a header."""
        found = self._request.requestHeaders.getRawHeaders(name.encode("ascii")) or ()
        return tuple(value.decode("latin-1") for value in found)

    def identify_caller(self, name: PublicName) -> None:
        """
        Look at what trusted proxies say of the client; from then on that is its address and the host it has
        asked.
        """
        self.caller = name.caller(
            self.caller.address,
            self.host,
            forwarded_for=self.values("X-Forwarded-For"),
            forwarded_proto=self.header("X-Forwarded-Proto"),
            forwarded_host=self.header("X-Forwarded-Host"),
        )
        self.host = self.caller.host
        self._request.client_address = self.caller.address

    @property
    def raw_query(self) -> str:
        """The query as it came, without its question mark."""
        return self._query

    def tokens(self) -> tuple[str, ...]:
        """
        The tokens of a signed URL: one, unless somebody plays tricks. What is no UTF-8 in them is replaced.

        :raises RequestMalformed: the query has too many parameters.
        """
        return tuple(self.query(lenient=True).get("token", ()))

    def query(self, *, lenient: bool = False) -> dict[str, list[str]]:
        """
        The decoded query; where it may be ``lenient``, with replacements for what is not UTF-8.

        :raises RequestMalformed: it is not UTF-8, or has too many parameters.
        """
        try:
            return parse_qs(
                self._query,
                keep_blank_values=True,
                max_num_fields=_MOST_PARAMETERS,
                errors="replace" if lenient else "strict",
            )
        except ValueError as error:
            raise RequestMalformed("the query cannot be read") from error

    # The response.

    @property
    def started(self) -> bool:
        """Whether the head of the response has gone out."""
        return bool(self._request.startedWriting)

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the response any more."""
        return self._request.channel is None

    def start(self, status: int, headers: Headers) -> None:
        """Send the head, at once."""
        request = self._request
        request.setResponseCode(status, phrase(status).encode("ascii"))
        request.cache_status = first(headers, "Cache-Status") or _NO_PART
        fields = request.responseHeaders
        fields.setRawHeaders("Date", [datetimeToString()])
        for name, value in EVERYWHERE.items():
            fields.setRawHeaders(name, [value])
        fields.setRawHeaders("Cache-Status", [request.cache_status])
        if self.answer_via is not None:
            fields.setRawHeaders("Via", [self.answer_via()])
        for name, values in headers.items():
            # As they came: an origin's bytes that are no ASCII were read as latin-1.
            lines = [line.encode("latin-1", "replace") for line in lines_of(values)]
            fields.setRawHeaders(name.encode("ascii"), lines)
        request.write(b"")

    def reply(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole response that is at hand. ``HEAD`` gets the same head and no body."""
        length = {} if status in {204, 304} else {"Content-Length": str(len(body))}
        self.start(status, {**length, **headers})
        if body:
            self._request.write(body)
        self.finish()

    def fail(self, error: CacheError) -> None:
        """Send an error, or end short if it is too late for one."""
        if self.started:
            self.end_short()
            return
        answer = as_answer(error)
        if self.method == "HEAD" and isinstance(error, OriginRefused) and not error.body:
            # The origin's body was not asked for, so its length is not known.
            self.start(answer.status, answer.headers)
            self.finish()
            return
        self.reply(answer.status, answer.headers, answer.body)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._request.write(data)

    def finish(self) -> None:
        """The response is whole."""
        self._stop_streaming()
        if not self.gone:
            self._request.finish()

    def end_short(self) -> None:
        """The response ends before its end."""
        self._stop_streaming()
        self._request.end_short()

    # How fast the client takes it.

    def stream(self) -> None:
        """Be told by the transport when to pause."""
        # True: a push producer. The transport then calls pauseProducing() once its buffer is full, and
        # resumeProducing() once it is empty, and nothing of ours runs in between.
        self._streaming = True
        self._request.registerProducer(self, True)

    async def ready(self) -> None:
        """Wait until the client takes more."""
        while self._paused:
            await self._condition.wait()

    def can_send_files(self) -> bool:
        """Whether the body can go out straight from a file."""
        request = self._request
        return (
            not request.chunked and request.channel is not None and can_send_files(request.channel.transport)
        )

    async def send_file(self, descriptor: int, start: int, stop: int) -> int:
        """Send a piece of the body from an open file whose pages are in memory; answers its length in bytes."""
        self._watch.start()
        try:
            sent: int = await self._request.channel.transport.send_file(descriptor, start, stop)
        finally:
            self._watch.stop()
        self._request.sentLength += sent
        return sent

    async def send_by_pool(self, descriptor: int, start: int, stop: int) -> int:
        """
        Let a thread send a piece of the body, as long as the client takes it as it comes; answers how many
        bytes went out, 0 where no thread is free or the client is not fast.
        """
        transport = self._request.channel.transport
        if not transport.may_use_pool():
            return 0
        sent: int = await transport.send_by_pool(descriptor, start, stop)
        self._request.sentLength += sent
        return sent

    def pauseProducing(self) -> None:
        # A client that takes nothing will not notice how this ends: the watch need not be gentle.
        self._paused = True
        self._watch.start()

    def resumeProducing(self) -> None:
        self._paused = False
        self._watch.stop()
        self._condition.notify_all()

    def stopProducing(self) -> None:
        """The connection is lost; whoever answers is cancelled by that."""
        self._watch.stop()

    def release(self) -> None:
        """The response has ended, in whichever way: nothing looks at the client any more."""
        self._stop_streaming()

    def _stop_streaming(self) -> None:
        self._watch.stop()
        if self._streaming and not self.gone:
            self._streaming = False
            self._request.unregisterProducer()
