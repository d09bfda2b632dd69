"""
The renewal state of one host, and pure decisions on it: what to do next, and what operators are told.

Times are seconds since 1970, unless a name says monotonic.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

from attrs import define, frozen

from contentcache.acme.certificate import Validity, format_time
from contentcache.acme.errors import AcmeError, EarlyRenewalError
from contentcache.acme.records import IssuedCertificate, StoredCertificate
from contentcache.core import durations

#: A poll for renewal information that is further in the future, in seconds, was computed with a wrong clock.
_MAX_POLL_DELAY: Final = 2 * 86400.0


@frozen
class RenewalOutcome:
    """
    The result of an attempt for a host, or the host's state; ``again`` is the time of the next attempt after
    a failed one. The fields are those of the control socket's JSON.
    """

    host: str
    is_new: bool
    says: str
    again: float | None = None


@define
class RenewalState:
    """The certificate of one host, and how renewing it goes."""

    host: str
    certificate: StoredCertificate | None
    #: Failed attempts in a row, and the last error.
    failures: int = 0
    error: AcmeError | None = None
    #: Monotonic time before which nothing is sent for this host.
    retry_at: float = 0.0
    #: Somebody has requested a new certificate that has not been issued yet.
    is_requested: bool = False
    #: A new certificate that may turn out to be due for renewal already.
    unchecked: IssuedCertificate | None = None
    #: A new certificate that could not be written yet.
    unsaved: IssuedCertificate | None = None

    @property
    def validity(self) -> Validity | None:
        """The validity of the certificate, ``None`` where there is none."""
        return None if self.certificate is None else self.certificate.validity

    def renewal_time(self, server: str) -> float:
        """When to renew; 0 (at once) without a certificate, or with one from another ACME server."""
        if self.certificate is None or self.certificate.metadata.server not in {"", server}:
            return 0.0
        return self.certificate.renewal_time()


class RenewalAction(IntEnum):
    """What the renewal loop does next for a host."""

    SAVE = 0
    RENEW = 1
    #: Forget an error, since renewal is not due any more.
    CLEAR_ERROR = 2
    POLL_RENEWAL_WINDOW = 3


def next_action(
    state: RenewalState, now: float, monotonic: float, server: str
) -> tuple[float, RenewalAction]:
    """Seconds until the next action for a host, and the action."""
    backoff = max(0.0, state.retry_at - monotonic)
    if state.unsaved is not None:
        return backoff, RenewalAction.SAVE
    renewal_time = state.renewal_time(server)
    is_due = state.is_requested or renewal_time <= now
    # After a failed attempt the end of the backoff counts, though renewal may not be due any more by then.
    wait = backoff if is_due or state.error is not None else max(backoff, renewal_time - now)
    poll_at = None if state.certificate is None else state.certificate.metadata.ask_again
    if poll_at is not None:
        poll_wait = max(backoff, poll_at - now) if poll_at - now < _MAX_POLL_DELAY else backoff
        # A due renewal does not wait for the poll, unless it failed or may be due again and again: then the
        # server may suggest another time by now.
        poll_first = state.error is not None or state.unchecked is not None
        if poll_wait < wait or (poll_wait == wait and poll_first):
            return poll_wait, RenewalAction.POLL_RENEWAL_WINDOW
    return wait, RenewalAction.RENEW if is_due or state.error is None else RenewalAction.CLEAR_ERROR


def early_renewal_error(certificate: StoredCertificate, clock: str, now: float) -> EarlyRenewalError | None:
    """
    Why a new certificate is due for renewal already; ``None`` where it is not.

    ``clock`` describes how our clock differs from the server's.
    """
    validity, suggested = certificate.validity, certificate.metadata.suggested
    message = "the new certificate is to be renewed already"
    if validity.renewal_time() > now:
        if suggested is None or validity.renewal_time(suggested) >= now + validity.min_use():
            return None
        return EarlyRenewalError(
            f"{message}: the ACME server suggests it", "nothing is to be done here; it is used meanwhile"
        )
    left, lifetime = (
        durations.spell(float(round(each))) for each in (max(0.0, validity.ends - now), validity.lifetime)
    )
    message = f"{message}: {left} are left of its {lifetime}"
    if clock:
        return EarlyRenewalError(f"{message}, and {clock}", "set the clock")
    return EarlyRenewalError(message, "ask the certificate authority why it gives such")


def validation_timeout_error(host: str) -> AcmeError:
    """The error for a challenge that the server has neither accepted nor refused in time."""
    return AcmeError(
        f"the ACME server has not validated {host} in time",
        "it may be slow, or not reach this host: look at its DNS records, at firewalls, and whether ports "
        "443 (tls-alpn-01) or 80 (http-01) lead here",
    )


def health_of(state: RenewalState, now: float, server: str) -> tuple[Literal["ok", "warn"], str]:
    """
    The health of a host's certificate, and why.

    It is never worse than ``warn``: a daemon that is taken out of service could not answer the challenge that
    ends the problem.
    """
    validity = state.validity
    error = f"; {state.error}" if state.error is not None else ""
    if validity is None:
        return "warn", f"no certificate yet, a self-signed one is shown{error}"
    until = f"good until {format_time(validity.ends)}"
    if now >= validity.ends:
        return "warn", f"expired {format_time(validity.ends)}{error}"
    if validity.is_critical(now) or state.error is not None:
        return "warn", f"{until}, and not renewed yet{error}"
    return "ok", f"{until}, to be renewed {format_time(state.renewal_time(server))}"
