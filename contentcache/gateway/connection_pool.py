"""
The pool of connections to the registry behind, and its timeouts.

A request that must not be sent twice gets a new connection: the registry may be closing an idle one in this
moment, and then it is unknown whether it has acted on the request. The others use an idle one, and where that
fails a new one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from contentcache.aio.reactor import Endpoint
from contentcache.aio.tasks import cancellable, in_background
from contentcache.core.errors import CacheError
from contentcache.core.host_health import HostHealth
from contentcache.core.ports import Clock, DelayedCall, Timer
from contentcache.gateway.connection import ProxyConnection, ProxyResponse
from contentcache.gateway.errors import RegistryBroken, RegistryTimeout, RegistryUnreachable
from contentcache.gateway.proxy_request import ProxyRequest, RequestBody
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.answers import Answer
from contentcache.upstream.request import kind_of_target
from contentcache.upstream.responses import why

#: Seconds to wait for ``100 Continue`` (RFC 9110 §10.1.1).
_CONTINUE_TIMEOUT: Final = 1.0
#: Idle connections, and for how many seconds each is kept open: for less than servers do.
_MAX_IDLE: Final = 64
_IDLE_TIMEOUT: Final = 55.0
#: Seconds for the registry to answer the gateway's own check of its health.
_CHECK_TIMEOUT: Final = 10.0


@frozen
class OpenResponse:
    """A response of the registry: its head, and its body, which is read through :class:`Answer`."""

    head: ProxyResponse
    body: Answer


class ConnectionPool:
    """
    Sends requests to the registry at ``base``, which ``endpoint`` connects to.

    ``stall_timeout`` is for how many seconds it may neither read nor send anything; ``write_timeout`` for how
    many it may process a request that writes, once it has all of it: it may have to hash and move a large blob.
    """

    _log = Logger()

    def __init__(
        self,
        base: str,
        endpoint: Endpoint,
        *,
        timer: Timer,
        wall: Clock,
        stall_timeout: float,
        write_timeout: float,
        meter: Meter,
    ) -> None:
        self._base = base
        self._endpoint = endpoint
        self._timer = timer
        self._wall = wall
        self._stall_timeout = stall_timeout
        self._write_timeout = write_timeout
        self._meter = meter
        self._idle: dict[ProxyConnection, DelayedCall] = {}
        self._closing = False
        #: The running check of whether the registry answers at all.
        self._checking: Deferred[None] | None = None
        #: What is known of the registry's health.
        self.health = HostHealth(base, wall())

    @asynccontextmanager
    async def request(
        self, request: ProxyRequest, body: RequestBody | None = None
    ) -> AsyncIterator[OpenResponse]:
        """
        Send a request; its response has an unread body. The connection is released at the end of the block.

        :raises RegistryUnreachable: no connection can be made.
        :raises RegistryBroken: the connection ends before a response.
        :raises RegistryTimeout: the response takes too long.
        :raises RequestMalformed, BodyTooSlow: the client's request is at fault.
        """
        began = self._timer.seconds()
        try:
            response = await self._request(request, body)
        except CacheError as error:
            if isinstance(error, RegistryBroken | RegistryTimeout):
                self._meter.asked(self._base, "failed")
                self._suspect(error.reason if isinstance(error, RegistryBroken) else error.message)
            raise
        try:
            self.health = self.health.answered(self._wall(), self._timer.seconds() - began)
            self._meter.asked(self._base, str(response.code))
            reader = Answer(self._base, response.code, False, response, self._timer, self._stall_timeout)
            kind = kind_of_target(request.target)
            if kind != "other":
                reader.counted_by(self._meter.received_counter(self._base, kind))
            yield OpenResponse(response, reader)
        finally:
            response.release()

    def close(self) -> None:
        """Close all idle connections, and from now on each that becomes idle."""
        self._closing = True
        if self._checking is not None:
            self._checking.cancel()
        for connection in list(self._idle):
            self._close_idle(connection)

    async def _request(self, request: ProxyRequest, body: RequestBody | None) -> ProxyResponse:
        if request.repeatable and body is None:
            idle = self._acquire_idle()
            if idle is not None:
                try:
                    return await self._request_on(idle, request, None)
                except RegistryBroken:
                    if idle.response_started:
                        raise
        return await self._request_on(await self._connect(), request, body)

    async def _connect(self) -> ProxyConnection:
        factory = Factory.forProtocol(lambda: ProxyConnection(self._retain))
        factory.noisy = False
        try:
            connection: ProxyConnection = await cancellable(
                self._endpoint.connect(factory), ProxyConnection.close
            )
        except CancelledError:
            raise
        except Exception as error:
            self._meter.asked(self._base, "failed")
            self._note(f"it cannot be reached: {why(error)}")
            raise RegistryUnreachable(
                "the registry behind this gateway cannot be reached now; try again soon"
            ) from error
        return connection

    async def _request_on(
        self,
        connection: ProxyConnection,
        request: ProxyRequest,
        body: RequestBody | None,
        limit: float | None = None,
    ) -> ProxyResponse:
        waiter = connection.request(request, body)
        if limit is None:
            limit = self._stall_timeout if request.repeatable else self._write_timeout
        timeouts = _ResponseTimeouts(
            connection, waiter, body, self._timer, stall=self._stall_timeout, limit=limit
        )
        try:
            return await waiter
        except CancelledError:
            if timeouts.expired:
                raise RegistryTimeout(
                    "the registry behind this gateway did not answer in time; try again soon"
                ) from None
            raise
        finally:
            timeouts.stop()

    # Idle connections.

    def _retain(self, connection: ProxyConnection) -> None:
        if self._closing or len(self._idle) >= _MAX_IDLE:
            connection.close()
            return
        self._idle[connection] = self._timer.callLater(_IDLE_TIMEOUT, self._close_idle, connection)

    def _acquire_idle(self) -> ProxyConnection | None:
        while self._idle:
            connection = next(reversed(self._idle))
            self._remove_idle(connection)
            if connection.usable:
                return connection
        return None

    def _close_idle(self, connection: ProxyConnection) -> None:
        self._remove_idle(connection)
        connection.close()

    def _remove_idle(self, connection: ProxyConnection) -> None:
        timeout = self._idle.pop(connection)
        if timeout.active():
            timeout.cancel()

    # The registry's health.

    def _suspect(self, reason: str) -> None:
        """A client's request has failed: check the registry by another one, as the fault may be in the first."""
        if self._closing:
            return
        if not self.health.healthy:
            self.health = self.health.failed(reason, self._wall())
        elif self._checking is None:
            checking = in_background(self._check(reason))
            if not checking.called:
                self._checking = checking

    async def _check(self, reason: str) -> None:
        request = ProxyRequest("GET", "/v2/", [("Host", self._base.partition("://")[2]), ("Accept", "*/*")])
        try:
            limit = min(self._stall_timeout, _CHECK_TIMEOUT)
            response = await self._request_on(await self._connect(), request, None, limit)
        except (CancelledError, RegistryUnreachable):
            pass  # the gateway stops, or it is noted already
        except CacheError:
            self._note(reason)
        else:
            response.release()
            self._log.info("registry answers, but failed one request", registry=self._base, reason=reason)
        finally:
            self._checking = None

    def _note(self, reason: str) -> None:
        if self._closing:
            return  # the gateway has cut the connection
        if self.health.healthy:
            self._log.warn("registry unavailable", registry=self._base, reason=reason)
        self.health = self.health.failed(reason, self._wall())


