"""
What an ACME server wants to see before it believes that a host is ours (RFC 8555 §7.1.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from attrs import frozen

from contentcache.acme.problems import ChallengeFailed, ChallengeUnavailable, Problem, ServerAway, problem_in


@frozen
class Challenge:
    """
    One way to prove a host; ``token`` is what the server made up for it.
    """

    kind: str
    url: str
    token: str


@frozen
class Authorization:
    """
    The server's word that a host is ours, or how to get it. ``status`` is that of RFC 8555 §7.1.6.
    """

    url: str
    host: str
    status: str
    challenges: tuple[Challenge, ...]
    problem: Problem | None = None


def chosen(authorization: Authorization, kinds: Sequence[str]) -> Challenge:
    """
    The challenge to answer, the first of ``kinds`` that is offered.

    :raises ChallengeUnavailable: there is none.
    """
    for kind in kinds:
        for challenge in authorization.challenges:
            if challenge.kind == kind:
                return challenge
    offered = ", ".join(sorted({challenge.kind for challenge in authorization.challenges})) or "none"
    raise ChallengeUnavailable(
        f"the ACME server offers no challenge {' or '.join(kinds)} for {authorization.host}, but {offered}",
        "set letsencrypt.http for http-01, or leave letsencrypt.challenge out",
    )


def fail(authorization: Authorization) -> NoReturn:
    """
    :raises ChallengeFailed: always, with the server's own reason.
    """
    problem = authorization.problem or Problem(detail=f"it says {authorization.status}, and not why")
    raise ChallengeFailed(
        f"the ACME server could not verify {authorization.host}: {problem}", problem.remedy, is_refusal=True
    )


def authorization_in(url: str, body: Mapping[str, Any]) -> Authorization:
    """
    Read what the server says of a host.

    :raises ServerAway: it makes no sense.
    """
    identifier, listed = body.get("identifier"), body.get("challenges")
    host = identifier.get("value") if isinstance(identifier, dict) else None
    challenges, problem = [], None
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict):
            continue
        kind, where, token = each.get("type"), each.get("url"), each.get("token")
        if isinstance(kind, str) and isinstance(where, str) and isinstance(token, str):
            challenges.append(Challenge(kind, where, token))
        if problem is None and each.get("error") is not None:
            problem = problem_in(each["error"])
    status = body.get("status")
    if not isinstance(host, str) or not isinstance(status, str):
        raise ServerAway("the ACME server's authorization makes no sense")
    return Authorization(url, host.lower(), status, tuple(challenges), problem)
