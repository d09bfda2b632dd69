"""
When a certificate is renewed, and when a failed attempt is repeated. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Self

from attrs import frozen
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import AuthorityKeyIdentifier, Certificate, ExtensionNotFound

from contentcache.jose.jws import base64url_encode

#: Renewal begins with the last third of a certificate's life, or up to this part of its life earlier:
#: certificates that were issued together need not be renewed together.
_LAST: Final = 1 / 3
_SPREAD: Final = 1 / 30
#: Whatever the server suggests, this part of the life is left for attempts that fail.
_SPARE: Final = 1 / 20
#: Whatever the server suggests, a certificate that it has just made is used for so many seconds, or this part
#: of its life if that is shorter, and for twice as long with each that was used for little longer.
_YOUTH: Final = 3600.0
_YOUNG: Final = 1 / 10
#: It was used for little longer if it was for less than so many seconds, or this part of its life.
_SETTLED: Final = 86400.0
_SETTLING: Final = 1 / 4
#: Below this part of its life somebody should look why it was not renewed.
_ALARM: Final = 1 / 4

_LONGEST_PAUSE: Final = 6 * 3600.0
_MOST_DOUBLINGS: Final = 20


@frozen
class Pace:
    """
    How soon a failure is followed by another attempt: after ``first`` seconds, and then ever later; never
    after less than ``least``, however near the end of the old certificate is.
    """

    first: float
    least: float


#: Nothing came of it that a server counts.
AFTER_SILENCE: Final = Pace(10.0, 10.0)
#: The server has said no, and counts such failures.
AFTER_NO: Final = Pace(60.0, 60.0)
#: A certificate was made, one of the few in a week that a server gives, and is of no use.
AFTER_WASTE: Final = Pace(3600.0, 10.0)


@frozen
class Window:
    """
    A span in which the server suggests to renew (RFC 9773 §4.2).
    """

    start: float
    stop: float


@frozen
class Span:
    """
    A certificate's life. ``share`` is a number from 0 to 1 that is as good as random, and stays the same.
    """

    begins: float
    ends: float
    share: float

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """
        That of a certificate, with a share out of its own bytes: so a restart changes nothing.
        """
        digest = sha256(certificate.public_bytes(Encoding.DER)).digest()
        return cls(
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
            int.from_bytes(digest[:4], "big") / 2**32,
        )

    @property
    def length(self) -> float:
        """
        Seconds.
        """
        return max(0.0, self.ends - self.begins)

    def due(self, suggested: Window | None = None) -> float:
        """
        When to renew: a third of the life before its end, or within the span that the server suggests.

        >>> Span(0.0, 90.0, share=0.0).due()
        60.0
        >>> Span(0.0, 90.0, share=0.5).due(Window(20.0, 40.0))
        30.0
        """
        if suggested is None:
            return self.ends - self.length * (_LAST + _SPREAD * self.share)
        wanted = suggested.start + (suggested.stop - suggested.start) * self.share
        return min(wanted, self.ends - self.length * _SPARE)

    def youth(self, hurried: int = 0) -> float:
        """
        For how many seconds it is used at least, after so many that were ``hurried``.

        >>> Span(0.0, 90 * 86400.0, share=0.0).youth(), Span(0.0, 600.0, share=0.0).youth()
        (3600.0, 60.0)
        """
        first = min(_YOUTH, self.length * _YOUNG)
        most = min(_LONGEST_PAUSE, self.length * _SETTLING)
        return min(most, first * 2.0 ** min(hurried, _MOST_DOUBLINGS))

    def is_hurried(self, age: float) -> bool:
        """
        Whether to renew it so many seconds after it was made was so early that it shall not go on like that.
        """
        return age < min(_SETTLED, self.length * _SETTLING)

    def is_alarming(self, now: float) -> bool:
        """
        Whether so little is left that something must have gone wrong.
        """
        return self.ends - now < self.length * _ALARM


def pause_after(failures: int, share: float, pace: Pace, *, asked: float | None, left: float | None) -> float:
    """
    Seconds until the next attempt, after so many failures in a row.

    ``share`` from 0 to 1 spreads them. ``asked`` is what the server wants, and is kept to. ``left`` is how
    long the certificate that is shown is good for: the nearer its end, the sooner.

    >>> [pause_after(n, 0.0, AFTER_SILENCE, asked=None, left=None) for n in (1, 2, 3, 99)]
    [10.0, 20.0, 40.0, 21600.0]
    >>> pause_after(1, 0.0, AFTER_NO, asked=3600.0, left=None)
    3600.0
    """
    pause = min(_LONGEST_PAUSE, pace.first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    if left is not None and left > 0:
        pause = min(pause, max(pace.least, left / 8))
    return max(pause * (1 + share / 5), asked or 0.0)


def window_in(document: Mapping[str, Any]) -> Window | None:
    """
    Read renewal information; ``None`` where it makes no sense (RFC 9773 §4.2).

    >>> window_in({"suggestedWindow": {"start": "1970-01-01T00:01:00Z", "end": "1970-01-01T00:02:00Z"}})
    Window(start=60.0, stop=120.0)
    >>> window_in({"suggestedWindow": {"start": "1970-01-01T00:02:00Z", "end": "1970-01-01T00:01:00Z"}})
    """
    span = document.get("suggestedWindow")
    if not isinstance(span, Mapping):
        return None
    try:
        window = Window(_moment(span.get("start")), _moment(span.get("end")))
    except (ValueError, TypeError, OverflowError):
        return None
    return window if window.start <= window.stop else None


def renewal_name(certificate: Certificate) -> str | None:
    """
    By what name the server knows a certificate for renewal (RFC 9773 §4.1); ``None`` where it has none.
    """
    try:
        authority = certificate.extensions.get_extension_for_class(AuthorityKeyIdentifier).value
    except (ExtensionNotFound, ValueError):
        return None
    if authority.key_identifier is None:
        return None
    number = certificate.serial_number
    encoded = base64url_encode(number.to_bytes(number.bit_length() // 8 + 1, "big"))
    return f"{base64url_encode(authority.key_identifier)}.{encoded}"


def moment(seconds: float) -> str:
    """
    A time for people.

    >>> moment(0.0)
    '1970-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _moment(text: object) -> float:
    if not isinstance(text, str):
        raise TypeError
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return float(moment.timestamp())
