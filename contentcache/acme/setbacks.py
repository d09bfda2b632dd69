"""
When what has failed is tried again, and who is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger, LogLevel

from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.errors import AcmeError, CertificateStoreError, EarlyRenewalError
from contentcache.acme.records import BackoffRecord
from contentcache.acme.standing import Standing, outlasts_restart, pause_of
from contentcache.core import durations
from contentcache.core.ports import Clock, Run, Timer

#: Longer pauses than that are none of ours, in seconds: the clock was wrong.
_LONGEST_WAIT: Final = 1.3 * 86400.0


class Setbacks:
    """
    Puts off what has failed; ``share`` draws a number from 0 to 1.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self, store: CertificateStore, *, run: Run, timer: Timer, wall: Clock, share: Callable[[], float]
    ) -> None:
        self._store = store
        self._run = run
        self._timer = timer
        self._wall = wall
        self._share = share

    def again(self, standing: Standing) -> float | None:
        """
        When the next attempt will be, seconds since 1970; ``None`` where the last one has not failed.
        """
        if standing.fault is None:
            return None
        return self._wall() + max(0.0, standing.try_at - self._timer.seconds())

    def put_off(self, standing: Standing, fault: AcmeError, times: int) -> None:
        """
        Try again later, what has gone wrong so many times in a row, and say so.
        """
        now = self._wall()
        standing.fault = fault
        pause = pause_of(standing, times, now, self._share())
        standing.try_at = self._timer.seconds() + pause
        is_bad = standing.validity is None or standing.validity.is_critical(now)
        self._log.emit(
            LogLevel.error if is_bad else LogLevel.warn,
            "{host}: {fault}; it is renewed in {pause}"
            if isinstance(fault, EarlyRenewalError)
            else "no new certificate for {host}: {fault}; it is tried again in {pause}",
            host=standing.host,
            fault=str(fault),
            pause=durations.spell(float(round(pause))),
        )

    def resume(self, standing: Standing, wait: BackoffRecord) -> None:
        """
        BackoffRecord on after a restart, and say so; but no longer than any server may want.
        """
        left = wait.until - self._wall()
        if not 0 < left <= _LONGEST_WAIT:
            return
        standing.try_at, standing.failures = self._timer.seconds() + left, wait.failures
        standing.fault = AcmeError(wait.says)
        self._log.warn(
            "{host} is tried again in {pause}, as before the restart: {says}",
            host=standing.host,
            pause=durations.spell(float(round(left))),
            says=wait.says,
        )

    async def keep(self, standing: Standing) -> None:
        """
        Remember over a restart what was put off, where that is no reason to try sooner.
        """
        fault, again = standing.fault, self.again(standing)
        if fault is None or again is None or not outlasts_restart(fault):
            return
        wait = BackoffRecord(again, standing.failures, str(fault))
        try:
            await self._run(self._store.save_backoff, standing.host, wait)
        except CertificateStoreError as store:
            self._log.warn("{fault}", fault=str(store))
