"""What is asked of a judge, and what it answers."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from contentcache.core.errors import CacheError
from contentcache.persist.atomic_file import UnusableFileError


@frozen
class Need:
    """
    What a request needs: ``type`` is ``repository`` or ``registry``, ``action`` is ``pull`` or ``*``.

    A catalogue needs ``Need("registry", "catalog", "*")``; ``/v2/`` needs nothing but a name.

    >>> Need("repository", "org/app", "pull").scope
    'repository:org/app:pull'
    """

    type: str
    name: str
    action: str

    @property
    def scope(self) -> str:
        """The need in the words of a challenge."""
        return f"{self.type}:{self.name}:{self.action}"


@frozen
class Identity:
    """Who has been let in: a user's name or a token's ``sub``, as it came, and perhaps empty."""

    name: str


class Unauthorized(CacheError):
    """
    Who asks has shown no credentials, wrong ones, or such as do not reach so far.

    The registry answers all three with 401 and the same sentence, and names the needs as ``detail``.
    ``reason`` is for the log, and repeats nothing of what was shown.
    """

    code = "UNAUTHORIZED"
    status = 401

    def __init__(self, reason: str, challenge: str, need: Need | None) -> None:
        super().__init__(
            "authentication required",
            detail=None if need is None else [_as_the_registry_says_it(need)],
            headers={"WWW-Authenticate": challenge},
        )
        self.reason = reason


class AccountsUnavailable(CacheError):
    """The file of users cannot be read, so nobody can be told from a stranger."""

    code = "UNAVAILABLE"
    status = 503


class AuthFault(UnusableFileError):
    """A file or a setting of the section ``auth`` cannot be used. ``message`` is a sentence that names it."""


class Judge(Protocol):
    """Decides about requests, one at a time."""

    async def admit(
        self, authorization: str | None, need: Need | None, base: str, address: str = ""
    ) -> Identity:
        """
        Let a request in, or raise why not.

        :param authorization: the header's value, ``None`` where there is none.
        :param need: ``None`` for ``/v2/``, which anybody may see who is somebody.
        :param base: scheme and host as the client has asked for them (``https://cache:5000``).
        :param address: the client's, so that one of them cannot take all turns at what is slow.
        :raises Unauthorized: no.
        :raises AccountsUnavailable, Overloaded: it cannot be told now.
        """
        ...

    def remembers(self, authorization: str | None, need: Need) -> bool:
        """Whether :meth:`admit` would let this in by what is in memory; ``False`` where it would have to look."""
        ...


def quoted(text: str) -> str:
    """
    A quoted-string (RFC 9110 §5.6.4), without the characters that cannot be in one.

    >>> print(quoted('the "best" cache'))
    "the \\"best\\" cache"
    """
    visible = "".join(character for character in text if character.isprintable())
    return '"' + visible.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _as_the_registry_says_it(need: Need) -> dict[str, str]:
    return {"Type": need.type, "Class": "", "Name": need.name, "Action": need.action}
