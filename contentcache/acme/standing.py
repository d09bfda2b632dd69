"""
How it is with the certificate of a host, for those who decide and in words for those who look.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

from attrs import define, frozen

from contentcache.acme.certificate import Validity, format_time
from contentcache.acme.errors import AcmeError, EarlyRenewalError, ResponseLostError, UnusableOrderError
from contentcache.acme.obtaining import Obtained
from contentcache.acme.records import StoredCertificate
from contentcache.acme.timing import AFTER_NO, AFTER_SILENCE, AFTER_WASTE, Pace, pause_after
from contentcache.core import durations


@frozen
class Outcome:
    """
    What became of an attempt, or how it is; ``again`` is when the next attempt will be, seconds since 1970,
    where the last one has failed.
    """

    host: str
    is_new: bool
    says: str
    again: float | None = None


@define
class Standing:
    """
    How it is with one host. ``try_at`` is monotonic: not before, whatever is due. ``failures`` are those in a
    row.
    ``is_wanted``: somebody has asked for a new one, and has not got it yet. ``new`` is a certificate of which
    it is not known yet whether it has to be renewed as soon as it is there.
    """

    host: str
    kept: StoredCertificate | None
    failures: int = 0
    fault: AcmeError | None = None
    try_at: float = 0.0
    is_wanted: bool = False
    new: Obtained | None = None
    #: What could not be written yet.
    unsaved: Obtained | None = None

    @property
    def validity(self) -> Validity | None:
        """The life of the certificate, ``None`` where there is none."""
        return None if self.kept is None else self.kept.validity

    def due(self, server: str) -> float:
        """
        When to renew, seconds since 1970: at once where there is none, or one of another server.
        """
        if self.kept is None or self.validity is None or self.kept.metadata.server not in {"", server}:
            return 0.0
        return self.kept.renewal_time()


#: No server wants to be asked for a renewal's time later than that, in seconds: the clock was wrong when it
#: was noted.
_LONGEST_UNASKED: Final = 2 * 86400.0


class Step(IntEnum):
    """
    What may be to do for a host. Where several are, the least comes first.
    """

    SAVE = 0
    RENEW = 1
    #: See that what has failed is not to be done any more.
    FORGET = 2
    ASK_WHEN = 3


def next_step(standing: Standing, now: float, seconds: float, server: str) -> tuple[float, Step]:
    """
    In how many seconds there is something to do for a host, and what. ``now`` is since 1970, ``seconds``
    monotonic.
    """
    pause = max(0.0, standing.try_at - seconds)
    if standing.unsaved is not None:
        return pause, Step.SAVE
    due = standing.due(server)
    is_due = standing.is_wanted or due <= now
    # What has failed is looked at when that was said, though it may not be due any more by then.
    wait = pause if is_due or standing.fault is not None else max(pause, due - now)
    again = None if standing.kept is None else standing.kept.metadata.ask_again
    if again is not None:
        ask = max(pause, again - now) if again - now < _LONGEST_UNASKED else pause
        # What is due does not wait for advice, but for what goes wrong or may be due again and again: there
        # the server may think better of it.
        doubtful = standing.fault is not None or standing.new is not None
        if ask < wait or (ask == wait and doubtful):
            return ask, Step.ASK_WHEN
    return wait, Step.RENEW if is_due or standing.fault is None else Step.FORGET


def early_fault(kept: StoredCertificate, clock: str, now: float) -> EarlyRenewalError | None:
    """
    Why a certificate has to be renewed as soon as it is there; ``None`` where it has not, as it should be.
    ``clock`` says how ours differs from the server's.
    """
    span, suggested = kept.validity, kept.metadata.suggested
    says = "the new certificate is to be renewed already"
    if span.renewal_time() > now:
        if suggested is None or span.renewal_time(suggested) >= now + span.min_use():
            return None
        return EarlyRenewalError(
            f"{says}: the ACME server suggests it", "nothing is to be done here; it is used meanwhile"
        )
    left, length = (
        durations.spell(float(round(each))) for each in (max(0.0, span.ends - now), span.lifetime)
    )
    says = f"{says}: {left} are left of its {length}"
    if clock:
        return EarlyRenewalError(f"{says}, and {clock}", "set the clock")
    return EarlyRenewalError(says, "ask the certificate authority why it gives such")


def late_verdict(host: str) -> AcmeError:
    """
    The server neither believes that a host is ours nor says that it does not.
    """
    return AcmeError(
        f"the ACME server has not come to a verdict on {host} in time",
        "it may be slow, or not reach this host: look at its DNS records, at firewalls, and whether ports "
        "443 (tls-alpn-01) or 80 (http-01) lead here",
    )


def pace_of(fault: AcmeError) -> Pace:
    """
    How soon to try again.
    """
    if isinstance(fault, UnusableOrderError):
        return AFTER_WASTE
    return AFTER_NO if fault.is_refusal or isinstance(fault, ResponseLostError) else AFTER_SILENCE


def pause_of(standing: Standing, times: int, now: float, share: float) -> float:
    """
    Seconds until the next attempt, after ``standing.fault`` so many times in a row.
    """
    fault, span = standing.fault, standing.validity
    if fault is None:
        return 0.0
    left = None if span is None else span.ends - now
    return pause_after(times, share, pace_of(fault), asked=fault.retry_after, left=left)


def outlasts_restart(fault: AcmeError) -> bool:
    """
    Whether a restart is no reason to try sooner: the server wants to be left alone, or has made a
    certificate for nothing.
    """
    return fault.retry_after is not None or (
        isinstance(fault, UnusableOrderError) and not isinstance(fault, EarlyRenewalError)
    )


def state_of(standing: Standing, now: float, server: str) -> tuple[Literal["ok", "warn"], str]:
    """
    How it is, and why. It is never worse than ``warn``: a daemon that is taken out of service could not
    answer the challenge that would mend it.
    """
    span = standing.validity
    trouble = f"; {standing.fault}" if standing.fault is not None else ""
    if standing.kept is None or span is None:
        return "warn", f"no certificate yet, one signed by ourselves is shown{trouble}"
    until = f"good until {format_time(span.ends)}"
    if now >= span.ends:
        return "warn", f"expired {format_time(span.ends)}{trouble}"
    if span.is_critical(now) or standing.fault is not None:
        return "warn", f"{until}, and not renewed yet{trouble}"
    return "ok", f"{until}, to be renewed {format_time(standing.due(server))}"
