"""
The question whether a cache lives, over HTTP.
"""

from __future__ import annotations

from typing import Any, Final, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as TooLate
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers

from contentcache.gateway.liveness import NotAlive
from contentcache.tls.server import in_words
from contentcache.upstream.ports import Trust

_HEADERS: Final = Headers({"User-Agent": ["contentcache-gateway"], "Accept": ["*/*"]})


class HttpProbe:
    """
    A :class:`~contentcache.gateway.liveness.Probe`: any 2xx within ``patience`` seconds is a yes.

    No redirect is followed, no body read, and each question has a connection of its own: what is to
    be known is whether a client could make one. ``trust`` is whom we believe: the system's roots and ``cas``.
    """

    def __init__(
        self, reactor: Any, trust: Trust, *, connect_timeout: float = 3.0, patience: float = 5.0
    ) -> None:
        self._reactor = reactor
        self._patience = patience
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent = Agent(reactor, cast("Any", trust), connectTimeout=connect_timeout, pool=pool)

    async def __call__(self, host: str, /) -> None:
        asking: Deferred[Any] = self._agent.request(b"GET", f"{host}/".encode("ascii"), _HEADERS)
        too_slow = self._reactor.callLater(self._patience, asking.cancel)
        try:
            response = await asking
        except Exception as error:
            if not too_slow.active():
                raise NotAlive(f"no answer within {self._patience:g} s") from None
            if _is_cancelled(error):  # it is we who are not wanted any longer
                raise CancelledError from None
            raise NotAlive(_in_words(error)) from error
        finally:
            if too_slow.active():
                too_slow.cancel()
        _hang_up(response)
        if not 200 <= response.code < 300:  # noqa: PLR2004  # as RFC 9110 §15.3 has them
            raise NotAlive(f"it answers with status {response.code}")


def _hang_up(response: Any) -> None:
    """
    The head was all that is wanted.
    """
    transport = getattr(response, "_transport", None)
    stop = getattr(transport, "abortConnection", None) or getattr(transport, "loseConnection", None)
    if stop is not None:
        stop()


def _is_cancelled(error: Exception) -> bool:
    """
    Whether somebody has given the question up, at whichever stage of it.
    """
    if isinstance(error, ResponseFailed | ResponseNeverReceived):
        return any(_is_cancelled(reason.value) for reason in error.reasons)
    return isinstance(error, CancelledError | ConnectingCancelledError)


def _in_words(error: Exception) -> str:
    """
    What went wrong, in a sentence that needs no knowledge of the program.
    """
    if isinstance(error, ResponseFailed | ResponseNeverReceived) and error.reasons:
        return _in_words(error.reasons[0].value)
    if isinstance(error, DNSLookupError):
        return "its name is not known"
    if isinstance(error, TooLate):
        return "it cannot be connected to in time"
    if isinstance(error, ConnectError):
        return f"it cannot be connected to: {error.__class__.__doc__ or error}"
    if isinstance(error, ConnectionLost | ConnectionDone):
        return "it hangs up"
    if isinstance(error, SSL.Error):
        return f"it does not speak TLS as it should: {in_words(error)}"
    return str(error) or error.__class__.__name__
