"""
One connection to the registry behind, over h11.

Twisted's own client returns a response only once its request is written. A registry refuses an upload as soon
as it has read the head; so the two directions are independent here, as they are in h11:

* the response's head is returned when it arrives, while the request's body is still being sent;
* a request's body is written as it arrives from the client, and paused as the connection asks;
* nothing is read beyond the response's head until its body has a receiver.
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
from contentcache.gateway.errors import RegistryBroken
from contentcache.gateway.proxy_request import Field, ProxyRequest, RequestBody

_CONTINUE: Final = 100
#: More than any registry's head has, signed URLs of storages included.
_MAX_HEAD: Final = 64 << 10
#: What clients are told; the log has the rest, with the names of what is behind.
_BROKEN: Final = "the registry behind this gateway broke the connection off; try again soon"
_NOT_HTTP: Final = "the registry behind this gateway answered with something that cannot be used"


class ProxyResponse:
    """
    A response's head, and its body for one receiver (the part of ``IResponse`` that is used).

    Its owner calls :meth:`release` in the end, whatever has happened.
    """

    def __init__(self, connection: ProxyConnection, response: h11.Response, length: int | None) -> None:
        self.code = int(response.status_code)
        self.fields: list[Field] = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw_items()
        ]
        self.headers = Headers()
        for name, value in response.headers:
            self.headers.addRawHeader(name, value)
        self.length: object = length
        #: Whether all of it has arrived.
        self.complete = False
        self._delivered = False
        self._connection = connection

    def values(self, name: str) -> Sequence[str]:
        """All values of a field, each byte as one character: whatever a registry sends can be read."""
        return [value for each, value in self.fields if each.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The first value of a field."""
        return next(iter(self.values(name)), None)

    def deliverBody(self, protocol: Protocol) -> None:
        """
        Write the body to ``protocol``, whose transport can pause and stop it. A second receiver gets nothing:
        the connection may serve another client by then.
        """
        if self._delivered:
            protocol.makeConnection(cast("Any", _EndedProducer()))
            protocol.connectionLost(Failure(ResponseDone()))
            return
        self._delivered = True
        self._connection.deliver(protocol)

    def release(self) -> None:
        """Release the connection, or close it where the body is not complete. May be called twice."""
        if not self._delivered:
            self.deliverBody(Protocol())  # what is there already: of HEAD that is all
        if not self.complete:
            self.complete = True
            self._connection.close()


class _EndedProducer:
    """The transport of a body that was delivered before."""

    def pauseProducing(self) -> None:
        """Nothing is to be done."""

    resumeProducing = stopProducing = pauseProducing


