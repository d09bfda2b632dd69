"""
Connections to the registry behind: which are open, and how long anything on them may take.

A request that must not be sent twice gets a connection of its own: an idle one may have been closed by the
registry in this very moment, and then nobody knows whether it was acted on. The others take an idle one,
and a second time a new one.
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
from contentcache.core.ports import DelayedCall, Timer
from contentcache.gateway.bodies import RequestBody
from contentcache.gateway.conversation import Conversation, Reply
from contentcache.gateway.faults import RegistryBroken, RegistrySilent, RegistryUnreachable
from contentcache.gateway.question import Question
from contentcache.meter import Meter
from contentcache.upstream.agent import why
from contentcache.upstream.answers import Answer

#: How long a registry that was asked whether it wants a body may think, in seconds (RFC 9110 §10.1.1).
_THOUGHT: Final = 1.0
#: Idle connections, and for how many seconds each is kept: below what servers keep them for.
_MOST_IDLE: Final = 64
_IDLE_SECONDS: Final = 55.0
#: How long the registry may take to answer our own question, whether it answers at all, in seconds.
_CHECK_SECONDS: Final = 10.0


@frozen
class Asked:
    """An answer of the registry: its head, and its body as :class:`Answer` delivers it."""

    reply: Reply
    answer: Answer

    @property
    def status(self) -> int:
        """The answer's status."""
        return self.reply.code


