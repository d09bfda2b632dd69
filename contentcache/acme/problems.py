"""
What can go wrong on the way to a certificate, in words, each with what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

_PREFIX: Final = "urn:ietf:params:acme:error:"
#: What a server says is a sentence or two; a hostile one shall not fill the log.
_LONGEST: Final = 500

#: What to do, by the server's kind of problem (RFC 8555 §6.7).
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


#: The same where the account is looked at, and no host.
BINDING_REFUSED: Final = (
    "look at letsencrypt.eab: kid and hmackey must be the two that the certificate authority has given you"
)
ACCOUNT_REFUSED: Final = "it is the account that is refused, and no host; ask the certificate authority why"


@frozen
class Problem:
    """
    A problem document of an ACME server (RFC 7807, RFC 8555 §6.7). ``kind`` is without the common prefix.
    """

    kind: str = ""
    detail: str = ""
    subproblems: tuple[Problem, ...] = ()

    @property
    def remedy(self) -> str:
        """
        What to do, empty where nobody knows.
        """
        found = _REMEDIES.get(self.kind, "")
        return found or next((each.remedy for each in self.subproblems if each.remedy), "")

    def __str__(self) -> str:
        """
        >>> str(Problem("dns", "NXDOMAIN looking up A for cache.example.com"))
        'NXDOMAIN looking up A for cache.example.com (dns)'
        """
        said = f"{self.detail} ({self.kind})" if self.detail and self.kind else self.detail or self.kind
        below = "; ".join(str(each) for each in self.subproblems)
        return (f"{said}: {below}" if below else said) or "no reason is given"


def problem_in(document: object, depth: int = 2) -> Problem:
    """
    Read a problem document, whatever it may be.

    >>> problem_in({"type": "urn:ietf:params:acme:error:badNonce", "detail": "unknown nonce"})
    Problem(kind='badNonce', detail='unknown nonce', subproblems=())
    >>> problem_in([])
    Problem(kind='', detail='', subproblems=())
    """
    if not isinstance(document, dict):
        return Problem()
    kind = _words(document.get("type")).removeprefix(_PREFIX)
    detail = _words(document.get("detail")) or _words(document.get("title"))
    listed: Any = document.get("subproblems")
    below = listed[:10] if isinstance(listed, list) and depth else []
    return Problem(
        "" if kind == "about:blank" else kind, detail, tuple(problem_in(each, depth - 1) for each in below)
    )


def _words(value: object) -> str:
    """
    A text in one line that is safe to log.
    """
    if not isinstance(value, str):
        return ""
    line = " ".join(value[:_LONGEST].split())
    return "".join(letter if letter.isprintable() else "?" for letter in line).rstrip(".")


class AcmeFault(Exception):
    """
    A certificate cannot be had now. ``says`` is what happened and ``remedy`` what to do, both without a full
    stop.

    ``retry_after`` is for how many seconds the server wants to be left alone; ``is_refusal`` that the server
    has looked at what was asked, and said no: such questions count against its limits.
    """

    def __init__(
        self,
        says: str,
        remedy: str = "",
        *,
        retry_after: float | None = None,
        is_refusal: bool = False,
        problem: Problem | None = None,
    ) -> None:
        super().__init__(f"{says}; {remedy}" if remedy else says)
        self.says = says
        self.remedy = remedy
        self.retry_after = retry_after
        self.is_refusal = is_refusal
        self.problem = problem


class ServerAway(AcmeFault):
    """The ACME server cannot be reached, or makes no sense."""


class AnswerLost(ServerAway):
    """The connection broke off after a question: what was asked may have been done, and count."""


class Refused(AcmeFault):
    """The ACME server has answered with a problem."""


class ChallengeFailed(AcmeFault):
    """The ACME server could not convince itself that a host is ours."""


class ChallengeUnavailable(AcmeFault):
    """The ACME server offers no challenge that can be answered here."""


class Wasted(AcmeFault):
    """The ACME server has made a certificate, and it is of no use."""


class Unreadable(Wasted):
    """The ACME server has made a certificate, and gives something else instead."""


class DueAlready(Wasted):
    """The certificate can be used, and is to be renewed as soon as it is there."""


class ClockWrong(AcmeFault):
    """The clock of this machine and that of the ACME server do not agree."""


class StoreFault(AcmeFault):
    """The folder of the certificates cannot be used."""
