"""Why a certificate cannot be issued, and what an operator can do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

_PREFIX: Final = "urn:ietf:params:acme:error:"
#: Longest text of a problem document that is logged, in characters: a hostile server must not fill the log.
_MAX_TEXT: Final = 500

#: What to do, by error type of the ACME server (RFC 8555 §6.7).
_REMEDIES: Final[Mapping[str, str]] = {
    "badNonce": "nothing is to be done here",
    "caa": "the DNS record CAA of this host must permit this certificate authority",
    "connection": (
        "the certificate authority must reach this host: look at its DNS records, at firewalls, and whether "
        "ports 443 (tls-alpn-01) or 80 (http-01) lead here"
    ),
    "dns": "this host must have DNS records A or AAAA that the certificate authority can see",
    "externalAccountRequired": (
        "this certificate authority needs letsencrypt.eab, kid and hmackey of your account there"
    ),
    "incorrectResponse": (
        "somebody else answers for this host: do its DNS records lead here, and to nobody else?"
    ),
    "invalidContact": "look at letsencrypt.email",
    "unsupportedContact": "look at letsencrypt.email",
    "rateLimited": "wait until the certificate authority permits it",
    "rejectedIdentifier": (
        "this certificate authority does not certify this name; look at letsencrypt.hosts"
    ),
    "tls": "this daemon must answer on port 443 of this host, and not a proxy that ends TLS",
    "unauthorized": "the answer of this host was not ours: do its DNS records lead here, and to nobody else?",
    "userActionRequired": (
        "the certificate authority wants something of a person first: visit the page it names"
    ),
}

#: What to do where the error is about the account, not about a host.
BINDING_REMEDY: Final = (
    "look at letsencrypt.eab: kid and hmackey must be the two that the certificate authority has given you"
)
ACCOUNT_REMEDY: Final = "it is the account that is refused, and no host; ask the certificate authority why"


@frozen
class Problem:
    """
    A problem document of an ACME server (RFC 7807, RFC 8555 §6.7); ``kind`` is its type without the common
    prefix.
    """

    kind: str = ""
    detail: str = ""
    subproblems: tuple[Problem, ...] = ()

    @property
    def remedy(self) -> str:
        """What to do; empty for an unknown error type."""
        found = _REMEDIES.get(self.kind, "")
        return found or next((each.remedy for each in self.subproblems if each.remedy), "")

    def __str__(self) -> str:
        """
        >>> str(Problem("dns", "NXDOMAIN looking up A for cache.example.com"))
        'NXDOMAIN looking up A for cache.example.com (dns)'
        """
        text = f"{self.detail} ({self.kind})" if self.detail and self.kind else self.detail or self.kind
        subproblems = "; ".join(str(each) for each in self.subproblems)
        return (f"{text}: {subproblems}" if subproblems else text) or "no reason is given"


def parse_problem(document: object, depth: int = 2) -> Problem:
    """
    Parse a problem document; anything that is none gives an empty problem.

    >>> parse_problem({"type": "urn:ietf:params:acme:error:badNonce", "detail": "unknown nonce"})
    Problem(kind='badNonce', detail='unknown nonce', subproblems=())
    >>> parse_problem([])
    Problem(kind='', detail='', subproblems=())
    """
    if not isinstance(document, dict):
        return Problem()
    kind = _printable(document.get("type")).removeprefix(_PREFIX)
    detail = _printable(document.get("detail")) or _printable(document.get("title"))
    listed: Any = document.get("subproblems")
    subproblems = listed[:10] if isinstance(listed, list) and depth else []
    return Problem(
        "" if kind == "about:blank" else kind,
        detail,
        tuple(parse_problem(each, depth - 1) for each in subproblems),
    )


def _printable(value: object) -> str:
    """A text on one line that is safe to log."""
    if not isinstance(value, str):
        return ""
    line = " ".join(value[:_MAX_TEXT].split())
    return "".join(letter if letter.isprintable() else "?" for letter in line).rstrip(".")


class AcmeError(Exception):
    """
    A certificate cannot be issued now. ``message`` is what failed and ``remedy`` what to do, both without a
    full stop.

    ``retry_after`` is the server's ``Retry-After`` in seconds. With ``is_refusal`` the server has processed
    and refused a request: such requests count against its rate limits.
    """

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        retry_after: float | None = None,
        is_refusal: bool = False,
        problem: Problem | None = None,
    ) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
        self.retry_after = retry_after
        self.is_refusal = is_refusal
        self.problem = problem


class AcmeServerUnavailableError(AcmeError):
    """The ACME server cannot be reached, or its response cannot be parsed."""


class ResponseLostError(AcmeServerUnavailableError):
    """The connection was lost after the request: the server may have processed and counted it."""


class AcmeRefusedError(AcmeError):
    """The ACME server answered with a problem document."""


class ChallengeFailedError(AcmeError):
    """The ACME server could not validate a challenge."""


class NoChallengeError(AcmeError):
    """The ACME server offers no challenge type that this daemon can answer."""


class UnusableOrderError(AcmeError):
    """A finalized order counts against the server's rate limits, but gave no usable certificate."""


class UnreadableCertificateError(UnusableOrderError):
    """The ACME server issued a certificate, but its download is no certificate chain."""


class EarlyRenewalError(UnusableOrderError):
    """The new certificate is in use, but due for renewal already."""


class ClockSkewError(AcmeError):
    """The clocks of this machine and of the ACME server differ too much."""


class CertificateStoreError(AcmeError):
    """The certificate store cannot be read or written."""


class CertificateStoreInUseError(CertificateStoreError):
    """Another process has locked the certificate store."""
