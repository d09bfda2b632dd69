"""
The probe by which a gateway finds out whether a cache serves what it signs: a request for a small blob of its own.

A cache that answers ``GET /`` may still refuse every URL that this gateway signs, because it has other keys,
another origin, or a wrong clock. So it is asked for a blob as a redirected client would be: by a signed URL.
The cache requests the gateway's keys and the blob in turn. Any cache that knows signed URLs can answer that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from contentcache.aio.reactor import DaemonReactor, Trust
from contentcache.aio.tasks import DeadlineError, with_timeout
from contentcache.core.digest import Digest
from contentcache.core.errors import KEPT_OUT
from contentcache.core.health_probes import PROBE_REPOSITORY
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token
from contentcache.tls.server import describe_error

#: The whole blob. Another one needs another text: it is named by its digest.
PROBE_BYTES: Final = b"contentcache gateway probe 1\n"
#: Its name at caches. The registry is never asked for it, whatever repository it has of this name.
PROBE_BLOB: Final = Content(PROBE_REPOSITORY, "blobs", Digest.of(PROBE_BYTES))
#: Seconds for which the URL is valid: as long as a probe may take, and clocks may differ.
_LIFETIME: Final = 60.0
_HEADERS: Final = Headers({"User-Agent": ["contentcache-gateway"], "Accept": ["*/*"]})
_OK: Final = 200
_FORBIDDEN: Final = 403
#: Bytes of a response that are read: the blob, or an error of a registry.
_MAX_BODY: Final = 4 << 10
_MAX_MESSAGE: Final = 200
#: How caches that do not send :data:`~contentcache.core.errors.KEPT_OUT` yet say that their operator keeps a
#: repository out (``allow``, ``deny``).
_KEPT_OUT_SENTENCE: Final = "the operator of this cache does not let "


class ProbeError(Exception):
    """A cache does not answer as it should; one sentence for people, without what only the network knows."""


class ProbeSigner:
    """
    Signs the probe's URLs. ``signer`` returns the key that signs now, ``None`` without one; ``issuer`` is the
    gateway's own name.
    """

    def __init__(self, signer: Callable[[], SigningKey | None], *, issuer: str, wall: Clock) -> None:
        self._signer = signer
        self._issuer = issuer
        self._wall = wall

    def target(self) -> str | None:
        """Return path and query of a signed URL for the blob on any cache; ``None`` without a key."""
        key = self._signer()
        if key is None:
            return None
        token = sign_blob_token(
            key,
            issuer=self._issuer,
            subject="",
            repository=PROBE_BLOB.repository,
            digest=PROBE_BLOB.digest,
            now=self._wall(),
            lifetime=_LIFETIME,
        )
        return f"{PROBE_BLOB.path()}?token={token}"


class HttpProbe:
    """
    Probes caches: each has to answer ``HEAD`` of the blob within ``timeout`` seconds. A cache that has not got
    the blob asks its upstream for that, and stores nothing. After any other response, ``GET`` tells why.

    ``target`` returns path and query of a signed URL, ``None`` without a key. No redirect is followed, and each
    request has a new connection, as a client would need one. ``trust``: the system's roots and ``cas``.
    """

    def __init__(
        self,
        reactor: DaemonReactor,
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
        """
        Probe the cache at ``host``.

        :raises ProbeError: no response, or one that would be of no use to a client.
        """
        target = self._target()
        if target is None:
            raise ProbeError("this gateway has no key to sign with yet")
        try:
            fault = await with_timeout(self._reactor, self._timeout, self._ask(f"{host}{target}"))
        except CancelledError:
            raise
        except DeadlineError:
            raise ProbeError(f"no answer within {self._timeout:g} s") from None
        except Exception as error:
            raise ProbeError(_in_words(error)) from error
        if fault is not None:
            raise ProbeError(fault)

    async def _ask(self, url: str) -> str | None:
        """Return what is wrong with the responses; ``None`` if nothing is."""
        response, _ = await self._request(b"HEAD", url)
        stated = response.headers.getRawHeaders(b"Docker-Content-Digest") or []
        if response.code == _OK and stated == [str(PROBE_BLOB.digest).encode()]:
            return None
        response, body = await self._request(b"GET", url)
        return _fault_of(response.code, body, url.partition("token=")[2])

    async def _request(self, method: bytes, url: str) -> tuple[Any, bytes]:
        response: Any = await self._agent.request(method, url.encode("ascii"), _HEADERS)
        reading = _FirstBytes()
        response.deliverBody(reading)
        return response, await reading.done


class _FirstBytes(Protocol):
    """Reads the first bytes of a body, and disconnects."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _done: self._disconnect())
        self._body = b""

    def dataReceived(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > _MAX_BODY:
            self._end()
            self._disconnect()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone, PotentialDataLoss) is None and not self.done.called:
            self.done.errback(reason)
        else:
            self._end()

    def _end(self) -> None:
        if not self.done.called:
            self.done.callback(self._body)

    def _disconnect(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            getattr(transport, "abortConnection", transport.loseConnection)()


def _fault_of(status: int, body: bytes, token: str) -> str | None:
    """
    Why a response to ``GET`` is not one of a cache that serves what this gateway signs; ``None`` if it is one.

    >>> _fault_of(200, PROBE_BYTES, "x.y.z")
    >>> _fault_of(403, b'{"errors": [{"message": "the token has a wrong signature"}]}', "x.y.z")
    'it refuses URLs that this gateway signs (403: the token has a wrong signature)'
    """
    if status == _OK:
        if body == PROBE_BYTES:
            return None
        return "it answers a signed URL with other bytes: is it a cache of this gateway?"
    message, detail = _error(body)
    if status == _FORBIDDEN and (detail == KEPT_OUT or message.startswith(_KEPT_OUT_SENTENCE)):
        return None  # it has verified the signature by then
    reason = f"{status}: {message}" if message and token not in message else f"status {status}"
    if status == _FORBIDDEN:
        return f"it refuses URLs that this gateway signs ({reason})"
    return f"it does not serve a signed URL ({reason})"


def _error(body: bytes) -> tuple[str, object]:
    """
    The message of an error in the registry's form, and its detail; nothing where there is none.

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
    return message if len(message) <= _MAX_MESSAGE else message[:_MAX_MESSAGE] + "…", detail


def _in_words(error: Exception) -> str:
    """What went wrong, in a sentence that needs no knowledge of the program."""
    if isinstance(error, ResponseFailed | ResponseNeverReceived) and error.reasons:
        return _in_words(error.reasons[0].value)
    if isinstance(error, DNSLookupError):
        return "its name is not known"
    if isinstance(error, ConnectTimeout):
        return "it cannot be connected to in time"
    if isinstance(error, ConnectError):
        return f"it cannot be connected to: {error.__class__.__doc__ or error}"
    if isinstance(error, ConnectionLost | ConnectionDone):
        return "it closes the connection"
    if isinstance(error, SSL.Error):
        return f"it does not speak TLS as it should: {describe_error(error)}"
    return str(error) or error.__class__.__name__
