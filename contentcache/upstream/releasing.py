"""
What an upstream has sent is released when nobody refers to it any more.

A response whose body nobody takes keeps its connection, with its descriptor, for ever; and an answer to a
download its slot at the host. Code that gets a response may raise anything at any line, or be cancelled. So
responses and answers release themselves: as the last reference to one goes, whatever the reason, its body is
stopped. Whoever takes the body, or abandons it, has released it earlier.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.protocol import Protocol
from twisted.python import threadable
from twisted.python.components import proxyForInterface
from twisted.web.iweb import IResponse


def release_with(owner: object, release: Callable[[], None], clock: object) -> None:
    """
    Call ``release`` in the reactor's thread when nobody refers to ``owner`` any more.

    ``release`` must not refer to ``owner``. ``clock`` is the reactor, or a test's clock.
    """
    weakref.finalize(owner, _in_reactor_thread, release, clock).atexit = False


def _in_reactor_thread(release: Callable[[], None], clock: object) -> None:
    # The last reference may go with a cycle, which is collected in whichever thread allocates memory.
    if IReactorFromThreads.providedBy(clock) and not threadable.isInIOThread():
        from_threads: Any = clock
        from_threads.callFromThread(release)
    else:
        release()


class _Stop(Protocol):
    """Wants nothing of a body."""

    def connectionMade(self) -> None:
        """Stop it."""
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()


class _Body:
    """The body of one response. ``taken`` says that somebody reads it or has let it go."""

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
    """A response whose connection is closed if nobody takes its body."""

    def __init__(self, original: Any, clock: object) -> None:
        super().__init__(original)
        self._body = _Body(original)
        release_with(self, self._body.release, clock)

    def deliverBody(self, protocol: Any) -> None:
        """Let the body come in."""
        self._body.deliver(protocol)
