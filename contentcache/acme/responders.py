"""
What the ACME server finds when it looks whether a host is ours.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

from contentcache.core.ports import Clock
from contentcache.tls.files import Identity
from contentcache.tls.selfsigned import challenge_answer


class Responder(Protocol):
    """
    Answers challenges of one kind; ``key_authorization`` is that of RFC 8555 §8.1.
    """

    @property
    def kind(self) -> str: ...
    def start(self, host: str, token: str, key_authorization: str) -> None: ...
    def stop(self, host: str) -> None: ...


class Port(Protocol):
    """
    A TLS port, as much of :class:`contentcache.tls.hosts.HostContexts` as is used.
    """

    def answer_challenge(self, host: str, identity: Identity) -> None: ...
    def forget_challenge(self, host: str) -> None: ...


class HttpAnswers:
    """
    ``http-01``: a text at a known path over plain HTTP (RFC 8555 §8.3).
    """

    kind = "http-01"

    def __init__(self) -> None:
        self._answers: dict[str, tuple[str, str]] = {}

    def start(self, host: str, token: str, key_authorization: str) -> None:
        """Answer for ``host`` from now on."""
        self._answers[host] = (token, key_authorization)

    def stop(self, host: str) -> None:
        """Do so no longer."""
        self._answers.pop(host, None)

    def answer(self, host: str, token: str) -> str | None:
        """
        What to say to who asks ``host`` for ``token``.
        """
        expected, answer = self._answers.get(host, ("", ""))
        return answer if answer and token == expected else None


class AlpnAnswers:
    """
    ``tls-alpn-01``: a certificate on the TLS port itself (RFC 8737).
    """

    kind = "tls-alpn-01"

    def __init__(self, port: Port, wall: Clock) -> None:
        self._port = port
        self._wall = wall

    def start(self, host: str, token: str, key_authorization: str) -> None:  # noqa: ARG002  # it is in the latter
        """Answer for ``host`` from now on."""
        digest = sha256(key_authorization.encode("ascii")).digest()
        now = datetime.fromtimestamp(self._wall(), UTC)
        self._port.answer_challenge(host, challenge_answer(host, digest, now))

    def stop(self, host: str) -> None:
        """Do so no longer."""
        self._port.forget_challenge(host)
