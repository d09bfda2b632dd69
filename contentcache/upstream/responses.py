"""
Responses of an upstream: heads of bounded size, connections that are released, why there is none.

Twisted's client bounds a line of a head and not their number, so that an upstream that never stops sending
headers would fill the memory until the timeout.

A response whose body nobody reads keeps its connection, with its descriptor, for ever; and an answer to a
download its permit of the host. Code that gets a response may raise anything at any line, or be cancelled. So
responses and answers release themselves: when the last reference to one is dropped, whatever the reason, its
body is stopped.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.protocol import Protocol
from twisted.python import threadable
from twisted.python.components import proxyForInterface
from twisted.python.failure import Failure
from twisted.web._newclient import BODY, DONE, HTTP11ClientProtocol, ParseError
from twisted.web.client import HTTPConnectionPool
from twisted.web.iweb import IResponse

#: Bytes of a head, interim responses (1xx) included: eight times what a client may send.
LARGEST_HEAD: Final = 128 << 10


class BoundedHeads(HTTP11ClientProtocol):
    """A connection that is aborted when a head is too large, as if it was lost while upstream answered."""

    _head = 0

    def dataReceived(self, data: bytes) -> None:
        """Count the bytes of a head."""
        super().dataReceived(data)
        parser = self._parser
        if parser is None or parser.state in {BODY, DONE}:
            self._head = 0
            return
        self._head += len(data)
        transport: Any = self.transport
        if self._head > LARGEST_HEAD and transport is not None:
            transport.abortConnection()


def bound_heads(pool: HTTPConnectionPool) -> None:
    """Bound the heads on all connections of a pool."""

    class Factory(pool._factory):  # type: ignore[misc,name-defined]  # noqa: SLF001  # Twisted offers no other way
        noisy = False  # as Twisted's own factory is: no log line for each connection

        def buildProtocol(self, _address: object) -> BoundedHeads:
            return BoundedHeads(self._quiescentCallback)

    pool._factory = Factory  # noqa: SLF001


def release_with(owner: object, release: Callable[[], None], clock: object) -> None:
    """
    Call ``release`` in the reactor's thread when the last reference to ``owner`` is dropped.

    ``release`` must not refer to ``owner``. ``clock`` is the reactor, or a test's clock.
    """
    weakref.finalize(owner, _in_reactor_thread, release, clock).atexit = False


def _in_reactor_thread(release: Callable[[], None], clock: object) -> None:
    # The last reference may be part of a cycle, which is collected in whichever thread allocates memory.
    if IReactorFromThreads.providedBy(clock) and not threadable.isInIOThread():
        from_threads: Any = clock
        from_threads.callFromThread(release)
    else:
        release()


class _Stop(Protocol):
    """Stops a body at once."""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()


class _Body:
    """The body of one response. ``taken`` says that it was read or stopped."""

    def __init__(self, response: Any) -> None:
        self.taken = False
        self._response = response

    def deliver(self, protocol: Any) -> None:
        self.taken = True
        self._response.deliverBody(protocol)

    def release(self) -> None:
        if not self.taken:
            self.deliver(_Stop())


class OwnedResponse(proxyForInterface(IResponse)):  # type: ignore[misc]  # made by a function without types
    """A response whose connection is closed if nobody reads its body."""

    def __init__(self, original: Any, clock: object) -> None:
        super().__init__(original)
        self._body = _Body(original)
        release_with(self, self._body.release, clock)

    def deliverBody(self, protocol: Any) -> None:
        """Deliver the body (``IResponse``)."""
        self._body.deliver(protocol)


def is_malformed(error: BaseException) -> bool:
    """Whether there is no response because what came is none in HTTP."""
    reasons = getattr(error, "reasons", None)
    first = reasons[0].value if isinstance(reasons, list) and reasons else None
    # Twisted's parser raises some of Python's own errors.
    return isinstance(first, ParseError | ValueError | LookupError)


def why(error: BaseException | Failure) -> str:
    """
    What went wrong with a request, as a clause for people.

    Twisted wraps the errors of a connection in lists of reasons; the first one is shown.

    >>> from twisted.internet.error import TimeoutError as ConnectTimeout
    >>> why(ConnectTimeout(string="r.example does not answer within 10 s"))
    'r.example does not answer within 10 s'
    """
    if isinstance(error, Failure):
        return why(error.value or CancelledError())
    reasons = getattr(error, "reasons", None)
    if is_malformed(error):
        return "what came is no valid HTTP response"
    if isinstance(reasons, list) and reasons:
        return why(reasons[0])
    if isinstance(error, CancelledError):
        return "the request was given up"
    text = str(error).rstrip(".")
    # Twisted's errors begin with their own first line of documentation: "…: what we said".
    documented = (type(error).__doc__ or "").strip().rstrip(".")
    return text.removeprefix(documented).lstrip(".: ") or text or type(error).__name__