class _ResponseTimeouts:
    """
    Cancels a request whose response takes too long.

    While the request's body is being sent only the registry's delay counts: whether it reads anything of what
    is ready for it.
    """

    def __init__(
        self,
        connection: ProxyConnection,
        waiter: Deferred[Any],
        body: RequestBody | None,
        timer: Timer,
        *,
        stall: float,
        limit: float,
    ) -> None:
        self._connection = connection
        self._waiter = waiter
        self._timer = timer
        self._stall = stall
        self._limit = limit
        #: Whether it has cancelled the request.
        self.expired = False
        self._bytes_sent = 0
        self._continue = timer.callLater(_CONTINUE_TIMEOUT, connection.stop_waiting_for_continue)
        self._deadline: DelayedCall = (
            timer.callLater(limit, self._expire)
            if body is None
            else timer.callLater(stall, self._check_progress, body)
        )

    def stop(self) -> None:
        """The response has arrived."""
        for call in (self._continue, self._deadline):
            if call.active():
                call.cancel()

    def _check_progress(self, body: RequestBody) -> None:
        if body.complete:
            self._deadline = self._timer.callLater(self._limit, self._expire)
        elif body.paused and self._connection.bytes_sent == self._bytes_sent:
            self._expire()
        else:
            self._bytes_sent = self._connection.bytes_sent
            self._deadline = self._timer.callLater(self._stall, self._check_progress, body)

    def _expire(self) -> None:
        self.expired = True
        self._waiter.cancel()
