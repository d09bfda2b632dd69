"""From a request to its answer, whatever goes wrong between the two."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.core.errors import CacheError
from contentcache.server.channel import ServerRequest
from contentcache.server.exchange import Exchange

E = TypeVar("E", bound=Exchange)


class InternalError(CacheError):
    """A defect of ours."""

    code = "UNKNOWN"
    status = 500


class RequestDispatcher(Generic[E]):
    """
    Lets ``answer`` answer every request that the channel lets pass, each as what ``exchange_of`` makes of it.

    An error becomes an answer in the registry's form; a defect also a traceback in the log, and ``who`` (the
    cache, the gateway) is said to have failed.
    """

    _log = Logger()

    def __init__(
        self,
        answer: Callable[[E], Awaitable[None]],
        exchange_of: Callable[[ServerRequest], E],
        *,
        who: str,
    ) -> None:
        self._dispatch = answer
        self._exchange_of = exchange_of
        self._who = who

    def begin(self, request: ServerRequest) -> None:
        """Start the answer. A client that leaves cancels it, and nothing that others share."""
        answering = Deferred.fromCoroutine(self._answer_request(request))
        answering.addErrback(self._give_up, request)
        request.notifyFinish().addErrback(lambda _failure: answering.cancel())

    async def _answer_request(self, request: ServerRequest) -> None:
        exchange = self._exchange_of(request)
        try:
            await self._answer(exchange)
        finally:
            exchange.release()

    async def _answer(self, exchange: E) -> None:
        try:
            await self._dispatch(exchange)
        except CacheError as error:
            exchange.fail(error)
        except Exception as error:  # noqa: BLE001  # this client gets an answer, and the others theirs
            if isinstance(error, CancelledError) and exchange.gone:
                return
            self._log.failure("request failed", method=exchange.method, path=exchange.path)
            exchange.fail(InternalError(f"the {self._who} has failed; its log says why"))

    def _give_up(self, failure: Failure, request: ServerRequest) -> None:
        self._log.failure(
            "error response failed",
            failure,
            method=request.method.decode("latin-1"),
            path=request.path.decode("latin-1"),
        )
        request.end_short()
