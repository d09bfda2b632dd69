"""The question whether a cache serves what this gateway signs, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    DNSLookupError,
)
from twisted.internet.error import TimeoutError as TooLate
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from contentcache.aio.reactor import Trust
from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.core.errors import KEPT_OUT
from contentcache.gateway.liveness import NotAlive
from contentcache.gateway.probe_blob import PROBE_BLOB, PROBE_BYTES
from contentcache.tls.server import in_words

_HEADERS: Final = Headers({"User-Agent": ["contentcache-gateway"], "Accept": ["*/*"]})
_OK: Final = 200
_FORBIDDEN: Final = 403
#: As much of an answer as is read, in bytes: the blob, or an error of a registry.
_LARGEST: Final = 4 << 10
_LONGEST_SENTENCE: Final = 200
#: How caches that do not send :data:`~contentcache.core.errors.KEPT_OUT` yet say that their operator keeps a
#: repository out (``allow``, ``deny``).
_KEPT_OUT_SENTENCE: Final = "the operator of this cache does not let "


class HttpProbe:
    """
    A :class:`~contentcache.gateway.liveness.Probe`: the true answer to ``HEAD`` of the probe's blob, within
    ``timeout`` seconds, is a yes. A cache that has not got the blob asks its upstream for that, and keeps
    nothing. Where the answer is another one, ``GET`` tells why.

    ``target`` makes path and query of a signed URL, ``None`` while this gateway cannot sign. No redirect is
    followed, and each question has a connection of its own: what is to be known is whether a client could
    make one. ``trust`` is whom we believe: the system's roots and ``cas``.
    """

    def __init__(
        self,
        reactor: Any,
        trust: Trust,
        target: Callable[[], str | None],
        *,
        connect_timeout: float = 3.0,
        timeout: float = 5.0,
    ) -> None:
        self._reactor = reactor
        self._target = target
        self._timeout = timeout
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent = Agent(reactor, cast("Any", trust), connectTimeout=connect_timeout, pool=pool)

    async def __call__(self, host: str, /) -> None:
        target = self._target()
        if target is None:
            raise NotAlive("this gateway has no key to sign with yet")
        try:
            why_not = await with_timeout(self._reactor, self._timeout, self._ask(f"{host}{target}"))
        except CancelledError:
            raise
        except DeadlineError:
            raise NotAlive(f"no answer within {self._timeout:g} s") from None
        except Exception as error:
            raise NotAlive(_in_words(error)) from error
        if why_not is not None:
            raise NotAlive(why_not)

    async def _ask(self, url: str) -> str | None:
        """What is wrong with the answers; ``None`` if nothing is."""
        response, _ = await self._request(b"HEAD", url)
        stated = response.headers.getRawHeaders(b"Docker-Content-Digest") or []
        if response.code == _OK and stated == [str(PROBE_BLOB.digest).encode()]:
            return None
        response, body = await self._request(b"GET", url)
        return _what_is_wrong(response.code, body, url.partition("token=")[2])

    async def _request(self, method: bytes, url: str) -> tuple[Any, bytes]:
        response: Any = await self._agent.request(method, url.encode("ascii"), _HEADERS)
        reading = _Beginning()
        response.deliverBody(reading)
        return response, await reading.done


class _Beginning(Protocol):
    """Reads the first bytes of a body, and hangs up."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _done: self._hang_up())
        self._body = b""

    def dataReceived(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > _LARGEST:
            self._end()
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone, PotentialDataLoss) is None and not self.done.called:
            self.done.errback(reason)
        else:
            self._end()

    def _end(self) -> None:
        if not self.done.called:
            self.done.callback(self._body)

    def _hang_up(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            getattr(transport, "abortConnection", transport.loseConnection)()


def _what_is_wrong(status: int, body: bytes, token: str) -> str | None:
    """
    Why an answer to ``GET`` is not one of a cache that serves what this gateway signs; ``None`` if it is one.

    >>> _what_is_wrong(200, PROBE_BYTES, "x.y.z")
    >>> _what_is_wrong(403, b'{"errors": [{"message": "the token has a wrong signature"}]}', "x.y.z")
    'it refuses URLs that this gateway signs (403: the token has a wrong signature)'
    """
    if status == _OK:
        if body == PROBE_BYTES:
            return None
        return "it answers a signed URL with other bytes: is it a cache of this gateway?"
    said, detail = _error(body)
    if status == _FORBIDDEN and (detail == KEPT_OUT or said.startswith(_KEPT_OUT_SENTENCE)):
        return None  # it has verified the signature by then
    reason = f"{status}: {said}" if said and token not in said else f"status {status}"
    if status == _FORBIDDEN:
        return f"it refuses URLs that this gateway signs ({reason})"
    return f"it does not serve a signed URL ({reason})"


def _error(body: bytes) -> tuple[str, object]:
    """
    The sentence of an error in the registry's form, and its detail; nothing where there is none.

    >>> _error(b'{"errors": [{"code": "DENIED", "message": "no", "detail": 1}]}'), _error(b"<html>")
    (('no', 1), ('', None))
    """
    try:
        entry = json.loads(body)["errors"][0]
        message, detail = entry["message"], entry.get("detail")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", None
    if not isinstance(message, str) or not message.isprintable():
        return "", detail
    return message if len(message) <= _LONGEST_SENTENCE else message[:_LONGEST_SENTENCE] + "…", detail


def _in_words(error: Exception) -> str:
    """What went wrong, in a sentence that needs no knowledge of the program."""
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
