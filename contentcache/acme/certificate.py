"""
What a certificate says: names, issuer, validity, renewal time, and whether a new one is acceptable.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Self

from attrs import frozen
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import AuthorityKeyIdentifier, Certificate, ExtensionNotFound
from cryptography.x509.oid import NameOID

from contentcache.acme.errors import UnusableOrderError
from contentcache.core.base64url import base64url_encode
from contentcache.tls.files import (
    Identity,
    KeyMismatchError,
    TLSConfigurationError,
    identity_from_pem,
    names_of,
)

#: Renewal is due when this part of the lifetime is left, or up to ``_JITTER`` of the lifetime earlier:
#: certificates that were issued at the same time are renewed at different times.
_RENEW_BEFORE: Final = 1 / 3
_JITTER: Final = 1 / 30
#: Part of the lifetime that is kept for failed attempts, whatever window the server suggests.
_RESERVE: Final = 1 / 20
#: Fewest seconds, or part of the lifetime if that is shorter, between issuance and a suggested renewal. The
#: time doubles with each early renewal in a row, up to ``_MAX_MIN_USE`` seconds.
_MIN_USE: Final = 3600.0
_MIN_USE_SHARE: Final = 1 / 10
_MAX_MIN_USE: Final = 6 * 3600.0
_MAX_DOUBLINGS: Final = 20
#: A renewal is early before this age in seconds, or part of the lifetime if that is shorter.
_EARLY: Final = 86400.0
_EARLY_SHARE: Final = 1 / 4
#: Part of the lifetime below which an operator should look why the certificate was not renewed.
_CRITICAL_SHARE: Final = 1 / 4

#: Names in a message, and letters of each.
_MAX_NAMES: Final = 5
_MAX_NAME_LENGTH: Final = 80
#: Seconds that a certificate may begin in the future, since clocks differ.
_CLOCK_TOLERANCE: Final = 60.0
#: The longest chain that OpenSSL and Go verify.
_MAX_CHAIN: Final = 10

_ASK_AUTHORITY: Final = "ask the certificate authority"


class CertificateDatesError(UnusableOrderError):
    """The certificate has expired or is not valid yet by our clock; perhaps not by the server's."""


@frozen
class RenewalWindow:
    """The time in which the server suggests to renew (RFC 9773 §4.2)."""

    start: float
    stop: float


@frozen
class Validity:
    """A certificate's validity; ``jitter`` from 0 to 1 is constant for each certificate."""

    begins: float
    ends: float
    jitter: float

    @classmethod
    def of(cls, certificate: Certificate) -> Self:
        """The validity of a certificate; its jitter is derived from its bytes, so a restart keeps it."""
        digest = sha256(certificate.public_bytes(Encoding.DER)).digest()
        return cls(
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
            int.from_bytes(digest[:4], "big") / 2**32,
        )

    @property
    def lifetime(self) -> float:
        """The length in seconds."""
        return max(0.0, self.ends - self.begins)

    def renewal_time(self, suggested: RenewalWindow | None = None) -> float:
        """
        When to renew: with a third of the lifetime left, or within the window that the server suggests.

        >>> Validity(0.0, 90.0, jitter=0.0).renewal_time()
        60.0
        >>> Validity(0.0, 90.0, jitter=0.5).renewal_time(RenewalWindow(20.0, 40.0))
        30.0
        """
        if suggested is None:
            return self.ends - self.lifetime * (_RENEW_BEFORE + _JITTER * self.jitter)
        wanted = suggested.start + (suggested.stop - suggested.start) * self.jitter
        return min(wanted, self.ends - self.lifetime * _RESERVE)

    def min_use(self, early_renewals: int = 0) -> float:
        """
        Fewest seconds before a suggested renewal, after so many early renewals in a row.

        >>> day = 86400.0
        >>> Validity(0.0, 90 * day, jitter=0.0).min_use(), Validity(0.0, 600.0, jitter=0.0).min_use()
        (3600.0, 60.0)
        """
        first = min(_MIN_USE, self.lifetime * _MIN_USE_SHARE)
        longest = min(_MAX_MIN_USE, self.lifetime * _EARLY_SHARE)
        return min(longest, first * 2.0 ** min(early_renewals, _MAX_DOUBLINGS))

    def is_early(self, age: float) -> bool:
        """Whether a renewal ``age`` seconds after issuance counts as early."""
        return age < min(_EARLY, self.lifetime * _EARLY_SHARE)

    def is_critical(self, now: float) -> bool:
        """Whether so little time is left that renewal must have failed."""
        return self.ends - now < self.lifetime * _CRITICAL_SHARE

    def includes(self, now: float) -> bool:
        """Whether clients accept the dates now."""
        return self.begins <= now + _CLOCK_TOLERANCE and now < self.ends