class Connections:
    """
    Asks the registry at ``base``. ``stall_timeout`` is for how many seconds it may take nothing and say
    nothing; ``write_timeout`` how long it may take to answer a request that writes, once it has all of it:
    it may have a large blob to hash and to move first.
    """

    _log = Logger()

    def __init__(
        self,
        base: str,
        way: Endpoint,
        *,
        timer: Timer,
        stall_timeout: float,
        write_timeout: float,
        meter: Meter,
    ) -> None:
        self._base = base
        self._way = way
        self._timer = timer
        self._stall_timeout = stall_timeout
        self._write_timeout = write_timeout
        self._meter = meter
        self._idle: dict[Conversation, DelayedCall] = {}
        self._closing = False
        #: Our own question whether the registry answers at all, while it is under way.
        self._checking: Deferred[None] | None = None
        #: What went wrong last, ``None`` after an answer.
        self.fault: str | None = None

    @asynccontextmanager
    async def ask(self, question: Question, body: RequestBody | None = None) -> AsyncIterator[Asked]:
        """
        The registry's answer, its body unread. Its connection is released at the end of the block, whatever
        has happened in it.

        :raises RegistryUnreachable: no connection can be made.
        :raises RegistryBroken: it breaks off before an answer.
        :raises RegistrySilent: it takes too long.
        :raises RequestMalformed, BodyTooSlow: it is the client's fault.
        """
        try:
            reply = await self._ask(question, body)
        except CacheError as error:
            if isinstance(error, RegistryBroken | RegistrySilent):
                self._meter.asked(self._base, "failed")
                self._suspect(error.reason if isinstance(error, RegistryBroken) else error.message)
            raise
        try:
            self.fault = None
            self._meter.asked(self._base, str(reply.code))
            yield Asked(reply, Answer(self._base, reply.code, False, reply, self._timer, self._stall_timeout))
        finally:
            reply.release()

    def close(self) -> None:
        """End all connections on which nothing is under way, now and from now on."""
        self._closing = True
        if self._checking is not None:
            self._checking.cancel()
        for conversation in list(self._idle):
            self._forget(conversation)
            conversation.close()

    async def _ask(self, question: Question, body: RequestBody | None) -> Reply:
        if question.repeatable and body is None:
            used = self._take_idle()
            if used is not None:
                try:
                    return await self._answer(used, question, None)
                except RegistryBroken:
                    if used.heard:
                        raise
        return await self._answer(await self._connect(), question, body)

    async def _connect(self) -> Conversation:
        factory = Factory.forProtocol(lambda: Conversation(self._keep))
        factory.noisy = False
        try:
            conversation: Conversation = await cancellable(self._way.connect(factory), Conversation.close)
        except CancelledError:
            raise
        except Exception as error:
            self._meter.asked(self._base, "failed")
            self._note(f"it cannot be reached: {why(error)}")
            raise RegistryUnreachable(
                "the registry behind this gateway cannot be reached now; try again soon"
            ) from error
        return conversation

    async def _answer(
        self,
        conversation: Conversation,
        question: Question,
        body: RequestBody | None,
        limit: float | None = None,
    ) -> Reply:
        waiting = conversation.ask(question, body)
        if limit is None:
            limit = self._stall_timeout if question.repeatable else self._write_timeout
        patience = _Patience(conversation, waiting, body, self._timer, stall=self._stall_timeout, limit=limit)
        try:
            return await waiting
        except CancelledError:
            if patience.over:
                raise RegistrySilent(
                    "the registry behind this gateway did not answer in time; try again soon"
                ) from None
            raise
        finally:
            patience.stop()

    # Idle connections.

    def _keep(self, conversation: Conversation) -> None:
        if self._closing or len(self._idle) >= _MOST_IDLE:
            conversation.close()
            return
        self._idle[conversation] = self._timer.callLater(_IDLE_SECONDS, self._expire, conversation)

    def _take_idle(self) -> Conversation | None:
        while self._idle:
            conversation = next(reversed(self._idle))
            self._forget(conversation)
            if conversation.usable:
                return conversation
        return None

    def _expire(self, conversation: Conversation) -> None:
        self._forget(conversation)
        conversation.close()

    def _forget(self, conversation: Conversation) -> None:
        due = self._idle.pop(conversation)
        if due.active():
            due.cancel()

    # Whether the registry is faulty.

    def _suspect(self, says: str) -> None:
        """A request of a client has failed: it may be the request, so the registry is asked something simple."""
        if self.fault is not None:
            self.fault = says
        elif self._checking is None and not self._closing:
            checking = in_background(self._check(says))
            if not checking.called:
                self._checking = checking

    async def _check(self, says: str) -> None:
        question = Question("GET", "/v2/", [("Host", self._base.partition("://")[2]), ("Accept", "*/*")])
        try:
            limit = min(self._stall_timeout, _CHECK_SECONDS)
            reply = await self._answer(await self._connect(), question, None, limit)
        except CancelledError:
            pass  # the gateway ends
        except RegistryUnreachable:
            pass  # noted
        except CacheError:
            self._note(says)
        else:
            reply.release()
            self._log.info("registry answers, but failed one request", registry=self._base, reason=says)
        finally:
            self._checking = None

    def _note(self, says: str) -> None:
        if self.fault is None:
            self._log.warn("registry unavailable", registry=self._base, reason=says)
        self.fault = says


class _Patience:
    """
    Ends a question whose answer takes too long.

    While the request's body is on its way only the registry's own delay counts: it is looked at whether it
    takes anything of what waits for it.
    """

    def __init__(
        self,
        conversation: Conversation,
        waiting: Deferred[Any],
        body: RequestBody | None,
        timer: Timer,
        *,
        stall: float,
        limit: float,
    ) -> None:
        self._conversation = conversation
        self._waiting = waiting
        self._body = body
        self._timer = timer
        self._stall = stall
        self._limit = limit
        #: Whether it has ended the question.
        self.over = False
        self._sent = 0
        self._thought = timer.callLater(_THOUGHT, conversation.send_body)
        self._due: DelayedCall = (
            timer.callLater(limit, self._end) if body is None else timer.callLater(stall, self._look, body)
        )

    def stop(self) -> None:
        """The answer has come."""
        for call in (self._thought, self._due):
            if call.active():
                call.cancel()

    def _look(self, body: RequestBody) -> None:
        if body.complete:
            self._due = self._timer.callLater(self._limit, self._end)
        elif body.paused and self._conversation.sent == self._sent:
            self._end()
        else:
            self._sent = self._conversation.sent
            self._due = self._timer.callLater(self._stall, self._look, body)

    def _end(self) -> None:
        self.over = True
        self._waiting.cancel()
