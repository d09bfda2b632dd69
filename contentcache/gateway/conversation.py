"""
The client's side of a connection to the registry behind, over h11.

Twisted's own client gives an answer out only once its request is written. A registry refuses an upload as
soon as it has seen the head; so here the two directions are independent, as h11 knows them to be:

* the answer's head is given out when it comes, the request's body goes on meanwhile;
* a body is written as it comes in, and paused as the connection asks;
* nothing is read beyond the answer's head until somebody takes its body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import h11
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers

from contentcache.core.errors import CacheError, RequestMalformed
from contentcache.gateway.bodies import RequestBody
from contentcache.gateway.faults import RegistryBroken
from contentcache.gateway.question import Field, Question, framing

_CONTINUE: Final = 100
#: More than any registry's head has, signed URLs of storages included.
_LARGEST_HEAD: Final = 64 << 10
#: What clients are told; the log has the rest, with the names of what is behind.
_BROKEN: Final = "the registry behind this gateway broke the connection off; try again soon"
_NOT_HTTP: Final = "the registry behind this gateway answered with something that cannot be used"


class Reply:
    """
    An answer's head, and its body for one taker (as ``IResponse``, as much of it as is used).

    Whoever has it calls :meth:`release` in the end, whatever has become of it.
    """

    def __init__(self, conversation: Conversation, response: h11.Response, length: int | None) -> None:
        self.code = int(response.status_code)
        self.fields: list[Field] = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw_items()
        ]
        self.headers = Headers()
        for name, value in response.headers:
            self.headers.addRawHeader(name, value)
        self.length: object = length
        #: Whether all of it has come.
        self.complete = False
        self._delivered = False
        self._conversation = conversation

    def values(self, name: str) -> Sequence[str]:
        """All values of a field, each byte as one character: whatever a registry sends, they can be read."""
        return [value for each, value in self.fields if each.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The first value of a field."""
        return next(iter(self.values(name)), None)

    def deliverBody(self, protocol: Protocol) -> None:
        """
        Give the body to ``protocol``; its transport can pause it, and give it up. Once it has been taken or
        released there is none: the connection may be another client's by then.
        """
        if self._delivered:
            protocol.makeConnection(cast("Any", _Nowhere()))
            protocol.connectionLost(Failure(ResponseDone()))
            return
        self._delivered = True
        self._conversation.deliver(protocol)

    def release(self) -> None:
        """Give the connection back, or end it where the body has not come to its end. May be called twice."""
        if not self._delivered:
            self.deliverBody(Protocol())  # what is there already: of HEAD that is all
        if not self.complete:
            self.complete = True
            self._conversation.close()


class _Nowhere:
    """What a body comes from that does not come any more."""

    def pauseProducing(self) -> None:
        """Nothing."""

    def resumeProducing(self) -> None:
        """Nothing."""

    def stopProducing(self) -> None:
        """Nothing."""


