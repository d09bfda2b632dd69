"""Authorizations, their challenges (RFC 8555 §7.1.4), and the responders that answer challenges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NoReturn, Protocol

from attrs import frozen

from contentcache.acme.errors import (
    AcmeServerUnavailableError,
    ChallengeFailedError,
    NoChallengeError,
    Problem,
    parse_problem,
)
from contentcache.core.ports import Clock
from contentcache.tls.files import Identity
from contentcache.tls.selfsigned import challenge_certificate


@frozen
class AcmeChallenge:
    """One way to prove control of a host; ``token`` is the server's random value for it."""

    kind: str
    url: str
    token: str


@frozen
class AcmeAuthorization:
    """The state of the proof for one host; ``status`` is that of RFC 8555 §7.1.6."""

    url: str
    host: str
    status: str
    challenges: tuple[AcmeChallenge, ...]
    problem: Problem | None = None

    def choose_challenge(self, kinds: Sequence[str]) -> AcmeChallenge:
        """
        The offered challenge of the first of ``kinds``.

        :raises NoChallengeError: none is offered.
        """
        for kind in kinds:
            for challenge in self.challenges:
                if challenge.kind == kind:
                    return challenge
        offered = ", ".join(sorted({challenge.kind for challenge in self.challenges})) or "none"
        raise NoChallengeError(
            f"the ACME server offers no challenge {' or '.join(kinds)} for {self.host}, but {offered}",
            "set letsencrypt.http for http-01, or leave letsencrypt.challenge out",
        )

    def fail(self) -> NoReturn:
        """:raises ChallengeFailedError: always, with the server's own reason."""
        problem = self.problem or Problem(detail=f"its status is {self.status}, without a reason")
        raise ChallengeFailedError(
            f"the ACME server could not verify {self.host}: {problem}", problem.remedy, is_refusal=True
        )


def parse_authorization(url: str, body: Mapping[str, Any]) -> AcmeAuthorization:
    """
    Parse the server's authorization object.

    :raises AcmeServerUnavailableError: it has no host or no status.
    """
    identifier, listed = body.get("identifier"), body.get("challenges")
    host = identifier.get("value") if isinstance(identifier, dict) else None
    challenges, problem = [], None
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict):
            continue
        kind, challenge_url, token = each.get("type"), each.get("url"), each.get("token")
        if isinstance(kind, str) and isinstance(challenge_url, str) and isinstance(token, str):
            challenges.append(AcmeChallenge(kind, challenge_url, token))
        if problem is None and each.get("error") is not None:
            problem = parse_problem(each["error"])
    status = body.get("status")
    if not isinstance(host, str) or not isinstance(status, str):
        raise AcmeServerUnavailableError("the ACME server's authorization is malformed")
    return AcmeAuthorization(url, host.lower(), status, tuple(challenges), problem)


class Responder(Protocol):
    """Answers challenges of one kind; ``key_authorization`` is that of RFC 8555 §8.1."""

    @property
    def kind(self) -> str: ...
    def start(self, host: str, token: str, key_authorization: str) -> None: ...
    def stop(self, host: str) -> None: ...


class ChallengePort(Protocol):
    """Presents challenge certificates: a part of :class:`contentcache.tls.hosts.HostContexts`."""

    def answer_challenge(self, host: str, identity: Identity) -> None: ...
    def remove_challenge(self, host: str) -> None: ...


class Http01Responder:
    """``http-01``: a text at a known path over plain HTTP (RFC 8555 §8.3)."""

    kind = "http-01"

    def __init__(self) -> None:
        self._answers: dict[str, tuple[str, str]] = {}

    def start(self, host: str, token: str, key_authorization: str) -> None:
        """Answer for ``host`` until :meth:`stop`."""
        self._answers[host] = (token, key_authorization)

    def stop(self, host: str) -> None:
        """Stop answering for ``host``."""
        self._answers.pop(host, None)

    def answer(self, host: str, token: str) -> str | None:
        """The body for a request for ``token`` at ``host``, ``None`` without such a challenge."""
        expected, answer = self._answers.get(host, ("", ""))
        return answer if answer and token == expected else None


class TlsAlpn01Responder:
    """``tls-alpn-01``: a certificate on the TLS port itself (RFC 8737)."""

    kind = "tls-alpn-01"

    def __init__(self, port: ChallengePort, wall: Clock) -> None:
        self._port = port
        self._wall = wall

    def start(self, host: str, token: str, key_authorization: str) -> None:  # noqa: ARG002  # the latter has it
        """Answer for ``host`` until :meth:`stop`."""
        digest = sha256(key_authorization.encode("ascii")).digest()
        now = datetime.fromtimestamp(self._wall(), UTC)
        self._port.answer_challenge(host, challenge_certificate(host, digest, now))

    def stop(self, host: str) -> None:
        """Stop answering for ``host``."""
        self._port.remove_challenge(host)
