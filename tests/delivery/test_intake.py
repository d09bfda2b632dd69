"""
Several bodies on their way into one file.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone

from contentcache.core.digest import Digest
from contentcache.delivery.intake import Enough, Intake
from contentcache.delivery.tasks import at_once
from contentcache.storage.memory import MemoryStore
from contentcache.upstream.answers import Inflow


class Body:
    """
    An answer whose body comes when a test says so.
    """

    stopped = False

    def stream(self, received: Any) -> Inflow:
        """Let it come in (``Answer``)."""
        self.inflow = Inflow(received, Clock(), 30.0)
        transport: Any = self
        self.inflow.makeConnection(transport)
        return self.inflow

    def pauseProducing(self) -> None:
        """Never full (``Transport``)."""

    resumeProducing = pauseProducing

    def stopProducing(self) -> None:
        """Nobody wants it any more (``Transport``)."""
        self.stopped = True


class IntakeTests(SynchronousTestCase):
    """
    One file, two bodies.
    """

    def test_enough_ends_one_body_alone(self) -> None:
        """
        A body that is overtaken ends, and the other one, which overtakes it, goes on to its end.
        """
        content = bytes(2000)
        intake = Intake(Digest.of(content), at_once)
        intake.replace(MemoryStore().resume(Digest.of(content)))
        first, second = Body(), Body()

        def enough(_start: int, _stop: int) -> None:
            raise Enough

        def quiet(_start: int, _stop: int) -> None: ...

        answers: list[Any] = [first, second]
        overtaken = Deferred.fromCoroutine(intake.take(answers[0], 0, 0, 2000, enough))
        other = Deferred.fromCoroutine(intake.take(answers[1], 1000, 1000, 2000, quiet))
        first.inflow.dataReceived(content[:1000])
        self.failureResultOf(overtaken, Enough)
        self.assertTrue(first.stopped)
        self.assertFalse(second.stopped)
        second.inflow.dataReceived(content[1000:])
        second.inflow.connectionLost(Failure(ResponseDone()))
        self.successResultOf(other)
        intake.reaches(2000)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(intake.is_right())))