def parse_renewal_window(document: Mapping[str, Any]) -> RenewalWindow | None:
    """
    Parse renewal information; ``None`` where it is malformed (RFC 9773 §4.2).

    >>> window = {"start": "1970-01-01T00:01:00Z", "end": "1970-01-01T00:02:00Z"}
    >>> parse_renewal_window({"suggestedWindow": window})
    RenewalWindow(start=60.0, stop=120.0)
    >>> parse_renewal_window({"suggestedWindow": {**window, "end": "1970-01-01T00:00:30Z"}})
    """
    found = document.get("suggestedWindow")
    if not isinstance(found, Mapping):
        return None
    try:
        window = RenewalWindow(_parse_time(found.get("start")), _parse_time(found.get("end")))
    except (ValueError, TypeError, OverflowError):
        return None
    return window if window.start <= window.stop else None


def certificate_id(certificate: Certificate) -> str | None:
    """The identifier for renewal information (RFC 9773 §4.1); ``None`` without an authority key."""
    try:
        authority = certificate.extensions.get_extension_for_class(AuthorityKeyIdentifier).value
    except (ExtensionNotFound, ValueError):
        return None
    if authority.key_identifier is None:
        return None
    number = certificate.serial_number
    encoded = base64url_encode(number.to_bytes(number.bit_length() // 8 + 1, "big"))
    return f"{base64url_encode(authority.key_identifier)}.{encoded}"


def issuer_of(certificate: Certificate) -> str:
    """The issuer's name for people."""
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in certificate.issuer.get_attributes_for_oid(kind):
            return str(attribute.value)
    return certificate.issuer.rfc4514_string() or "nobody"


def matches_host(certificate: Certificate, host: str) -> bool:
    """Whether a certificate names ``host``, also by a wildcard (RFC 6125 §6.4.3)."""
    names = names_of(certificate)
    return host in names or f"*.{host.partition('.')[2]}" in names


def format_names(names: list[str]) -> str:
    """The first names, printable: the server or whoever wrote the file has chosen them."""
    shown = [_printable(name[:_MAX_NAME_LENGTH]) for name in names[:_MAX_NAMES]]
    more = [f"{len(names) - _MAX_NAMES} more"] if len(names) > _MAX_NAMES else []
    return ", ".join([*shown, *more]) or "no name"


def format_time(seconds: float) -> str:
    """
    A time for people.

    >>> format_time(0.0)
    '1970-01-01 00:00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def check_certificate(
    host: str, pem: bytes, old: Identity | None, *, now: float, skew: float, clock: str
) -> Identity:
    """
    Check the key and chain in ``pem`` that the server has issued for ``host``.

    ``now`` is by our clock, and the server's is ``skew`` seconds ahead; ``clock`` describes a large skew.
    Where the certificate is valid by the server's clock only, it is accepted unless ``old`` is still valid.

    :raises UnusableOrderError: it is not what was ordered.
    """
    try:
        identity = identity_from_pem(f"the new certificate for {host}", pem)
    except KeyMismatchError as differs:
        raise UnusableOrderError(
            "the ACME server has certified another key than the one that was asked for", _ASK_AUTHORITY
        ) from differs
    except TLSConfigurationError as fault:
        raise UnusableOrderError(fault.message, _ASK_AUTHORITY) from fault
    leaf = identity.chain[0]
    names = names_of(leaf)
    if host not in names:
        raise UnusableOrderError(
            f"the ACME server has certified {format_names(names)}, and not {host}", _ASK_AUTHORITY
        )
    others = [name for name in names if name != host]
    if others:
        raise UnusableOrderError(
            f"the ACME server has certified {format_names(others)} with {host}, which was not asked for",
            _ASK_AUTHORITY,
        )
    if len(identity.chain) > _MAX_CHAIN:
        raise UnusableOrderError(
            f"the ACME server has given a chain of {len(identity.chain)} certificates, and no client takes "
            f"more than {_MAX_CHAIN}",
            _ASK_AUTHORITY,
        )
    validity = Validity.of(leaf)
    old_is_valid = old is not None and Validity.of(old.chain[0]).includes(now)
    if validity.includes(now) or (validity.includes(now + skew) and not old_is_valid):
        return identity
    dates = (
        f"has ended {format_time(validity.ends)}"
        if validity.ends <= now
        else f"begins only {format_time(validity.begins)}"
    )
    raise CertificateDatesError(
        f"the ACME server has given a certificate that {dates}{'; ' if clock else ''}{clock}",
        "set the clock" if clock else _ASK_AUTHORITY,
    )


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _parse_time(text: object) -> float:
    if not isinstance(text, str):
        raise TypeError
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(text)
    return float(found.timestamp())
