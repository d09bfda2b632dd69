"""Backoff after failed attempts: how long, in the log, and across a restart."""

from __future__ import annotations

from typing import Final

from attrs import frozen
from twisted.logger import Logger, LogLevel

from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.errors import (
    AcmeError,
    CertificateStoreError,
    EarlyRenewalError,
    ResponseLostError,
    UnusableOrderError,
)
from contentcache.acme.records import BackoffRecord
from contentcache.acme.renewal_state import RenewalState
from contentcache.core import durations
from contentcache.core.ports import Runtime

#: The longest backoff without ``Retry-After``, in seconds.
_MAX_DELAY: Final = 6 * 3600.0
_MAX_DOUBLINGS: Final = 20
#: A stored backoff that is longer, in seconds, was computed with a wrong clock.
_MAX_STORED_DELAY: Final = 1.3 * 86400.0


@frozen
class BackoffPolicy:
    """
    Exponential backoff from ``initial`` seconds. It shrinks as the certificate in use expires, but never
    below ``minimum`` seconds.
    """

    initial: float
    minimum: float


#: The server has not counted the attempt.
AFTER_NO_RESPONSE: Final = BackoffPolicy(10.0, 10.0)
#: The server has refused, and counts failed attempts.
AFTER_REFUSAL: Final = BackoffPolicy(60.0, 60.0)
#: The server has issued one of the few certificates that it allows in a week, and it is of no use.
AFTER_UNUSABLE_ORDER: Final = BackoffPolicy(3600.0, 10.0)


def policy_for(error: AcmeError) -> BackoffPolicy:
    """The policy after an error."""
    if isinstance(error, UnusableOrderError):
        return AFTER_UNUSABLE_ORDER
    if error.is_refusal or isinstance(error, ResponseLostError):
        return AFTER_REFUSAL
    return AFTER_NO_RESPONSE


def backoff_delay(
    failures: int, jitter: float, policy: BackoffPolicy, *, retry_after: float | None, left: float | None
) -> float:
    """
    Seconds until the next attempt, after so many failures in a row.

    ``jitter`` from 0 to 1 adds up to a fifth. ``retry_after`` is the server's, and obeyed. ``left`` is how
    long the certificate in use is still valid.

    >>> [backoff_delay(n, 0.0, AFTER_NO_RESPONSE, retry_after=None, left=None) for n in (1, 2, 3, 99)]
    [10.0, 20.0, 40.0, 21600.0]
    >>> backoff_delay(1, 0.0, AFTER_REFUSAL, retry_after=3600.0, left=None)
    3600.0
    """
    delay = min(_MAX_DELAY, policy.initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))
    if left is not None and left > 0:
        delay = min(delay, max(policy.minimum, left / 8))
    return max(delay * (1 + jitter / 5), retry_after or 0.0)


def survives_restart(error: AcmeError) -> bool:
    """Whether a restart must not shorten the backoff: after ``Retry-After``, or after an unusable order."""
    if error.retry_after is not None:
        return True
    return isinstance(error, UnusableOrderError) and not isinstance(error, EarlyRenewalError)


class RenewalBackoff:
    """Applies the backoff to renewal states."""

    _log = Logger(namespace="contentcache")

    def __init__(self, store: CertificateStore, runtime: Runtime) -> None:
        self._store = store
        self._run = runtime.run
        self._timer = runtime.timer
        self._wall = runtime.wall
        self._random = runtime.random

    def next_attempt(self, state: RenewalState) -> float | None:
        """The time of the next attempt, in seconds since 1970; ``None`` where the last one has not failed."""
        if state.error is None:
            return None
        return self._wall() + max(0.0, state.retry_at - self._timer.seconds())

    def start(self, state: RenewalState, error: AcmeError, failures: int) -> None:
        """Start the backoff after so many failures in a row, and log it."""
        now, validity = self._wall(), state.validity
        delay = backoff_delay(
            failures,
            self._random(),
            policy_for(error),
            retry_after=error.retry_after,
            left=None if validity is None else validity.ends - now,
        )
        state.error, state.retry_at = error, self._timer.seconds() + delay
        level = LogLevel.error if validity is None or validity.is_critical(now) else LogLevel.warn
        retry_in = durations.spell(float(round(delay)))
        if isinstance(error, EarlyRenewalError):
            self._log.emit(
                level, "certificate due for renewal already", host=state.host, retry_in=retry_in, reason=error
            )
        else:
            self._log.emit(level, "certificate not issued", host=state.host, retry_in=retry_in, reason=error)

    def restore(self, state: RenewalState, record: BackoffRecord) -> None:
        """Continue a backoff from before a restart, and log it; one that is too long is ignored."""
        left = record.until - self._wall()
        if not 0 < left <= _MAX_STORED_DELAY:
            return
        state.retry_at, state.failures = self._timer.seconds() + left, record.failures
        state.error = AcmeError(record.says)
        self._log.warn(
            "backoff continued after restart",
            host=state.host,
            retry_in=durations.spell(float(round(left))),
            reason=record.says,
        )

    async def save(self, state: RenewalState) -> None:
        """Store a backoff that must survive a restart."""
        error, next_attempt = state.error, self.next_attempt(state)
        if error is None or next_attempt is None or not survives_restart(error):
            return
        record = BackoffRecord(next_attempt, state.failures, str(error))
        try:
            await self._run(self._store.save_backoff, state.host, record)
        except CertificateStoreError as store_error:
            self._log.warn("backoff not stored", host=state.host, reason=store_error)
