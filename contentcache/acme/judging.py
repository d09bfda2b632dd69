"""
Whether a new certificate is one to show: for the host, with our key, and good now.
"""

from __future__ import annotations

from typing import Final

from cryptography.x509 import Certificate

from contentcache.acme.errors import UnusableOrderError
from contentcache.acme.names import names_of, said
from contentcache.acme.timing import Span, moment
from contentcache.tls.files import Identity, KeyDiffers, TLSFault, identity_in

#: A certificate may begin so many seconds from now: no two clocks are quite the same.
_NEARLY: Final = 60.0
#: What OpenSSL and Go believe, and more than any authority has.
_LONGEST_CHAIN: Final = 10


class CertificateDatesError(UnusableOrderError):
    """The certificate is over, or begins later, by our clock; perhaps not by the server's."""


def judged(host: str, pem: bytes, old: Identity | None, *, now: float, skew: float, clock: str) -> Identity:
    """
    What is in ``pem``: a key, and the chain that the server has made for it and ``host``.

    ``now`` is by our clock, and the server's is ``skew`` seconds ahead, as ``clock`` says where that is much.
    Where the two do not agree and the ``old`` certificate is good by ours, that stays.

    :raises UnusableOrderError: it is not what was asked for.
    """
    try:
        identity = identity_in(f"the new certificate for {host}", pem)
    except KeyDiffers as differs:
        raise UnusableOrderError(
            "the ACME server has certified another key than the one that was asked for",
            "ask the certificate authority",
        ) from differs
    except TLSFault as fault:
        raise UnusableOrderError(fault.message, "ask the certificate authority") from fault
    leaf = identity.chain[0]
    names = names_of(leaf)
    if host not in names:
        raise UnusableOrderError(
            f"the ACME server has certified {said(names)}, and not {host}", "ask the certificate authority"
        )
    others = [name for name in names if name != host]
    if others:
        raise UnusableOrderError(
            f"the ACME server has certified {said(others)} with {host}, which was not asked for",
            "ask the certificate authority",
        )
    if len(identity.chain) > _LONGEST_CHAIN:
        raise UnusableOrderError(
            f"the ACME server has given a chain of {len(identity.chain)} certificates, and no client takes "
            f"more than {_LONGEST_CHAIN}",
            "ask the certificate authority",
        )
    if is_good(leaf, now):
        return identity
    if is_good(leaf, now + skew) and (old is None or not is_good(old.chain[0], now)):
        # It is our clock that is wrong, or nothing is lost.
        return identity
    span = Span.of(leaf)
    dates = f"has ended {moment(span.ends)}" if span.ends <= now else f"begins only {moment(span.begins)}"
    raise CertificateDatesError(
        f"the ACME server has given a certificate that {dates}{'; ' if clock else ''}{clock}",
        "set the clock" if clock else "ask the certificate authority",
    )


def is_good(certificate: Certificate, now: float) -> bool:
    """
    Whether clients would believe a certificate's dates.
    """
    span = Span.of(certificate)
    return span.begins <= now + _NEARLY and now < span.ends