class ProxyConnection(Protocol):
    """One connection with one request at a time; ``on_idle`` is called with it when it can send another."""

    transport: Any

    def __init__(self, on_idle: Callable[[ProxyConnection], None]) -> None:
        self._on_idle = on_idle
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self._waiter: Deferred[ProxyResponse] | None = None
        self._response: ProxyResponse | None = None
        self._receiver: Protocol | None = None
        self._body: RequestBody | None = None
        #: The body of a request that waits for ``100 Continue``.
        self._unsent: RequestBody | None = None
        self._lost = False
        self._closed = False
        #: Whether any byte of the response has arrived.
        self.response_started = False
        #: Bytes of request bodies that have been written.
        self.bytes_sent = 0

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return not (self._lost or self._closed) and self._http.our_state is h11.IDLE

    def request(self, request: ProxyRequest, body: RequestBody | None) -> Deferred[ProxyResponse]:
        """
        Send a request. Fails with :class:`RegistryBroken` where no response arrives, with
        :class:`RequestMalformed` where the client's head cannot be sent, and with what the body fails with.
        Cancelling it closes the connection.
        """
        self.response_started = False
        waiter = self._waiter = Deferred(self._abort)
        fields = [*request.fields, *request.framing(body)]
        if body is not None and request.expects_continue:
            fields.append(("Expect", "100-continue"))
        try:
            head = h11.Request(
                method=request.method, target=request.target, headers=[_encoded(field) for field in fields]
            )
            self.transport.write(self._http.send(head))
        except (h11.LocalProtocolError, UnicodeEncodeError):
            # The registry has received nothing of it, so this says nothing of the registry.
            self._fail(RequestMalformed("this request has a head that cannot be passed on"))
            return waiter
        if body is None:
            self._send(h11.EndOfMessage())
        elif request.expects_continue:
            self._unsent = body
        else:
            self._send_body(body)
        return waiter

    def stop_waiting_for_continue(self) -> None:
        """Send a body that waits for ``100 Continue``."""
        if self._unsent is not None:
            self._send_body(self._unsent)

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        if not self._lost:
            self.transport.abortConnection()

    # The request's body (a BodyReceiver).

    def _send_body(self, body: RequestBody) -> None:
        self._body, self._unsent = body, None
        self.transport.registerProducer(body, True)
        body.deliver(self)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._http.our_state is h11.SEND_BODY:
            self.bytes_sent += len(data)
            self._send(h11.Data(data=data))

    def finish(self) -> None:
        """The body is complete."""
        self._unregister_body()
        if self._http.our_state is h11.SEND_BODY:
            self._send(h11.EndOfMessage())
            self._end_cycle()

    def fail(self, error: CacheError) -> None:
        """The body ends before it is complete."""
        self._unregister_body()
        self._fail(error)

    def _send(self, event: Any) -> None:
        try:
            data = self._http.send(event)
        except h11.LocalProtocolError:
            self._fail(RequestMalformed("this request has a body that cannot be passed on"))
            return
        if data:
            self.transport.write(data)

    def _unregister_body(self) -> None:
        body, self._body = self._body, None
        if body is not None and not self._lost:
            self.transport.unregisterProducer()

    # The response.

    def dataReceived(self, data: bytes) -> None:
        if self._http.our_state is h11.IDLE:
            self.close()  # there is no request: most often it is a 408, and the connection ends
            return
        self.response_started = True
        self._receive(data)

    def deliver(self, receiver: Protocol) -> None:
        """Write the body of the response to ``receiver``."""
        self._receiver = receiver
        receiver.makeConnection(self)
        self.resumeProducing()
        self._receive(None)
        if self._lost:
            self._fail(RegistryBroken(_BROKEN))

    def pauseProducing(self) -> None:
        """Stop reading from the registry for now."""
        if not self._lost:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read from the registry again."""
        if not self._lost:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The receiver wants no more."""
        self._receiver = None
        self.close()

    def _receive(self, data: bytes | None) -> None:
        try:
            if data is not None:
                self._http.receive_data(data)
            while self._process(self._http.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._fail(RegistryBroken(_NOT_HTTP, reason=f"its answer is no HTTP: {error}"))

    def _process(self, event: Any) -> bool:
        """Act on an event; return whether to look for another one."""
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == _CONTINUE:
                self.stop_waiting_for_continue()
            return True
        if isinstance(event, h11.Response):
            # What follows waits in the kernel until the body has a receiver.
            self.transport.pauseProducing()
            waiter, self._waiter = self._waiter, None
            if waiter is not None:
                self._response = ProxyResponse(self, event, _length_of(event))
                waiter.callback(self._response)
            return False
        if isinstance(event, h11.Data):
            if self._receiver is not None:
                self._receiver.dataReceived(bytes(event.data))
            return self._receiver is not None
        if isinstance(event, h11.EndOfMessage):
            receiver, self._receiver = self._receiver, None
            response, self._response = self._response, None
            if response is not None:
                response.complete = True
            self._end_cycle()
            if receiver is not None:
                receiver.connectionLost(Failure(ResponseDone()))
        return False

    def _end_cycle(self) -> None:
        """Where both sides are done: become idle, or close."""
        if self._http.their_state not in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}:
            return
        if self._http.our_state is self._http.their_state is h11.DONE and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
            self.transport.resumeProducing()
            self._on_idle(self)
        elif not self._lost:
            # Also where the response arrived before the body was sent: the registry does not want the rest. And
            # where more arrived than the response: it must not be taken for the response to the next client.
            self._stop_body()
            self.transport.loseConnection()

    # The end.

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._http.their_state is h11.SEND_BODY and reason.check(connectionDone.type) is not None:
            self._receive(b"")  # some responses end with their connection
        why = reason.getErrorMessage().rstrip(".")
        self._fail(RegistryBroken(_BROKEN, reason=f"it broke the connection off: {why}"), reason)

    def _abort(self, _waiter: Deferred[ProxyResponse]) -> None:
        self._waiter = None
        self._stop_body()
        self.close()

    def _fail(self, error: CacheError, reason: Failure | None = None) -> None:
        """Close the connection; what waits for the response, or receives its body, gets the error."""
        self._stop_body()
        waiter, self._waiter = self._waiter, None
        receiver, self._receiver = self._receiver, None
        self.close()
        if waiter is not None:
            waiter.errback(error)
        if receiver is not None:
            receiver.connectionLost(Failure(ResponseFailed([reason or Failure(error)])))

    def _stop_body(self) -> None:
        body = self._body or self._unsent
        self._unregister_body()
        self._unsent = None
        if body is not None:
            body.stopProducing()


def _length_of(response: h11.Response) -> int | None:
    values = [value for name, value in response.headers if name == b"content-length"]
    return int(values[0]) if values else None


def _encoded(field: Field) -> tuple[bytes, bytes]:
    return field[0].encode("latin-1"), field[1].encode("latin-1")