class Conversation(Protocol):
    """One connection, one question at a time. ``idle`` is called with it when another can be asked."""

    transport: Any

    def __init__(self, idle: Callable[[Conversation], None]) -> None:
        self._idle = idle
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEAD)
        self._answer: Deferred[Reply] | None = None
        self._reply: Reply | None = None
        self._receiver: Protocol | None = None
        self._body: RequestBody | None = None
        self._unsent: RequestBody | None = None
        self._lost = False
        self._closed = False
        #: Whether anything of an answer has come.
        self.heard = False
        #: Bytes of request bodies that have been written.
        self.sent = 0

    @property
    def usable(self) -> bool:
        """Whether a question can be asked."""
        return not (self._lost or self._closed) and self._http.our_state is h11.IDLE

    def ask(self, question: Question, body: RequestBody | None) -> Deferred[Reply]:
        """
        Send a question. Fails with :class:`RegistryBroken` where no answer comes, with
        :class:`RequestMalformed` where the client's head cannot be sent, and with what the body fails with.
        Cancelled, it ends the connection.
        """
        self.heard = False
        answer = self._answer = Deferred(self._give_up)
        fields = [*question.fields, *framing(question, body)]
        if body is not None and question.expects:
            fields.append(("Expect", "100-continue"))
        try:
            head = h11.Request(
                method=question.method, target=question.target, headers=[_encoded(field) for field in fields]
            )
            self.transport.write(self._http.send(head))
        except (h11.LocalProtocolError, UnicodeEncodeError):
            # The registry has seen nothing of it, so this says nothing of the registry.
            self._fail(RequestMalformed("this request has a head that cannot be passed on"))
            return answer
        if body is None:
            self._say(h11.EndOfMessage())
        elif question.expects:
            self._unsent = body
        else:
            self._send(body)
        return answer

    def send_body(self) -> None:
        """Wait no longer for the registry to say that it wants the body."""
        if self._unsent is not None:
            self._send(self._unsent)

    def close(self) -> None:
        """End the connection."""
        self._closed = True
        if not self._lost:
            self.transport.abortConnection()

    # The request's body (a Taker).

    def _send(self, body: RequestBody) -> None:
        self._body, self._unsent = body, None
        self.transport.registerProducer(body, True)
        body.deliver(self)

    def write(self, data: bytes) -> None:
        """A piece of the body."""
        if self._http.our_state is h11.SEND_BODY:
            self.sent += len(data)
            self._say(h11.Data(data=data))

    def finish(self) -> None:
        """The body is whole."""
        self._release()
        if self._http.our_state is h11.SEND_BODY:
            self._say(h11.EndOfMessage())
            self._settle()

    def fail(self, error: CacheError) -> None:
        """The rest of the body will not come."""
        self._release()
        self._fail(error)

    def _say(self, event: Any) -> None:
        try:
            data = self._http.send(event)
        except h11.LocalProtocolError:
            self._fail(RequestMalformed("this request has a body that cannot be passed on"))
            return
        if data:
            self.transport.write(data)

    def _release(self) -> None:
        body, self._body = self._body, None
        if body is not None and not self._lost:
            self.transport.unregisterProducer()

    # The answer.

    def dataReceived(self, data: bytes) -> None:
        if self._http.our_state is h11.IDLE:
            self.close()  # nobody has asked: most often it is a 408, and the connection ends
            return
        self.heard = True
        self._take(data)

    def deliver(self, receiver: Protocol) -> None:
        """Give the body of the answer to ``receiver``."""
        self._receiver = receiver
        receiver.makeConnection(self)
        self.resumeProducing()
        self._take(None)
        if self._lost:
            self._fail(RegistryBroken(_BROKEN))

    def pauseProducing(self) -> None:
        """The answer's taker has enough for now."""
        if not self._lost:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The answer's taker wants more."""
        if not self._lost:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The answer's taker wants no more."""
        self._receiver = None
        self.close()

    def _take(self, data: bytes | None) -> None:
        try:
            if data is not None:
                self._http.receive_data(data)
            while self._next(self._http.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._fail(RegistryBroken(_NOT_HTTP, reason=f"its answer is no HTTP: {error}"))

    def _next(self, event: Any) -> bool:
        """Act on an event; whether to look for another one."""
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == _CONTINUE:
                self.send_body()
            return True
        if isinstance(event, h11.Response):
            # What follows waits in the kernel until somebody takes it.
            self.transport.pauseProducing()
            answer, self._answer = self._answer, None
            if answer is not None:
                self._reply = Reply(self, event, _length_of(event))
                answer.callback(self._reply)
            return False
        if isinstance(event, h11.Data):
            if self._receiver is not None:
                self._receiver.dataReceived(bytes(event.data))
            return self._receiver is not None
        if isinstance(event, h11.EndOfMessage):
            receiver, self._receiver = self._receiver, None
            reply, self._reply = self._reply, None
            if reply is not None:
                reply.complete = True
            self._settle()
            if receiver is not None:
                receiver.connectionLost(Failure(ResponseDone()))
        return False

    def _settle(self) -> None:
        """Where both sides are done: go on to the next question, or end."""
        if self._http.their_state not in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}:
            return
        if self._http.our_state is self._http.their_state is h11.DONE and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
            self.transport.resumeProducing()
            self._idle(self)
        elif not self._lost:
            # Also where the answer came before the body had gone: the registry does not want the rest. And
            # where more has come than the answer: that must not be taken for the answer to the next client.
            self._stop_body()
            self.transport.loseConnection()

    # The end.

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._http.their_state is h11.SEND_BODY and reason.check(*_CLEAN) is not None:
            self._take(b"")  # some answers end with their connection
        why = reason.getErrorMessage().rstrip(".")
        self._fail(RegistryBroken(_BROKEN, reason=f"it broke the connection off: {why}"), reason)

    def _give_up(self, _answer: Deferred[Reply]) -> None:
        self._answer = None
        self._stop_body()
        self.close()

    def _fail(self, error: CacheError, reason: Failure | None = None) -> None:
        """Nothing more comes of this connection."""
        self._stop_body()
        answer, self._answer = self._answer, None
        receiver, self._receiver = self._receiver, None
        self.close()
        if answer is not None:
            answer.errback(error)
        if receiver is not None:
            receiver.connectionLost(Failure(ResponseFailed([reason or Failure(error)])))

    def _stop_body(self) -> None:
        body = self._body or self._unsent
        self._release()
        self._unsent = None
        if body is not None:
            body.stopProducing()


_CLEAN: Final = (connectionDone.type,)


def _length_of(response: h11.Response) -> int | None:
    values = [value for name, value in response.headers if name == b"content-length"]
    return int(values[0]) if values else None


def _encoded(field: Field) -> tuple[bytes, bytes]:
    return field[0].encode("latin-1"), field[1].encode("latin-1")
