"""From a request to its response, whatever fails between the two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.core.errors import CacheError
from contentcache.core.ports import Timer
from contentcache.core.response_end import ResponseEnd
from contentcache.server.exchange import Exchange
from contentcache.server.request import ServerRequest
from contentcache.telemetry.request_ids import TRACE

E = TypeVar("E", bound=Exchange)


class InternalError(CacheError):
    """A defect of this program."""

    code = "UNKNOWN"
    status = 500


class RequestDispatcher(Generic[E]):
    """
    Runs ``answer`` for each request, as an exchange of ``exchange_class``.

    A :class:`CacheError` becomes the response. Any other exception is logged with its traceback, and the
    response says that ``program`` (cache or gateway) has failed.
    """

    _log = Logger()

    def __init__(
        self,
        answer: Callable[[E], Awaitable[None]],
        exchange_class: Callable[[ServerRequest, Timer, float], E],
        *,
        timer: Timer,
        stall_timeout: float,
        program: str,
    ) -> None:
        self._answer = answer
        self._exchange_class = exchange_class
        self._timer = timer
        self.stall_timeout = stall_timeout
        self._program = program

    def dispatch(self, request: ServerRequest) -> None:
        """Start the response. A client that disconnects cancels it, but nothing that others share."""
        response = Deferred.fromCoroutine(self._respond(request))
        response.addErrback(self._abort, request)
        request.notifyFinish().addErrback(lambda _failure: response.cancel())

    async def _respond(self, request: ServerRequest) -> None:
        TRACE.set(request.identified())
        exchange = self._exchange_class(request, self._timer, self.stall_timeout)
        try:
            await self._answer_or_fail(exchange)
        finally:
            exchange.release()

    async def _answer_or_fail(self, exchange: E) -> None:
        try:
            await self._answer(exchange)
        except CacheError as error:
            exchange.fail(error)
        except Exception as error:  # noqa: BLE001  # this client gets a response, and the others theirs
            if isinstance(error, CancelledError) and exchange.disconnected:
                return
            self._log.failure("request failed", method=exchange.method, path=exchange.path)
            exchange.fail(self._defect())

    def _abort(self, failure: Failure, request: ServerRequest) -> None:
        self._log.failure(
            "error response failed",
            failure,
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
            request_id=request.request_id,
        )
        request.end_short(ResponseEnd.of(self._defect()))

    def _defect(self) -> InternalError:
        return InternalError(f"the {self._program} has failed; its log says why")
